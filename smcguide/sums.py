"""Sums over the last axis. torch adds up few numbers for each of many rows slowly; there a product with
ones is several times as fast."""

from torch import Tensor

_FEW = 32


def row_sums(a: Tensor) -> Tensor:
    """(..., n) -> (...), in the dtype of `a`."""
    n = a.shape[-1]
    return a @ a.new_ones(n) if n < _FEW else a.sum(-1)
