"""A resampler draws ancestors from log-weights so that particle i is chosen N W_i times on average."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Resampler(ABC):
    """Base class of resamplers; concrete ones are frozen dataclasses."""

    @abstractmethod
    def __call__(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        """Ancestor indices (S, N) int64 for log-weights (S, N), each system on its own."""


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1), float64, on the generator's device."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
