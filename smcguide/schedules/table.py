"""The discrete schedule of DDPM (sources in `schedules.base`)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from smcguide.errors import InvalidInput
from smcguide.schedules.base import Schedule, f64

SMALLEST_ABAR = 2.0**-24


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
        ends_well = table.ndim == 1 and len(table) > 1 and table[0] < 1 and table[-1] >= 0
        if not ends_well or not (np.diff(table) < 0).all():
            raise InvalidInput(
                f"DDPMTable: alphas_cumprod of shape {table.shape} must be a one-dimensional, strictly "
                "decreasing table of numbers in [0, 1); pass scheduler.alphas_cumprod."
            )
        log_alpha = 0.5 * np.log(np.maximum(table, SMALLEST_ABAR))
        object.__setattr__(self, "_log_alpha", np.concatenate([[0.0], log_alpha]))
        object.__setattr__(self, "t_max", float(len(table)))

    def _log_alpha_at(self, t: float | Tensor) -> Tensor:
        return torch.as_tensor(
            np.interp(f64(t).numpy(), np.arange(len(self._log_alpha)), self._log_alpha)
        )

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.exp(self._log_alpha_at(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_alpha_at(t)))

    def time(self, log_snr: float | Tensor) -> Tensor:
        log_alpha = -0.5 * softplus(-f64(log_snr), threshold=1e9).numpy()
        return torch.as_tensor(
            np.interp(-log_alpha, -self._log_alpha, np.arange(len(self._log_alpha)))
        )

    def rates(self, t: float) -> tuple[float, float]:
        entry = min(max(int(np.ceil(t)), 1), len(self._log_alpha) - 1)
        slope = float(self._log_alpha[entry] - self._log_alpha[entry - 1])
        alpha, sigma = float(self.alpha(t)), float(self.sigma(t))
        return alpha * slope, -(alpha**2) * slope / sigma
