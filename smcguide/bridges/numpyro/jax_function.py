r"""A JAX function as a torch function, differentiable once.

For f of one particle the torch function evaluates jit(vmap(f)) on M particles; its backward pass is
jit(vmap(v -> J_f(a)^T v)), the vector-Jacobian product at the same arguments.

Processes that use JAX must be spawned, not forked: JAX runs threads, which a fork leaves locked.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from smcguide.bridges.numpyro.batches import CHUNK_SIZE, Batched
from smcguide.errors import InvalidInput

_ONCE = (
    "A JAX function can be differentiated once from torch, in reverse mode: take second derivatives and "
    "Jacobian-vector products inside JAX (jax.hessian, jax.jvp) and make a JaxFunction of those."
)


class JaxFunction:
    """A JAX function of one particle as a torch function of M particles.

        >>> import torch, jax.numpy as jnp
        >>> f = JaxFunction(lambda x, s: {"log_prob": -jnp.sum(x**2) / (2 * s**2)})
        >>> f(torch.ones(5, 3), torch.full((5,), 2.0))["log_prob"].shape
        torch.Size([5])

    Arguments:
        f: arrays of one particle -> an array, or a tuple, list or dict of arrays, traceable by
            jax.jit and jax.vmap.
        chunk_size: most particles evaluated at once.
        loop: evaluate one particle after the other, not compiled, for functions that cannot be traced.
        has_gradient: False for functions that JAX cannot differentiate; results then carry none.

    Raises:
        InvalidInput: for a chunk_size below 1.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        *,
        chunk_size: int = CHUNK_SIZE,
        loop: bool = False,
        has_gradient: bool = True,
    ) -> None:
        self._f, self._chunk_size, self._loop = _like_first(f), chunk_size, loop
        self._has_gradient = has_gradient
        self._values = Batched(self._f, chunk_size, loop)
        self._pulls: dict[tuple[bool, ...], Batched] = {}
        platforms = {device.platform for device in jax.devices()}
        if takes_gpu_memory(platforms, os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE")):
            warnings.warn(
                "JAX takes most of the GPU's memory at its first use. Set the environment variable "
                "XLA_PYTHON_CLIENT_PREALLOCATE=false before Python starts, or JAX_PLATFORMS=cpu.",
                stacklevel=2,
            )

    def __call__(self, *arrays: Tensor) -> Any:
        """What f returns, with an axis M in front of every array, differentiable by autograd.

        Arguments:
            arrays: (M, ...) on the CPU, float32 or float64; results have their (widest) dtype, and
                float64 is computed in float64 without touching JAX's global switch.

        Raises:
            InvalidInput: for other devices and dtypes, for lengths that differ, under torch.func.vmap,
                for a second derivative.
        """
        dtype = _common_dtype(arrays)
        with torch.set_grad_enabled(self._has_gradient and torch.is_grad_enabled()):
            leaves = _Apply.apply(self, *(a.to(dtype) for a in arrays))  # type: ignore[no-untyped-call]
        return jax.tree.unflatten(self._values.structure, leaves)

    def values(self, arrays: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Leaves of the results, without a graph."""
        return tuple(self._values(arrays, arrays[0].dtype))

    def pull(
        self, needed: tuple[bool, ...], cotangents: tuple[Tensor, ...], arrays: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products for the arguments that need one, None for the others."""
        if needed not in self._pulls:
            product = _vjp(self._f, needed, len(cotangents))
            self._pulls[needed] = Batched(product, self._chunk_size, self._loop)
        found = iter(self._pulls[needed]((*cotangents, *arrays), arrays[0].dtype))
        return tuple(next(found) if need else None for need in needed)


def takes_gpu_memory(platforms: set[str], preallocate: str | None) -> bool:
    """Whether JAX will reserve most of a GPU: it sees one and was not told otherwise."""
    return not platforms.isdisjoint({"gpu", "cuda", "rocm"}) and preallocate is None


def _like_first(f: Callable[..., Any]) -> Callable[..., Any]:
    """f with results in the dtype of its first argument."""

    def cast(*arrays: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(arrays[0].dtype), f(*arrays))

    return cast


def _vjp(f: Callable[..., Any], needed: tuple[bool, ...], num: int) -> Callable[..., Any]:
    """(num cotangents, arguments of f) -> products for the arguments that are needed."""

    def product(*cotangents_and_arrays: jax.Array) -> Any:
        cotangents, arrays = cotangents_and_arrays[:num], cotangents_and_arrays[num:]

        def leaves(*moving: jax.Array) -> list[jax.Array]:
            rest = iter(moving)
            pairs = zip(needed, arrays, strict=True)
            return jax.tree.leaves(f(*(next(rest) if need else a for need, a in pairs)))

        moving = [a for need, a in zip(needed, arrays, strict=True) if need]
        return jax.vjp(leaves, *moving)[1](list(cotangents))

    return product


def _common_dtype(arrays: tuple[Tensor, ...]) -> torch.dtype:
    if not arrays or not all(isinstance(a, Tensor) and a.ndim for a in arrays):
        kinds = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in arrays]
        raise InvalidInput(f"JaxFunction: expected tensors of shape (M, ...), got {kinds}.")
    lengths = {len(a) for a in arrays}
    if len(lengths) > 1 or 0 in lengths:
        shapes = [tuple(a.shape) for a in arrays]
        raise InvalidInput(
            f"JaxFunction: arguments need the same number M >= 1 of particles, got shapes {shapes}."
        )
    for a in arrays:
        if a.device.type != "cpu":
            raise InvalidInput(
                f"JaxFunction: a tensor on {a.device}; give tensors on the CPU: x.cpu()."
            )
        if a.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(
                f"JaxFunction: a tensor of {a.dtype}; float32 and float64 are possible: x.float()."
            )
    wide = any(a.dtype == torch.float64 for a in arrays)
    return torch.float64 if wide else torch.float32


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(function: JaxFunction, *arrays: Tensor) -> tuple[Tensor, ...]:
        return function.values(arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = (*cotangents, *ctx.saved_tensors)
        products = _Pull.apply(ctx.function, needed, *tensors)  # type: ignore[no-untyped-call]
        return None, *products

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        raise InvalidInput(
            "A JaxFunction is batched over its first axis already: call it on tensors (M, ...) outside "
            "torch.func.vmap, with further axes folded into M."
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise InvalidInput(_ONCE)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(function: JaxFunction, needed: tuple[bool, ...], *tensors: Tensor) -> Any:
        num = len(tensors) - len(needed)
        return function.pull(needed, tensors[:num], tensors[num:])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise InvalidInput(_ONCE)

    vmap, jvp = _Apply.vmap, _Apply.jvp
