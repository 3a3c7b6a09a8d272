r"""Noise schedules: the pair (alpha, sigma) of x_t = alpha_t x_0 + sigma_t eps, eps ~ N(0, I).

Time 0 is data (alpha = 1, sigma = 0), `t_max` noise; log-SNR is log(alpha^2 / sigma^2), decreasing in
time, `time` its inverse. Functions take floats or tensors of any shape and return float64 tensors.

References: Ho et al., DDPM (arXiv 2006.11239); Nichol, Dhariwal (2102.09672), cosine; Song et al.
(2011.13456), VP and VE; Karras et al. (2206.00364), EDM; Liu et al. (2209.03003), rectified flow;
Lin et al. (2305.08891), zero terminal SNR.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from smcguide.kept import Kept
from smcguide.records import Level


def f64(t: float | Tensor) -> Tensor:
    """A time as a float64 tensor."""
    return torch.as_tensor(t, dtype=torch.float64)


class Schedule(ABC):
    """A noise schedule from t_max, (almost) pure noise, over t_min, the smallest time worth visiting."""

    t_min: float
    t_max: float

    @abstractmethod
    def alpha(self, t: float | Tensor) -> Tensor:
        """Signal coefficient at time t."""

    @abstractmethod
    def sigma(self, t: float | Tensor) -> Tensor:
        """Noise standard deviation at time t."""

    @abstractmethod
    def time(self, log_snr: float | Tensor) -> Tensor:
        """The time at which log(alpha^2 / sigma^2) equals `log_snr`."""

    def log_snr(self, t: float | Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at time t; +inf at t = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def rates(self, t: float) -> tuple[float, float]:
        """d alpha / dt and d sigma / dt at time t, by forward-mode differentiation."""
        point = (f64(t),), (torch.ones((), dtype=torch.float64),)
        d_alpha, d_sigma = (torch.func.jvp(f, *point)[1] for f in (self.alpha, self.sigma))
        return float(d_alpha), float(d_sigma)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.pop("_levels", None)  # those of another law
        super().__setattr__(name, value)

    def level(self, t: float) -> Level:
        """alpha and sigma at one time, as floats; remembered until an attribute is set."""
        if "_levels" not in self.__dict__:
            self.__dict__["_levels"] = Kept(self._level)  # also where it is frozen
        level: Level = self.__dict__["_levels"][float(t)]
        return level

    def _level(self, t: float) -> Level:
        return Level(t, float(self.alpha(t)), float(self.sigma(t)))
