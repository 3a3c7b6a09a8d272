r"""Systematic resampling: one uniform offset for a regular comb, u_n = (n + U) / num. Particle i gets
floor(num W_i) or ceil(num W_i) copies (Carpenter, Clifford, Fearnhead, 1999).

Conditional resampling (Chopin, Singh, "On particle Gibbs sampling", arXiv 1304.1887). With its slots
in random cyclic order the scheme is a comb u_n = v + n / N mod 1 on a circle, v uniform; slot 0
chooses particle 0 where v < W_0. Hence

    v ~ U[0, W_0],      u_n = v + n / N  mod 1

which is their choice of an offset U, with density proportional to the copies that particle 0 then
gets, and of one of those copies for slot 0. A comb on a circle does not see where the numbering of
particles begins: the reference may always be particle 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler
from smcguide.weights import counted, inverse_cdf, normalise, running


@dataclass(frozen=True)
class Systematic(Resampler):
    """A regular comb with a random offset per system."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        S, N = log_w.shape
        num = N if num is None else num
        # n + U < num (W_0 + ... + W_i) for this many teeth n of the comb; the last is below num
        offset = uniforms((S, 1), generator).clamp_(max=1 - num * torch.finfo(torch.float64).eps)
        return counted(running(log_w, num).sub_(offset).ceil_(), num)

    def conditional(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        S, N = log_w.shape
        comb = torch.arange(N, dtype=torch.float64, device=log_w.device) / N
        first = uniforms((S, 1), generator) * normalise(log_w)[:, :1]
        ancestors = inverse_cdf(log_w, (first + comb) % 1.0)
        ancestors[:, 0] = 0  # by construction, but for rounding
        return ancestors
