"""A JAX function of one particle applied to a batch of torch tensors, compiled a handful of times.

Particles go through jit(vmap(f)) in chunks of chunk_size rows; what is left over is padded, with copies
of its last row, to the smallest of chunk_size, chunk_size / 4, chunk_size / 16, ... that holds it. No
batch size recompiles once these few sizes are there, and padding costs at most a factor of four.

Tensors are shared both ways by DLPack and never at the same time: JAX computes asynchronously, so its
results are waited for before torch goes on, and copied, since JAX takes its arrays to be immutable.
Float64 is in JAX a switch; it is turned on for the one call that needs it and nowhere else.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import torch
from torch import Tensor

from smcguide.errors import InvalidInput

CHUNK_SIZE = 1024


def precision(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """JAX as it is for float32; for float64 with 64-bit numbers inside, whatever the global switch."""
    if dtype != torch.float64:
        return nullcontext()
    here: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # until JAX 0.7
    return here.enable_x64(True)


def to_jax(x: Tensor) -> jax.Array:
    """The same numbers for JAX, without a copy where JAX can take them; inside `precision`."""
    return jax.dlpack.from_dlpack(x.detach().contiguous())


def to_torch(x: jax.Array) -> Tensor:
    """The same numbers for torch, sharing memory that torch must not write to; inside `precision`."""
    return torch.utils.dlpack.from_dlpack(x.block_until_ready())


def looped(f: Callable[..., Any]) -> Callable[..., Any]:
    """What vmap(f) gives, by a Python loop over particles."""

    def loop(*arrays: jax.Array) -> Any:
        rows = [f(*row) for row in zip(*arrays, strict=True)]
        return jax.tree.map(
            lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *rows
        )

    return loop


class Batched:
    """A function of one particle over M particles, without a graph.

    Arguments:
        f: arrays of one particle -> arrays, in any structure of tuples, lists and dicts.
        chunk_size: most particles evaluated at once.
        loop: one particle after the other, not compiled.
        one_size: always pad to chunk_size, for functions called a few times, whose compilation costs
            more than the padding.

    Attributes:
        structure: of the results, known after the first call.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        chunk_size: int = CHUNK_SIZE,
        loop: bool = False,
        one_size: bool = False,
    ) -> None:
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise InvalidInput(
                f"chunk_size must be a whole number of at least 1, got {chunk_size}."
            )
        self._chunk_size, self._loop, self._one_size = chunk_size, loop, one_size
        self._f = looped(f) if loop else jax.jit(jax.vmap(f))
        self.structure: Any = None

    def __call__(self, arrays: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Leaves of the results, (M, ...) each, computed in the precision of `dtype`.

        Arguments:
            arrays: (M, ...) on the CPU, M >= 1.
        """
        parts = []
        with precision(dtype):
            for rows in zip(*(a.detach().split(self._chunk_size) for a in arrays), strict=True):
                leaves, self.structure = jax.tree.flatten(self._chunk(rows))
                parts.append([to_torch(leaf)[: len(rows[0])] for leaf in leaves])
        return [torch.cat(p) for p in zip(*parts, strict=True)]  # a copy even of one part

    def _chunk(self, rows: Sequence[Tensor]) -> Any:
        missing = 0 if self._loop else self._size(len(rows[0])) - len(rows[0])
        if missing:
            rows = [torch.cat([r, r[-1:].expand(missing, *r.shape[1:])]) for r in rows]
        return self._f(*(to_jax(r) for r in rows))

    def _size(self, num: int) -> int:
        """Smallest of the sizes that is at least num."""
        size = self._chunk_size
        while not self._one_size and size // 4 >= num:
            size //= 4
        return size
