"""Residual resampling: floor(num W_i) copies of particle i, and the rest of the ancestors multinomial
on the remainders num W_i - floor(num W_i) (Liu, Chen, "Sequential Monte Carlo methods for dynamic
systems", 1998). Never noisier than multinomial (Douc, Cappe, 2005)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, ascending, whole_copies
from smcguide.weights import accumulated_, counted, rank


@dataclass(frozen=True)
class Residual(Resampler):
    """Whole copies first, random ones for the remainders."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        num = log_w.shape[1] if num is None else num
        copies, fractions, mass = whole_copies(log_w, num)
        points = ascending(num, mass, generator)
        drawn = rank(points, accumulated_(fractions, 1))  # by particle i and those before
        return counted(copies.cumsum_(-1).add_(torch.minimum(drawn, mass)), num)
