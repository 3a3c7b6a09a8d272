r"""T2: the Gaussian likelihood at the denoiser's estimate, with its covariance inflated by what is still
unknown about x_0:

    psi_t(x_t) = N(y; A D(x_t), s^2 I + A V_t A^T),        V_t = (V^-1 + (alpha^2 / sigma^2) I)^-1

V is the prior's covariance; for a Gaussian prior psi_t is the exact optimal value. V = 1 is PiGDM's
width (Song et al., ICLR 2023), V = infinity the plain lam^2. The width decides everything: too narrow
loses modes, so err on the wide side. Summands of the cost that are not linear-Gaussian are treated as
`Tweedie` treats them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential, signal_fraction
from smcguide.records import Level, Look, Moments
from smcguide.rehearsal import Rehearsal

_LARGEST_DENSE = 2048


@dataclass(frozen=True)
class InflatedGaussian(Potential):
    """Likelihood of a linear measurement, widened by the remaining uncertainty.

    Arguments:
        variance: None for the prior's own covariance (known for analytic priors, estimated once from
            draws for networks), or an isotropic number: 1.0 is PiGDM, math.inf plain lam^2.

    Raises:
        InvalidInput: when bound to a cost without a linear-Gaussian part, or to more than 2048
            measurements that are not a mask with an isotropic variance.
    """

    variance: float | None = None
    _terms: Sequence["_Inflated"] = field(default=(), init=False, repr=False)
    _rest: Sequence[Any] = field(default=(), init=False, repr=False)

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.variance is None

    def bind(self, cost: Any, event_shape: tuple[int, ...], rehearsal: Rehearsal | None) -> Self:
        linear = [c for c in cost.parts() if hasattr(c, "matrix")]
        if not linear:
            raise InvalidInput(
                f"InflatedGaussian needs a LinearGaussian cost, got {cost!r}. For other costs use "
                "potentials.Tweedie()."
            )
        d, moments = math.prod(event_shape), rehearsal.moments if rehearsal else None
        if self.variance is not None:
            device = linear[0].y.device
            full = torch.full((d,), self.variance, dtype=torch.float64, device=device)
            moments = Moments(torch.zeros_like(full), full)
        if moments is None:
            raise InvalidInput("InflatedGaussian(): the prior's moments are unknown; give variance=.")
        bound = super().bind(cost, event_shape, rehearsal)
        terms = tuple(_Inflated(c, event_shape, moments) for c in linear)
        object.__setattr__(bound, "_terms", terms)
        object.__setattr__(bound, "_rest", tuple(c for c in cost.parts() if c not in linear))
        return bound

    def log_value(self, look: Look) -> Tensor:
        values = [term.log_value(look) for term in self._terms]
        weight = signal_fraction(look.t)
        values += [-weight * c(look.x0_hat).double() for c in self._rest]
        return torch.stack(values).sum(0)

    def residual(self, look: Look) -> Tensor:
        """r (S, N, m) with log psi = -|r|^2 / 2 + constant, for Gauss-Newton."""
        return torch.cat([term.residual(look) for term in self._terms], -1)


class _Inflated:
    """One linear-Gaussian summand: log N(y; A D, s^2 I + A V_t A^T) for every level."""

    def __init__(self, cost: Any, event_shape: tuple[int, ...], moments: Moments) -> None:
        self.cost, m = cost, len(cost.std)
        if m > _LARGEST_DENSE:
            raise InvalidInput(
                f"InflatedGaussian: {m} measurements need a dense {m} x {m} covariance per level, the "
                f"limit is {_LARGEST_DENSE}. Use potentials.Tweedie()."
            )
        A = cost.matrix(event_shape) / cost.std[:, None]
        self.factor = A if moments.basis is None else A @ moments.basis
        self.variance = moments.variance
        self.cache: dict[float, tuple[Tensor, Tensor]] = {}

    def _whitener(self, t: Level) -> tuple[Tensor, Tensor]:
        """L^-1 and log det L of the whitened covariance L L^T = I + A V_t A^T / s^2."""
        if t.time not in self.cache:
            if len(self.cache) > 1:  # a step needs the level it leaves and the one it enters
                self.cache.pop(next(iter(self.cache)))
            V_t = t.prior_width(self.variance)
            eye = torch.eye(len(self.factor), dtype=V_t.dtype, device=V_t.device)
            L = torch.linalg.cholesky(eye + (self.factor * V_t) @ self.factor.T)
            inverse = torch.linalg.solve_triangular(L, eye, upper=False)
            self.cache[t.time] = inverse, L.diagonal().log().sum()
        return self.cache[t.time]

    def residual(self, look: Look) -> Tensor:
        """Whitened residual (S, N, m)."""
        return self.cost.residual(look.x0_hat) @ self._whitener(look.t)[0].T

    def log_value(self, look: Look) -> Tensor:
        m = len(self.cost.std)
        constant = self._whitener(look.t)[1] + self.cost.std.log().sum()
        constant = constant + 0.5 * m * math.log(2 * math.pi)
        return -0.5 * self.residual(look).square().sum(-1) - constant
