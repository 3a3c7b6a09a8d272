"""Stratified resampling: one uniform point per stratum, u_n = (n + U_n) / num. Never noisier than
multinomial (Douc, Cappe, "Comparison of resampling schemes for particle filtering", 2005)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, uniforms
from smcguide.weights import inverse_cdf


@dataclass(frozen=True)
class Stratified(Resampler):
    """One ancestor per stratum of the unit interval."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        S, N = log_w.shape
        num = N if num is None else num
        strata = torch.arange(num, dtype=torch.float64, device=log_w.device)
        return inverse_cdf(log_w, (strata + uniforms((S, num), generator)) / num)
