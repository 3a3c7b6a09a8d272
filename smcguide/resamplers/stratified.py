"""Stratified resampling: one uniform point per stratum, u_n = (n + U_n) / num. Never noisier than
multinomial (Douc, Cappe, "Comparison of resampling schemes for particle filtering", 2005)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler
from smcguide.weights import counted, running


@dataclass(frozen=True)
class Stratified(Resampler):
    """One ancestor per stratum of the unit interval."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        S, N = log_w.shape
        num = N if num is None else num
        mass, u = running(log_w, num), uniforms((S, num), generator)
        # n + U_n < mass for all strata n below its whole part, and perhaps for the next one
        whole = mass.floor()
        ends = whole.long()
        ends.add_(u.gather(1, ends.clamp(max=num - 1)) < mass.sub_(whole))
        return counted(ends, num)
