"""Sums over the last axis. torch adds up few numbers for each of many rows slowly; there a product with
ones is faster."""

import torch
from torch import Tensor

_FEW = 32


def row_sums(a: Tensor) -> Tensor:
    """(..., n) -> (...), in the dtype of `a`."""
    n = a.shape[-1]
    if n >= _FEW or torch.is_autocast_enabled(a.device.type):  # which would round a product
        return a.sum(-1)
    return a @ a.new_ones(n)


def row_norms(a: Tensor) -> Tensor:
    """(..., n) -> (...), Euclidean lengths."""
    if a.shape[-1] >= _FEW or a.device.type != "cpu" or a.requires_grad:  # a root has no slope at 0
        return torch.linalg.vector_norm(a, dim=-1)
    return row_sums(a.square()).sqrt_()
