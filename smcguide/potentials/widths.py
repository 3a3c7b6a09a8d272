"""How wide a Gaussian likelihood at the denoiser's estimate must be: the laws behind `InflatedGaussian`.

In units of the noise, r = (y - F(D)) / s is taken to be N(b_t, I + W_t).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from smcguide.errors import InvalidInput
from smcguide.kept import Kept
from smcguide.records import Level, Look
from smcguide.rehearsal import Moments, Rehearsal
from smcguide.sums import row_sums

_FEW = 32  # measurements


def unknown(t: Level, variance: float | None, rehearsal: Rehearsal | None) -> float:
    """r_t^2, the variance per coordinate of x_0 given x_t: (1 / variance + alpha^2 / sigma^2)^-1, or as
    measured on draws of the prior, but no more than that of x_t / alpha."""
    if variance is not None:
        return float(t.prior_width(torch.tensor(variance, dtype=torch.float64)))
    if rehearsal is None:
        raise InvalidInput("Of this prior nothing is known: give the potential a variance.")
    return min(float(rehearsal.interpolate(rehearsal.residual_variance, t)), t.ratio**2)


@dataclass(frozen=True)
class Whitener:
    """Of the law N(b_t, I + W_t) at one level.

    Attributes:
        shift: b_t (m,), None for 0.
        inverse: L^-1 for L L^T = I + W_t, (m, m), or (m,) where it is diagonal.
        log_det: log det L.
        peak: log-density of y where the residual is 0.
    """

    shift: Tensor | None
    inverse: Tensor
    log_det: Tensor
    peak: Tensor


class Widened(ABC):
    """One Gaussian summand of a cost; a subclass says b_t and W_t."""

    def __init__(self, cost: Any) -> None:
        self.cost = cost
        m = len(cost.std)
        self._log_norm = float(cost.std.detach().log().sum()) + 0.5 * m * math.log(2 * math.pi)
        self.whitener: Kept[Level, Whitener] = Kept(self._whitener, m**2)

    @abstractmethod
    def law(self, t: Level) -> tuple[Tensor | None, Tensor]:
        """b_t (m,), None for 0, and W_t as (m, m), or as (m,) where it is diagonal."""

    def _whitener(self, t: Level) -> Whitener:
        shift, W = self.law(t)
        if W.ndim == 1:
            inverse, log_det = (1 + W).rsqrt(), 0.5 * torch.log1p(W).sum()
        else:
            eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
            L = torch.linalg.cholesky(eye + W)
            inverse = torch.linalg.solve_triangular(L, eye, upper=False)
            log_det = L.diagonal().log().sum()
        return Whitener(shift, inverse, log_det, -(log_det + self._log_norm))

    def log_det(self, t: Level) -> Tensor:
        """log det (I + W_t)."""
        return 2 * self.whitener[t].log_det

    def residual(self, look: Look) -> Tensor:
        """Whitened residual (S, N, m)."""
        law, r = self.whitener[look.t], self.cost.residual(look.x0_hat)
        r = r if law.shift is None else r - law.shift
        return r * law.inverse if law.inverse.ndim == 1 else linear(r, law.inverse)

    def square(self, look: Look) -> Tensor:
        """Squared length of the residual, (S, N)."""
        return row_sums(self.residual(look).square())

    def log_value(self, look: Look) -> Tensor:
        """Log-density (S, N) of y."""
        return torch.sub(self.whitener[look.t].peak, self.square(look), alpha=0.5)


class Linear(Widened):
    """Linear measurement, Gaussian uncertainty: W_t = A V_t A^T / s^2."""

    def __init__(self, cost: Any, event_shape: tuple[int, ...], moments: Moments) -> None:
        super().__init__(cost)
        A = cost.matrix(event_shape) / cost.std[:, None]
        self.factor = A if moments.basis is None else A @ moments.basis
        self.variance = moments.variance
        fixed = not (cost.y.requires_grad or cost.std.requires_grad)
        given = getattr(getattr(cost, "operator", None), "matrix", None)
        self._is_matrix = fixed and isinstance(given, Tensor)

        def whitened(t: Level) -> tuple[Tensor, Tensor]:
            inverse = self.whitener[t].inverse
            return inverse @ A, inverse @ (cost.y / cost.std).permute(2, 0, 1).flatten(1)

        self._whitened: Kept[Level, tuple[Tensor, Tensor]] = Kept(whitened, A.numel())

    def law(self, t: Level) -> tuple[Tensor | None, Tensor]:
        return None, (self.factor * t.prior_width(self.variance)) @ self.factor.T

    def residual(self, look: Look) -> Tensor:
        if not self._is_matrix:  # an operator may be cheaper than its matrix
            return super().residual(look)
        return self._rows(look).permute(1, 2, 0)

    def square(self, look: Look) -> Tensor:
        return self._rows(look).square().sum(0) if self._is_matrix else super().square(look)

    def _rows(self, look: Look) -> Tensor:
        """The residual as (m, S, N): products and sums of a few long rows are fast, of many short ones
        not."""
        matrix, y = self._whitened[look.t]
        S, N = look.x0_hat.shape[:2]
        x0_hat = look.x0_hat.reshape(S * N, -1).double()
        rows = matrix @ x0_hat.T if len(matrix) < _FEW else (x0_hat @ matrix.T).T
        return y[:, :, None] - rows.view(-1, S, N)


class Masked(Widened):
    """Observed entries with independent uncertainty: W_t is diagonal, for any number of entries."""

    def __init__(self, cost: Any, moments: Moments) -> None:
        super().__init__(cost)
        V = moments.variance
        V = V if moments.basis is None else moments.basis.square() @ V
        self.variance = V[cost.selected]

    def law(self, t: Level) -> tuple[Tensor | None, Tensor]:
        return None, t.prior_width(self.variance) / self.cost.std**2


class Measured(Widened):
    """Any forward model: mean and covariance of (F(x_0) - F(D(x_t))) / s over the rehearsal's draws,
    shrunk towards the diagonal by m / (n + m)."""

    @torch.no_grad()
    def __init__(self, cost: Any, rehearsal: Rehearsal) -> None:
        super().__init__(cost)
        self.rehearsal = rehearsal
        if rehearsal.x0 is None or rehearsal.x0_hat is None:
            raise InvalidInput("InflatedGaussian: a non-linear measurement needs a full rehearsal.")
        truth = cost.predict(rehearsal.x0[None])
        seen = torch.cat([cost.predict(x0_hat[None]) for x0_hat in rehearsal.x0_hat])
        gap = (truth - seen) / cost.std
        n, m = gap.shape[1:]
        shrink = m / (n + m)
        centred = gap - gap.mean(1, keepdim=True)
        W = centred.mT @ centred / n
        self.shift = gap.mean(1)
        self.W = (1 - shrink) * W + shrink * torch.diag_embed(W.diagonal(dim1=-2, dim2=-1))

    def law(self, t: Level) -> tuple[Tensor | None, Tensor]:
        return self.rehearsal.interpolate(self.shift, t), self.rehearsal.interpolate(self.W, t)
