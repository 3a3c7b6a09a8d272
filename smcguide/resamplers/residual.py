"""Residual resampling: floor(num W_i) copies of particle i, and the rest of the ancestors multinomial
on the remainders num W_i - floor(num W_i) (Liu, Chen, "Sequential Monte Carlo methods for dynamic
systems", 1998). Never noisier than multinomial (Douc, Cappe, 2005)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, ascending, ending, expected_copies
from smcguide.weights import running


@dataclass(frozen=True)
class Residual(Resampler):
    """Whole copies first, random ones for the remainders."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        num = log_w.shape[1] if num is None else num
        expected = expected_copies(log_w, num)
        copies = expected.floor()
        open_slots = (num - copies.sum(-1, keepdim=True)).nan_to_num(0).clamp_(0, num)
        # where nothing remains no draw is used, and any weights will do
        remainders = torch.where(open_slots > 0, (expected - copies).log(), log_w.double())
        points = ascending(num, open_slots, log_w, generator)
        drawn = torch.searchsorted(points, running(remainders, 1))  # by particle i and those before
        return ending(copies.cumsum(-1) + torch.minimum(drawn, open_slots), num)
