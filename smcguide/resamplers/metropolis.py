r"""Metropolis resampling: every ancestor is the end of a Markov chain over particle indices that
proposes j uniformly and accepts it with probability min(1, W_j / W_k). It needs ratios of weights only,
no sums over particles, and is biased: each ancestor is particle i with a probability that differs
from W_i by at most

    (1 - 1 / (N max W)) ^ num_iters

Chains begin evenly over the living particles (of num = N and none dead: each at its own), for one
that began at a dead particle might still be there at the end; a dead one is never accepted.

Reference: Murray, Lee, Jacob, "Parallel resampling in the particle filter" (arXiv 1301.4019).
"""

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import LIMIT
from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.weights import normalise


@dataclass(frozen=True)
class Metropolis(Resampler):
    """Chains over indices, biased.

    Arguments:
        num_iters: length of each chain, at least 1. About 5 N max W leaves a bias below 1 percent.

    Raises:
        InvalidInput: for anything else.
    """

    num_iters: int = 32
    exactness = LIMIT

    def __post_init__(self) -> None:
        if not isinstance(self.num_iters, Integral) or self.num_iters < 1:
            raise InvalidInput(
                f"Metropolis: num_iters must be a whole number of at least 1, got {self.num_iters!r}."
            )

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        W = normalise(log_w)
        living = torch.zeros_like(W).masked_fill(W == 0, -torch.inf)
        here = Systematic()(living, generator, num)
        for _ in range(self.num_iters):
            there = torch.randint(W.shape[1], here.shape, generator=generator, device=here.device)
            bar = uniforms(tuple(here.shape), generator) * W.gather(1, here)
            here = torch.where(bar < W.gather(1, there), there, here)
        return here
