"""Rejection resampling: propose an index uniformly, accept it with probability W_j / max W. Independent
ancestors, exactly of law W, where `Metropolis` is biased.

The loop has a bound, since a slot needs N max W tries on average, up to N: every slot gets 16 tries,
and if all fail, a draw from the distribution function. Both have the law W, so has their mixture, and
nothing waits for the device.

Reference: Murray, Lee, Jacob, "Parallel resampling in the particle filter" (arXiv 1301.4019).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.multinomial import Multinomial
from smcguide.weights import normalise

_TRIES = 16


@dataclass(frozen=True)
class Rejection(Resampler):
    """Independent ancestors by accepting or rejecting uniform proposals."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        W = normalise(log_w)
        highest = W.amax(-1, keepdim=True)
        ancestors = Multinomial()(log_w, generator, num)
        for _ in range(_TRIES):  # the last accepted try counts: tries are exchangeable
            j = torch.randint(W.shape[1], ancestors.shape, generator=generator, device=W.device)
            accepted = uniforms(tuple(j.shape), generator) * highest < W.gather(1, j)
            ancestors = torch.where(accepted, j, ancestors)
        return ancestors
