"""What the sites of a NumPyro program are to inference, and their values as two flat vectors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcguide.bridges.program import PriorSite
from smcguide.errors import InvalidInput

_LARGEST_CHOICE = 4096


@dataclass(frozen=True)
class Continuous:
    """A continuous latent: its value is transform(u), u of `shape` on unconstrained space."""

    name: str
    shape: tuple[int, ...]
    transform: Any


@dataclass(frozen=True)
class Discrete:
    """A discrete latent: each entry takes one of `values`."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sites:
    """The sites of a program, each group in the program's order.

    Attributes:
        priors: those with a diffusion prior.
        continuous, discrete: the other latents; theta and the choice are their entries in this order.
        observed: data by site, without factors.
        factors: names of the observed sites that have no data.
        params: values of `numpyro.param`.
    """

    priors: Mapping[str, PriorSite]
    continuous: tuple[Continuous, ...]
    discrete: tuple[Discrete, ...]
    observed: Mapping[str, Any]
    factors: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def latents(self) -> list[str]:
        """Names of the latents without a diffusion prior."""
        sites: list[Continuous | Discrete] = [*self.continuous, *self.discrete]
        return [site.name for site in sites]

    @property
    def names(self) -> set[str]:
        """Of all sample sites."""
        return {*self.priors, *self.latents, *self.observed, *self.factors}

    @property
    def size(self) -> int:
        """Number of entries of theta."""
        return sum(math.prod(site.shape) for site in self.continuous)

    def values(self, theta: jax.Array, choice: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Latents of one particle in the program's space, and their log-Jacobians.

        Arguments:
            theta: (p,).
            choice: (q,).
        """
        values, jacobians = {}, {}
        for site, u in zip(self.continuous, _split(theta, self.continuous), strict=True):
            value = site.transform(u)
            values[site.name] = value
            jacobians[site.name] = jnp.sum(site.transform.log_abs_det_jacobian(u, value))
        for label, entries in zip(self.discrete, _split(choice, self.discrete), strict=True):
            values[label.name] = entries.astype(label.dtype)
        return values, jacobians

    def theta(self, values: Mapping[str, Any]) -> jax.Array:
        """(p,) of the values of all continuous latents."""
        parts = [jnp.ravel(s.transform.inv(values[s.name])) for s in self.continuous]
        return jnp.concatenate([jnp.zeros(0), *parts])

    def choices(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(J, q), every joint value of the discrete latents.

        Raises:
            InvalidInput: for more than 4096.
        """
        total = math.prod(len(s.values) ** math.prod(s.shape) for s in self.discrete)
        if total > _LARGEST_CHOICE:
            sizes = [
                f"{s.name!r} of shape {s.shape}, {len(s.values)} values" for s in self.discrete
            ]
            raise InvalidInput(
                f"NumPyroProgram: the discrete latents have {total} joint values ({'; '.join(sizes)}), "
                f"and at most {_LARGEST_CHOICE} are enumerated. Sum labels of single data out in the "
                "model, with numpyro.distributions.MixtureSameFamily for example."
            )
        entries = [s.values for s in self.discrete for _ in range(math.prod(s.shape))]
        return np.array(list(product(*entries)), dtype=np.float64).reshape(total, len(entries))


def _split(flat: jax.Array, sites: Sequence[Continuous | Discrete]) -> list[jax.Array]:
    """The entries of each site, in its shape."""
    bounds = accumulate([math.prod(site.shape) for site in sites], initial=0)
    pairs = zip(pairwise(bounds), sites, strict=True)
    return [flat[a:b].reshape(site.shape) for (a, b), site in pairs]
