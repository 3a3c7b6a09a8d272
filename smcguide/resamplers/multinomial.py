"""Multinomial resampling: N independent draws. The noisiest scheme, and the one whose single-run
variance estimate of the evidence (Lee, Whiteley, arXiv 1509.00394) is exact."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler, uniforms
from smcguide.weights import inverse_cdf


@dataclass(frozen=True)
class Multinomial(Resampler):
    """Independent ancestors."""

    def __call__(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        return inverse_cdf(log_w, uniforms(tuple(log_w.shape), generator))
