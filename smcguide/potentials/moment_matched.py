r"""T3: the Gaussian likelihood of a linear measurement at the denoiser's estimate, widened by what this
particle's own denoiser says is unknown:

    psi_t(x_t) = N(y; A D, s^2 I + A Sigma_t A^T),     Sigma_t = (sigma_t^2 / alpha_t) dD / dx_t

For an exact denoiser Sigma_t is the covariance of x_0 given x_t, so two moments of y are right for any
prior, and for a Gaussian one psi_t is the optimal value. dD/dx is symmetric: a product with it is one
pass back through the network. With r = (y - A D) / s and W = A Sigma_t A^T / s^2, symmetrised,

    dense       W by m passes, its eigenvalues not below 0
    cg          r^T (I + W)^-1 r by conjugate gradients, one pass per iteration; log det (I + W) is
                that of the prior's width, as in `InflatedGaussian`, where it is known, and left out
                where not: the same for all particles, it cancels
    diagonal    the row sums of W on the diagonal, one pass; for masks and other rows that do not
                mix signs, otherwise they are far too narrow

W is held constant in the gradient, J^T A^T (s^2 I + A Sigma_t A^T)^-1 (y - A D), as published.

References: Finzi et al., "User-defined event sampling" (arXiv 2306.07526), dense; Rozet et al., MMPS
(2405.13712), cg; Boys et al., "Tweedie moment projected diffusions" (2310.06721), diagonal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential, tweedie
from smcguide.potentials.widths import Linear, Masked, Widened
from smcguide.problem import Problem
from smcguide.records import Look
from smcguide.rehearsal import Moments

_LARGEST_DENSE, _LARGEST_WIDTH = 512, 2048
_Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MomentMatched(Potential):
    """Gaussian likelihood, widened by the denoiser's Jacobian. Before there is any signal (alpha = 0)
    the Jacobian says nothing, and psi = 1. Summands of the cost that are not Gaussian likelihoods are
    treated as `Tweedie` treats them.

    Arguments:
        solver: "cg", "dense" or "diagonal" (the table above).
        num_iters: of "cg"; as many as there are measurements make it exact.

    Raises:
        InvalidInput: for an unknown solver or num_iters below 1; when bound to a cost without a
            linear Gaussian part, with a non-linear one, or to more than 512 measurements ("dense").
    """

    solver: Literal["cg", "dense", "diagonal"] = "cg"
    num_iters: int = 3
    _linear: Sequence[Any] = field(default=(), init=False, repr=False)
    _rest: Sequence[Any] = field(default=(), init=False, repr=False)
    _widths: Sequence[Widened] = field(default=(), init=False, repr=False)
    needs_jacobian = True
    needs_cost_gradient = True

    def __post_init__(self) -> None:
        if self.solver not in ("cg", "dense", "diagonal") or self.num_iters < 1:
            raise InvalidInput(
                f"{self!r}: solver must be 'cg', 'dense' or 'diagonal', num_iters at least 1."
            )

    def check(self, cost: Any) -> None:
        gaussian = [c for c in cost.parts() if hasattr(c, "residual")]
        if not gaussian or not all(hasattr(c, "matrix") for c in gaussian):
            raise InvalidInput(
                f"{self!r}: a Jacobian potential needs linear operators (LinearGaussian), got the cost "
                f"{cost!r}. With a non-linear operator use potentials.InflatedGaussian() or "
                "potentials.Laplace(), for other costs potentials.Tweedie()."
            )
        m = sum(len(c.std) for c in gaussian)
        if self.solver == "dense" and m > _LARGEST_DENSE:
            raise InvalidInput(
                f"{self!r}: {m} measurements take as many passes through the network, the limit is "
                f"{_LARGEST_DENSE}. Use potentials.MomentMatched('cg')."
            )

    def bind(self, problem: Problem) -> Self:
        self.check(problem.cost)
        bound, parts = super().bind(problem), problem.cost.parts()
        linear = tuple(c for c in parts if hasattr(c, "matrix"))
        object.__setattr__(bound, "_linear", linear)
        object.__setattr__(bound, "_rest", tuple(c for c in parts if c not in linear))
        if self.solver == "cg" and problem.rehearsal is not None:
            widths = (_width(c, problem.event_shape, problem.rehearsal.moments) for c in linear)
            object.__setattr__(bound, "_widths", tuple(w for w in widths if w is not None))
        return bound

    def log_value(self, look: Look) -> Tensor:
        if look.t.alpha == 0:
            return look.x.new_zeros(look.x.shape[:2], dtype=torch.float64)
        r, std = self._residual(look.x0_hat), torch.cat([c.std for c in self._linear])
        spread = self._spread(look, std)
        if self.solver == "cg":
            form = _quadratic_form(lambda v: v + spread(v), r, self.num_iters)
            log_det = sum((width.log_det(look.t) for width in self._widths), r.new_zeros(()))
        else:
            if self.solver == "dense":
                w, U = torch.linalg.eigh(_matrix(spread, r))
                r = (r[..., None, :] @ U)[..., 0, :]
            else:
                w = spread(std.expand_as(r)) / std
            width = 1 + w.clamp(min=0)
            form, log_det = (r.square() / width).sum(-1), width.log().sum(-1)
        value = -0.5 * (form + log_det) - (std * math.sqrt(2 * math.pi)).log().sum()
        return value + tweedie(self._rest, look)

    def _residual(self, x0: Tensor) -> Tensor:
        return torch.cat([c.residual(x0) for c in self._linear], -1)

    def _spread(self, look: Look, std: Tensor) -> _Product:
        """v -> W v, (S, N, m), without a gradient."""
        _, pull = look.step.linearise(self._residual, look.x0_hat)  # v -> -A^T v / s
        jacobian, scale = look.vjp, look.t.sigma**2 / look.t.alpha
        if jacobian is None:
            raise InvalidInput(f"{self!r} needs a look with the denoiser's Jacobian.")

        def spread(v: Tensor) -> Tensor:
            u = jacobian(-scale * pull(v.detach()))
            return torch.cat([c.predict(u) for c in self._linear], -1) / std

        return spread


def _width(cost: Any, event_shape: tuple[int, ...], moments: Moments) -> Widened | None:
    """The prior's width for one summand; None where it would be a huge matrix."""
    small = len(cost.std) <= _LARGEST_WIDTH
    if cost.selected is not None and (moments.basis is None or not small):
        return Masked(cost, moments)
    return Linear(cost, event_shape, moments) if small else None


