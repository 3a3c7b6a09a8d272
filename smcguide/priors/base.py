"""A prior is a denoiser and its schedule: E[x_0 | x_t] of a pretrained diffusion model.

Nothing else is asked of it. A complete prior, here N(0, I) on R^2, whose denoiser is
alpha x / (alpha^2 + sigma^2):

    >>> import torch
    >>> from smcguide.priors import Prior
    >>> from smcguide.schedules import VP
    >>> class StandardNormal(Prior):
    ...     schedule, event_shape = VP(), (2,)
    ...     dtype, device = torch.float64, torch.device("cpu")
    ...     def denoise(self, x, t):
    ...         level = self.schedule.level(t)
    ...         return level.alpha * x / (level.alpha**2 + level.sigma**2)
    >>> StandardNormal().denoise(torch.ones(3, 2), 0.0)[0]
    tensor([1., 1.])
"""

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.randomness import normals
from smcguide.records import Level
from smcguide.rehearsal import Moments, Rehearsal
from smcguide.schedules import Schedule


def require_float(dtype: torch.dtype, who: str) -> torch.dtype:
    """States are float32 or float64; half precision belongs inside the network only.

    Raises:
        InvalidInput: for any other dtype.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InvalidInput(
            f"{who}: the particles' dtype must be torch.float32 or torch.float64, got {dtype}. A "
            "half-precision network is fine: keep the network's parameters in half precision and "
            "the prior's dtype at torch.float32; the library casts around the network."
        )
    return dtype


class Prior(ABC):
    """A diffusion prior.

    Attributes:
        schedule: the noise schedule the denoiser was trained for.
        event_shape: shape E of one event.
        dtype: dtype of the particles, float32 or float64.
        device: where the particles live.
        rehearsal: kept by the library after the first run that needed one.
    """

    schedule: Schedule
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    rehearsal: Rehearsal | None = None

    @abstractmethod
    def denoise(self, x: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t = x].

        Arguments:
            x: (M, *E) states of the prior's dtype and device.
            t: time in the schedule's own units.

        Returns:
            (M, *E).
        """

    def initial(self, num: int, t: Level, generator: torch.Generator) -> Tensor:
        """Draws (num, *E) from the law at the noise end, here N(0, sigma_t^2 I)."""
        return t.sigma * normals((num, *self.event_shape), generator, self.dtype)

    def log_initial_ratio(self, x: Tensor, t: Level) -> Tensor:
        """log of `initial`'s density at states x (M, *E) over that of N(0, sigma_t^2 I), (M,)."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def moments(self) -> Moments | None:
        """Mean and covariance of the data law where they are known, else None."""
        return None

    def exact_draws(self, num: int, generator: torch.Generator) -> Tensor | None:
        """(num, *E) draws from the data law where the prior can make them, else None."""
        return None

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A prior whose particles live on `device` with `dtype`: itself if they do, else a copy.

        Raises:
            InvalidInput: for a half-precision dtype.
        """
        wanted = self.device if device is None else torch.device(device)
        here = wanted.type == self.device.type and wanted.index in (None, self.device.index)
        if here and dtype in (None, self.dtype):
            return self
        moved = copy.copy(self)
        moved.rehearsal = None
        if dtype is not None:
            moved.dtype = require_float(dtype, f"{type(self).__name__}.to")
        if not here:
            moved.device = wanted
        return moved
