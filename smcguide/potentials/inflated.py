r"""T2: the Gaussian likelihood at the denoiser's estimate, widened by what is still unknown about x_0:

    psi_t(x_t) = N(y; F(D(x_t)) + b_t, s^2 I + W_t)

For a linear measurement, W_t = A V_t A^T with V_t = (V^-1 + (alpha^2 / sigma^2) I)^-1 and b_t = 0; V is
the prior's covariance, and for a Gaussian prior psi_t is the exact optimal value. V = 1 is PiGDM's
width (Song et al., ICLR 2023), V = infinity the plain lam^2. For any other forward model b_t and W_t
are measured on the prior's rehearsal: mean and covariance of F(x_0) - F(D(x_t)). The width decides
everything: too narrow loses modes, so err on the wide side. Summands of the cost that are not Gaussian
likelihoods are treated as `Tweedie` treats them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import SIGNAL_FRACTION, Potential
from smcguide.records import Level, Look, Moments
from smcguide.rehearsal import Rehearsal

_LARGEST_DENSE = 2048


@dataclass(frozen=True)
class InflatedGaussian(Potential):
    """Gaussian likelihood, widened by the remaining uncertainty.

    Arguments:
        variance: None for the prior's own covariance (known for analytic priors, estimated once from
            draws for networks), or an isotropic number: 1.0 is PiGDM, math.inf plain lam^2.

    Raises:
        InvalidInput: when bound to a cost without a Gaussian part, to a non-linear one with a given
            variance, or to more than 2048 measurements.
    """

    variance: float | None = None
    _terms: Sequence["_Widened"] = field(default=(), init=False, repr=False)
    _rest: Sequence[Any] = field(default=(), init=False, repr=False)

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.variance is None

    def check(self, cost: Any) -> None:
        gaussian = [c for c in cost.parts() if hasattr(c, "residual")]
        if not gaussian:
            raise InvalidInput(
                f"InflatedGaussian needs a LinearGaussian or GaussianLikelihood cost, got {cost!r}. "
                "For other costs use potentials.Tweedie()."
            )
        curved = [c for c in gaussian if not hasattr(c, "matrix")]
        if curved and self.variance is not None:
            raise InvalidInput(
                f"InflatedGaussian({self.variance}) needs a linear measurement, got {curved[0]!r}; "
                "leave variance out to measure the width on draws of the prior."
            )
        if max(len(c.std) for c in gaussian) > _LARGEST_DENSE:
            raise InvalidInput(
                f"InflatedGaussian: {max(len(c.std) for c in gaussian)} measurements need a dense "
                f"covariance, the limit is {_LARGEST_DENSE}. Use potentials.Tweedie()."
            )

    def bind(self, cost: Any, event_shape: tuple[int, ...], rehearsal: Rehearsal | None) -> Self:
        self.check(cost)
        bound = super().bind(cost, event_shape, rehearsal)
        gaussian = [c for c in cost.parts() if hasattr(c, "residual")]
        terms = tuple(self._widen(c, event_shape, rehearsal) for c in gaussian)
        object.__setattr__(bound, "_terms", terms)
        object.__setattr__(bound, "_rest", tuple(c for c in cost.parts() if c not in gaussian))
        return bound

    def _widen(self, cost: Any, event_shape: tuple[int, ...], rehearsal: Any) -> "_Widened":
        if self.variance is not None:
            full = torch.full((math.prod(event_shape),), self.variance, dtype=torch.float64)
            full = full.to(cost.std.device)
            return _Linear(cost, event_shape, Moments(torch.zeros_like(full), full))
        if rehearsal is None:
            raise InvalidInput("InflatedGaussian(): nothing is known of the prior; give variance=.")
        if hasattr(cost, "matrix"):
            return _Linear(cost, event_shape, rehearsal.moments)
        return _Measured(cost, rehearsal)

    def log_value(self, look: Look) -> Tensor:
        values = [term.log_value(look) for term in self._terms]
        values += [-SIGNAL_FRACTION(look.t) * c(look.x0_hat).double() for c in self._rest]
        return torch.stack(values).sum(0)

    def residual(self, look: Look) -> Tensor:
        """r (S, N, m) with log psi = -|r|^2 / 2 + constant, for Gauss-Newton."""
        return torch.cat([term.residual(look) for term in self._terms], -1)


class _Widened:
    """One Gaussian summand, in units of its noise: N(r; b_t, I + W_t), r = (y - F(D)) / s."""

    def __init__(self, cost: Any) -> None:
        self.cost = cost
        self.cache: dict[float, tuple[Tensor, Tensor, Tensor]] = {}

    def law(self, t: Level) -> tuple[Tensor, Tensor]:
        """b_t (m,) and W_t (m, m), in units of the noise."""
        raise NotImplementedError

    def _whitener(self, t: Level) -> tuple[Tensor, Tensor, Tensor]:
        """b_t, L^-1 and log det L for L L^T = I + W_t."""
        if t.time not in self.cache:
            if len(self.cache) > 1:  # a step needs the level it leaves and the one it enters
                self.cache.pop(next(iter(self.cache)))
            shift, W = self.law(t)
            eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
            L = torch.linalg.cholesky(eye + W)
            inverse = torch.linalg.solve_triangular(L, eye, upper=False)
            self.cache[t.time] = shift, inverse, L.diagonal().log().sum()
        return self.cache[t.time]

    def residual(self, look: Look) -> Tensor:
        """Whitened residual (S, N, m)."""
        shift, inverse, _ = self._whitener(look.t)
        return (self.cost.residual(look.x0_hat) - shift) @ inverse.T

    def log_value(self, look: Look) -> Tensor:
        constant = self._whitener(look.t)[2] + self.cost.std.log().sum()
        constant = constant + 0.5 * len(self.cost.std) * math.log(2 * math.pi)
        return -0.5 * self.residual(look).square().sum(-1) - constant


class _Linear(_Widened):
    """Linear measurement, Gaussian uncertainty: W_t = A V_t A^T / s^2."""

    def __init__(self, cost: Any, event_shape: tuple[int, ...], moments: Moments) -> None:
        super().__init__(cost)
        A = cost.matrix(event_shape) / cost.std[:, None]
        self.factor = A if moments.basis is None else A @ moments.basis
        self.variance = moments.variance

    def law(self, t: Level) -> tuple[Tensor, Tensor]:
        W = (self.factor * t.prior_width(self.variance)) @ self.factor.T
        return W.new_zeros(len(W)), W


class _Measured(_Widened):
    """Any forward model: mean and covariance of (F(x_0) - F(D(x_t))) / s over the rehearsal's draws,
    shrunk towards the diagonal by m / (n + m)."""

    def __init__(self, cost: Any, rehearsal: Rehearsal) -> None:
        super().__init__(cost)
        self.rehearsal = rehearsal
        if rehearsal.x0 is None or rehearsal.x0_hat is None:
            raise InvalidInput("InflatedGaussian: a non-linear measurement needs a full rehearsal.")
        truth = cost.predict(rehearsal.x0[None])
        gap = (truth - cost.predict(rehearsal.x0_hat)) / cost.std
        n, m = gap.shape[1:]
        shrink = m / (n + m)
        centred = gap - gap.mean(1, keepdim=True)
        W = centred.mT @ centred / n
        self.shift = gap.mean(1)
        self.W = (1 - shrink) * W + shrink * torch.diag_embed(W.diagonal(dim1=-2, dim2=-1))

    def law(self, t: Level) -> tuple[Tensor, Tensor]:
        return self.rehearsal.interpolate(self.shift, t), self.rehearsal.interpolate(self.W, t)
