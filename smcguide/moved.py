"""What a kernel knows that was made by moving the mean of another (`Gaussian.moved`)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smcguide.sums import row_sums


@dataclass(frozen=True)
class Shift:
    """By how much a kernel was moved: factor * delta.

    Attributes:
        origin: the `Gaussian` that was moved, whose std is one number.
        delta: (S, N, *E).
        factor: (S, N).
        length: (S, N) |delta|.
        versions: of the tensors then, see `versions`.
    """

    origin: Any
    delta: Tensor
    factor: Tensor
    length: Tensor
    versions: tuple[int, ...] | None

    def leads(self, origin: Any, mean: Tensor) -> bool:
        """Whether from `origin` to `mean`: nothing has been written to since."""
        now = versions(origin.mean, self.delta, mean)
        return origin is self.origin and now is not None and now == self.versions

    def in_stds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """|d| and z.d, (S, N) each, for d the shift in standard deviations."""
        scale = self.factor / self.origin.std
        return scale * self.length, scale * row_sums((self.delta * z).flatten(2))


def versions(*tensors: Tensor) -> tuple[int, ...] | None:
    """How often each was written to; None where nobody counts (inference mode)."""
    if any(a.is_inference() for a in tensors):
        return None
    return tuple(a._version for a in tensors)


def share(trust: float, size: Tensor) -> Tensor:
    """How much of shifts of these sizes, in standard deviations, is within `trust`: at most all."""
    return (trust / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp_(max=1.0)
