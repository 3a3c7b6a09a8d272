"""Systematic resampling: one uniform offset for a regular comb, u_n = (n + U) / N. Particle i gets
floor(N W_i) or ceil(N W_i) copies (Carpenter, Clifford, Fearnhead, 1999)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, uniforms
from smcguide.weights import inverse_cdf


@dataclass(frozen=True)
class Systematic(Resampler):
    """A regular comb with a random offset per system."""

    def __call__(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        S, N = log_w.shape
        comb = torch.arange(N, dtype=torch.float64, device=log_w.device)
        return inverse_cdf(log_w, (comb + uniforms((S, 1), generator)) / N)
