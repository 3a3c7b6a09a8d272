"""Draws and log-densities of a prior, torch code, called back from JAX: under jit and vmap, and the
log-density with torch's gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from smcguide.draws import draw, rehearse
from smcguide.grids import karras
from smcguide.kernels import MatchedDDPM
from smcguide.priors.base import Prior

Density = Callable[[Prior, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """What a DiffusionPrior is made of; JAX compares it to know what it has compiled already."""

    prior: Prior
    grid: karras
    density: Density | None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Source)
            and self.prior is other.prior
            and (self.grid, self.density) == (other.grid, other.density)
        )

    def __hash__(self) -> int:
        return hash((id(self.prior), self.grid))


@dataclass(frozen=True)
class Draw:
    """Called by JAX with two random words: draws of sample_shape."""

    source: Source
    sample_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self, words: Any) -> np.ndarray[Any, Any]:
        prior = self.source.prior
        high, low = (int(word) for word in np.asarray(words))
        generator = torch.Generator(prior.device).manual_seed(high << 32 | low)
        levels = [prior.schedule.level(float(t)) for t in self.source.grid(prior.schedule)]
        kernel = MatchedDDPM().bind(rehearse(prior))
        num = int(np.prod(self.sample_shape, dtype=int))
        x = draw(prior, kernel, levels, num, generator)
        return x.cpu().numpy().astype(self.dtype).reshape(*self.sample_shape, *prior.event_shape)


@dataclass(frozen=True)
class _Density:
    """Called by JAX with events (..., *E): their log-densities (...), and the gradient (..., *E)."""

    source: Source
    gradient: bool

    def __call__(self, value: Any) -> Any:
        array, prior = np.asarray(value), self.source.prior
        x = torch.tensor(array, dtype=prior.dtype, device=prior.device)
        x = x.reshape(-1, *prior.event_shape).requires_grad_(self.gradient)
        density = self.source.density or _own_density
        with torch.set_grad_enabled(self.gradient):
            log_p = density(prior, x)
        batch_shape = array.shape[: array.ndim - len(prior.event_shape)]
        values = log_p.detach().cpu().numpy().astype(array.dtype).reshape(batch_shape)
        if not self.gradient:
            return values
        (slope,) = torch.autograd.grad(log_p.sum(), x)
        return values, slope.cpu().numpy().astype(array.dtype).reshape(array.shape)


def _own_density(prior: Any, x: Tensor) -> Tensor:
    return prior.log_prob(x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_density(source: Source, x: jax.Array) -> jax.Array:
    values, _ = _shapes(source, x)
    return jax.pure_callback(_Density(source, False), values, x, vmap_method="expand_dims")


@log_density.defjvp
def _log_density_jvp(source: Source, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    call = _Density(source, True)
    value, slope = jax.pure_callback(call, _shapes(source, x), x, vmap_method="expand_dims")
    axes = tuple(range(value.ndim, x.ndim))
    return value, jnp.sum(slope * dx, axes)


def _shapes(source: Source, x: jax.Array) -> tuple[Any, Any]:
    """Of the log-densities and of their gradient."""
    batch_shape = x.shape[: x.ndim - len(source.prior.event_shape)]
    return struct(batch_shape, x.dtype), struct(x.shape, x.dtype)


def struct(shape: tuple[int, ...], dtype: Any) -> Any:
    """What JAX is told of a result."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call, unused-ignore]
