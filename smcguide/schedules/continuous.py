"""Schedules in closed form: VP, cosine, VE, EDM, rectified flow (sources in `schedules.base`)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from smcguide.schedules.base import Schedule, f64


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving, linear beta: B = b0 t + (b1 - b0) t^2 / 2, alpha = exp(-B / 2)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def _B(self, t: float | Tensor) -> Tensor:
        t = f64(t)
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.exp(-self._B(t) / 2)

    def sigma(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._B(t)))

    def time(self, log_snr: float | Tensor) -> Tensor:
        B = softplus(-f64(log_snr), threshold=1e9)
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * B))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Variance preserving, alpha = cos(phi) / cos(phi_0), phi = (t + s) / (1 + s) pi / 2."""

    s: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.995

    def _phi(self, t: float | Tensor) -> Tensor:
        return (f64(t) + self.s) / (1 + self.s) * math.pi / 2

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.cos(self._phi(t)) / torch.cos(self._phi(0.0))

    def sigma(self, t: float | Tensor) -> Tensor:
        a, b = self._phi(t), self._phi(0.0)
        return torch.sqrt(torch.sin(a - b) * torch.sin(a + b)) / torch.cos(b)

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_snr, b = f64(log_snr), self._phi(0.0)
        sine2 = torch.sigmoid(-log_snr) * torch.cos(b) ** 2 + torch.sin(b) ** 2
        phi = torch.atan2(sine2.sqrt(), torch.sigmoid(log_snr).sqrt() * torch.cos(b))
        return phi * (2 / math.pi) * (1 + self.s) - self.s


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding, alpha = 1, sigma = s0 (s1 / s0)^t for t > 0, and 0 at t = 0."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.ones_like(f64(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        t = f64(t)
        return torch.where(t > 0, self.sigma_min * (self.sigma_max / self.sigma_min) ** t, 0.0)

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_ratio = -f64(log_snr) / 2 - math.log(self.sigma_min)
        return log_ratio.clamp(min=0) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma = t: time is the noise level itself."""

    t_min: float = 0.002
    t_max: float = 80.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.ones_like(f64(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        return f64(t)

    def time(self, log_snr: float | Tensor) -> Tensor:
        return torch.exp(-f64(log_snr) / 2)


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t. Flow code with data at time 1 maps t -> 1 - t, velocity -> -velocity."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def alpha(self, t: float | Tensor) -> Tensor:
        return 1 - f64(t)

    def sigma(self, t: float | Tensor) -> Tensor:
        return f64(t)

    def time(self, log_snr: float | Tensor) -> Tensor:
        return torch.sigmoid(-f64(log_snr) / 2)
