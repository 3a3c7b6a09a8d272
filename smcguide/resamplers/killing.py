"""Killing: particle i stays in its slot with probability W_i / max W, else the slot is redrawn from
the weights; redrawn slots are filled in ascending order. Where weights are nearly equal few slots change:
the scheme for many small steps (Del Moral, "Feynman-Kac formulae", 2004; Chopin, Singh, Soto, Vihola, "On
resampling schemes for particle filters with weakly informative observations", arXiv 2203.10037)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler, ascending
from smcguide.weights import accumulated_, counted, legal, rank


@dataclass(frozen=True)
class Killing(Resampler):
    """Good particles stay where they are; N ancestors only."""

    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        N = log_w.shape[1]
        if num not in (None, N):
            raise InvalidInput(
                f"Killing() keeps particles in their slots: {N} ancestors of {N} particles, not {num}. "
                "Use SSP() or Systematic()."
            )
        W = legal(log_w)
        killed = uniforms(tuple(W.shape), generator).mul_(W.amax(-1, keepdim=True)) >= W
        nth = killed.cumsum(-1)
        points = ascending(N, nth[:, -1:], generator)
        drawn = counted(torch.minimum(rank(points, accumulated_(W, 1)), nth[:, -1:]), N)
        own = torch.arange(N, device=W.device)
        return torch.where(killed, drawn.gather(1, nth.sub_(1).clamp_(min=0)), own)
