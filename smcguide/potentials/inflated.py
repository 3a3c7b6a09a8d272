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
from functools import reduce
from operator import add
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential, tweedie
from smcguide.potentials.widths import Linear, Masked, Measured, Widened
from smcguide.problem import Problem
from smcguide.records import Look
from smcguide.rehearsal import Moments

_LARGEST_DENSE = 2048


@dataclass(frozen=True)
class InflatedGaussian(Potential):
    """Gaussian likelihood, widened by the remaining uncertainty.

    Arguments:
        variance: the prior's covariance V over flat events: None for its own (known for analytic priors,
            estimated once from draws for networks), a number (1.0 is PiGDM, math.inf plain lam^2), a
            (d,) tensor of variances, or a (d, d) covariance.

    Raises:
        InvalidInput: when bound to a cost without a Gaussian part, to a non-linear one with a given
            variance, or to more than 2048 measurements that are not a mask's.
    """

    variance: float | Tensor | None = None
    _terms: Sequence["Widened"] = field(default=(), init=False, repr=False)
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
        largest = max((len(c.std) for c in gaussian if c.selected is None), default=0)
        if largest > _LARGEST_DENSE:
            raise InvalidInput(
                f"InflatedGaussian: {largest} measurements need a dense covariance, the limit is "
                f"{_LARGEST_DENSE}. Use potentials.Tweedie()."
            )

    def bind(self, problem: Problem) -> Self:
        cost, event_shape, rehearsal = problem.cost, problem.event_shape, problem.rehearsal
        self.check(cost)
        bound = super().bind(problem)
        gaussian = [c for c in cost.parts() if hasattr(c, "residual")]
        terms = tuple(self._widen(c, event_shape, rehearsal) for c in gaussian)
        object.__setattr__(bound, "_terms", terms)
        object.__setattr__(bound, "_rest", tuple(c for c in cost.parts() if c not in gaussian))
        return bound

    def _widen(self, cost: Any, event_shape: tuple[int, ...], rehearsal: Any) -> Widened:
        moments = self._given(math.prod(event_shape), cost.std.device)
        if moments is None:
            if rehearsal is None:
                raise InvalidInput("InflatedGaussian(): the prior is unknown; give variance=.")
            moments = rehearsal.moments
        if not hasattr(cost, "matrix"):
            return Measured(cost, rehearsal)
        diagonal = moments.basis is None or len(cost.std) > _LARGEST_DENSE
        if cost.selected is not None and diagonal:
            return Masked(cost, moments)
        return Linear(cost, event_shape, moments)

    def _given(self, d: int, device: torch.device) -> Moments | None:
        """The moments behind `variance`; the mean plays no part."""
        if self.variance is None:
            return None
        V = torch.as_tensor(self.variance, dtype=torch.float64, device=device)
        if V.shape not in [(), (d,), (d, d)] or not bool(
            (V.diagonal() if V.ndim == 2 else V).min() >= 0
        ):
            raise InvalidInput(
                f"InflatedGaussian: variance must be nonnegative, a number, ({d},) or ({d}, {d}); got "
                f"shape {tuple(V.shape)}, smallest {float(V.min()):.3g}."
            )
        if V.ndim == 2:
            v, U = torch.linalg.eigh(V)
            return Moments(torch.zeros_like(v), v.clamp(min=0), U)
        return Moments(V.new_zeros(d), V.expand(d))

    def log_value(self, look: Look) -> Tensor:
        value = reduce(add, [term.log_value(look) for term in self._terms])
        return value + tweedie(self._rest, look) if self._rest else value

    def residual(self, look: Look) -> Tensor:
        """r (S, N, m) with log psi = -|r|^2 / 2 + constant, for Gauss-Newton."""
        return torch.cat([term.residual(look) for term in self._terms], -1)
