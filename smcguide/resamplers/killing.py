"""Killing: particle i stays in its slot with probability W_i / max W, else the slot is redrawn from
the weights. Where weights are nearly equal few slots change: the scheme for many small steps (Del
Moral, "Feynman-Kac formulae", 2004; Chopin, Singh, Soto, Vihola, "On resampling schemes for particle
filters with weakly informative observations", arXiv 2203.10037)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.resamplers.base import Resampler, uniforms
from smcguide.weights import inverse_cdf, normalise


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
        shape, W = tuple(log_w.shape), normalise(log_w)
        stays = uniforms(shape, generator) * W.amax(-1, keepdim=True) < W
        redrawn = inverse_cdf(log_w, uniforms(shape, generator))
        return torch.where(stays, torch.arange(N, device=log_w.device), redrawn)
