"""Residual resampling: floor(num W_i) copies of particle i, and the rest of the ancestors multinomial
on the remainders num W_i - floor(num W_i) (Liu, Chen, "Sequential Monte Carlo methods for dynamic
systems", 1998). Never noisier than multinomial (Douc, Cappe, 2005)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, expected_copies, repeated, uniforms
from smcguide.weights import inverse_cdf


@dataclass(frozen=True)
class Residual(Resampler):
    """Whole copies first, random ones for the remainders."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        S, N = log_w.shape
        num = N if num is None else num
        expected = expected_copies(log_w, num)
        copies = expected.floor()
        given = copies.sum(-1, keepdim=True)
        # where nothing remains no draw is used, and any weights will do
        remainders = torch.where(given < num, (expected - copies).log(), log_w.double())
        drawn = inverse_cdf(remainders, uniforms((S, num), generator))
        slots = torch.arange(num, device=log_w.device)
        return torch.where(slots < given, repeated(copies, num), drawn)
