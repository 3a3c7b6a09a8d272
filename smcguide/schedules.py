r"""Noise schedules: the pair (alpha, sigma) of x_t = alpha_t x_0 + sigma_t eps, eps ~ N(0, I).

Time 0 is data (alpha = 1, sigma = 0), `t_max` noise; log-SNR is log(alpha^2 / sigma^2), decreasing in
time, `time` its inverse. Functions take floats or tensors of any shape and return float64 tensors.

References: Ho et al., DDPM (arXiv 2006.11239); Nichol, Dhariwal (2102.09672), cosine; Song et al.
(2011.13456), VP and VE; Karras et al. (2206.00364), EDM; Liu et al. (2209.03003), rectified flow;
Lin et al. (2305.08891), zero terminal SNR.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from smcguide.errors import InvalidInput
from smcguide.records import Level


SMALLEST_ABAR = 2.0**-24


def _f64(t: float | Tensor | np.ndarray) -> Tensor:
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
        point = (_f64(t),), (torch.ones((), dtype=torch.float64),)
        d_alpha, d_sigma = (torch.func.jvp(f, *point)[1] for f in (self.alpha, self.sigma))
        return float(d_alpha), float(d_sigma)

    def level(self, t: float) -> Level:
        """alpha and sigma at one time, as floats."""
        return Level(float(t), float(self.alpha(t)), float(self.sigma(t)))


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving, linear beta: B = b0 t + (b1 - b0) t^2 / 2, alpha = exp(-B / 2)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def _B(self, t: float | Tensor) -> Tensor:
        t = _f64(t)
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.exp(-self._B(t) / 2)

    def sigma(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._B(t)))

    def time(self, log_snr: float | Tensor) -> Tensor:
        B = softplus(-_f64(log_snr), threshold=1e9)
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * B))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Variance preserving, alpha = cos(phi) / cos(phi_0), phi = (t + s) / (1 + s) pi / 2."""

    s: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.995

    def _phi(self, t: float | Tensor) -> Tensor:
        return (_f64(t) + self.s) / (1 + self.s) * math.pi / 2

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.cos(self._phi(t)) / torch.cos(self._phi(0.0))

    def sigma(self, t: float | Tensor) -> Tensor:
        a, b = self._phi(t), self._phi(0.0)
        return torch.sqrt(torch.sin(a - b) * torch.sin(a + b)) / torch.cos(b)

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_snr, b = _f64(log_snr), self._phi(0.0)
        sine2 = torch.sigmoid(-log_snr) * torch.cos(b) ** 2 + torch.sin(b) ** 2
        phi = torch.atan2(sine2.sqrt(), torch.sigmoid(log_snr).sqrt() * torch.cos(b))
        return phi * (2 / math.pi) * (1 + self.s) - self.s


@dataclass(frozen=True, eq=False)
class DDPMTable(Schedule):
    """A table (T,) of decreasing abar in [0, 1): entry i sits at time i + 1, data at time 0.

    Between entries log alpha is linear in time. A zero terminal SNR (abar = 0) is floored at 2^-24.
    """

    alphas_cumprod: Tensor = field(repr=False)
    t_min: float = field(default=1.0, init=False)
    t_max: float = field(default=0.0, init=False)
    _log_alpha: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64).cpu().numpy()
        if (
            table.ndim != 1
            or not (table[:1] < 1).all()
            or not (np.diff(table, append=-1) < 0).all()
        ):
            raise InvalidInput(
                f"DDPMTable: alphas_cumprod of shape {table.shape} must be a one-dimensional, strictly "
                "decreasing table of numbers in [0, 1); pass scheduler.alphas_cumprod."
            )
        log_alpha = 0.5 * np.log(np.maximum(table, SMALLEST_ABAR))
        object.__setattr__(self, "_log_alpha", np.concatenate([[0.0], log_alpha]))
        object.__setattr__(self, "t_max", float(len(table)))

    def _log_alpha_at(self, t: float | Tensor) -> Tensor:
        return _f64(np.interp(_f64(t).numpy(), np.arange(len(self._log_alpha)), self._log_alpha))

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.exp(self._log_alpha_at(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_alpha_at(t)))

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_alpha = -0.5 * softplus(-_f64(log_snr), threshold=1e9).numpy()
        return _f64(np.interp(-log_alpha, -self._log_alpha, np.arange(len(self._log_alpha))))


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding, alpha = 1, sigma = s0 (s1 / s0)^t for t > 0, and 0 at t = 0."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.ones_like(_f64(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        t = _f64(t)
        return torch.where(t > 0, self.sigma_min * (self.sigma_max / self.sigma_min) ** t, 0.0)

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_ratio = -_f64(log_snr) / 2 - math.log(self.sigma_min)
        return log_ratio.clamp(min=0) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma = t: time is the noise level itself."""

    t_min: float = 0.002
    t_max: float = 80.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.ones_like(_f64(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        return _f64(t)

    def time(self, log_snr: float | Tensor) -> Tensor:
        return torch.exp(-_f64(log_snr) / 2)


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t. Flow code with data at time 1 maps t -> 1 - t, velocity -> -velocity."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return 1 - _f64(t)

    def sigma(self, t: float | Tensor) -> Tensor:
        return _f64(t)

    def time(self, log_snr: float | Tensor) -> Tensor:
        return torch.sigmoid(-_f64(log_snr) / 2)
