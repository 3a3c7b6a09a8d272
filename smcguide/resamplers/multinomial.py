"""Multinomial resampling: independent draws. The noisiest scheme, and the one whose single-run
variance estimate of the evidence (Lee, Whiteley, arXiv 1509.00394) is exact.

Given the ancestor of slot 0 the others are as free as before: conditional resampling draws them and
puts the reference into its slot (Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo
methods", 2010).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler, ascending
from smcguide.weights import counted, inverse_cdf, rank, running


@dataclass(frozen=True)
class Multinomial(Resampler):
    """Independent ancestors."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        num = log_w.shape[1] if num is None else num
        points = ascending(num, log_w.new_full((len(log_w), 1), num), generator)
        return counted(rank(points, running(log_w, 1)), num)

    def conditional(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        ancestors = inverse_cdf(log_w, uniforms(tuple(log_w.shape), generator))  # in no order
        ancestors[:, 0] = 0
        return ancestors
