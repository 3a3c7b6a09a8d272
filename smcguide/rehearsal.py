r"""What is learned of a prior before a run, from a few of its own draws.

A rehearsal holds draws x_0 of the prior and, at a bank of noise levels, the denoiser's answers to
their noised versions. From it come the prior's covariance, and how far the truth usually is from the
denoiser's estimate, E |x_0 - D(x_t)|^2: what a kernel needs for its variance and a potential for its
width. It is independent of the particles, so using it keeps every method exact.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.records import Level

LOWEST = -30.0  # log-SNR that stands for pure noise


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a prior over flat events, covariance = basis diag(variance) basis^T.

    Attributes:
        mean: (d,) float64.
        variance: (d,) float64, the eigenvalues; the coordinates' variances where `basis` is None.
        basis: (d, d) orthonormal columns, or None for a diagonal covariance.
    """

    mean: Tensor
    variance: Tensor
    basis: Tensor | None = None

    def to(self, device: torch.device | str) -> "Moments":
        """The same moments on another device."""
        basis = None if self.basis is None else self.basis.to(device)
        return Moments(self.mean.to(device), self.variance.to(device), basis)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Draws of a prior and their denoised versions.

    Attributes:
        moments: mean and covariance of the prior.
        x0: (n, *E) draws, or None where only the moments are known.
        log_snr: (L,) increasing levels of the bank.
        x0_hat: (L, n, *E) denoised versions of the noised draws.
        evaluations: network evaluations it took.
    """

    moments: Moments
    x0: Tensor | None = None
    log_snr: Tensor | None = None
    x0_hat: Tensor | None = None
    evaluations: int = 0

    def interpolate(self, values: Tensor, t: Level) -> Tensor:
        """Values (L, *F) at the bank's levels, linearly interpolated in log-SNR to level t."""
        if self.log_snr is None:
            raise InvalidInput(
                "This rehearsal holds moments only; make a full one with sg.rehearse."
            )
        log_snr = max(LOWEST, -2 * math.log(t.ratio) if t.ratio < math.inf else -math.inf)
        right = min(max(1, bisect_left(self._bank, log_snr)), len(self._bank) - 1)
        low, high = self._bank[right - 1], self._bank[right]
        weight = min(max((log_snr - low) / (high - low), 0.0), 1.0)
        return (1 - weight) * values[right - 1] + weight * values[right]

    @cached_property
    def _bank(self) -> list[float]:
        """`log_snr` where looking at it costs nothing."""
        return [] if self.log_snr is None else self.log_snr.tolist()

    @cached_property
    def residual_variance(self) -> Tensor:
        """E |x_0 - D(x_t)|^2 / d at the bank's levels, (L,)."""
        if self.x0 is None or self.x0_hat is None:
            raise InvalidInput(
                "This rehearsal holds moments only; make a full one with sg.rehearse."
            )
        return (self.x0 - self.x0_hat).double().square().flatten(2).mean((1, 2)).cpu()