def _matrix(product: _Product, r: Tensor) -> Tensor:
    """The symmetric part (S, N, m, m) of a linear map of vectors like r, column by column."""
    columns = []
    for i in range(r.shape[-1]):
        unit = torch.zeros_like(r)
        unit[..., i] = 1
        columns.append(product(unit))
    W = torch.nan_to_num(torch.stack(columns, -1))  # of a particle lost already; eigh would raise
    return (W + W.mT) / 2


def _quadratic_form(product: _Product, r: Tensor, num_iters: int) -> Tensor:
    """r^T M^-1 r (S, N) by conjugate gradients from 0, with the gradient 2 M^-1 r; a particle stops where
    the curvature is not positive."""

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        safe = (a > 0) & (b > torch.finfo(b.dtype).tiny)
        return torch.where(safe, a / torch.where(safe, b, 1.0), 0.0)[..., None]

    left = direction = r.detach()
    v, square = torch.zeros_like(left), left.square().sum(-1)
    for _ in range(num_iters):
        image = product(direction)
        length = ratio(square, (direction * image).sum(-1))
        v, left = v + length * direction, left - length * image
        before, square = square, left.square().sum(-1)
        direction = left + ratio(square, before) * direction
    return (2 * r * v - v * (r.detach() - left)).sum(-1)  # M v = r - left
