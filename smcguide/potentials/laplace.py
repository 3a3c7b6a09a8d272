r"""A Gaussian likelihood with any forward model F, linearised where it and the denoiser's estimate agree
best: the evidence of y under N(x_0; D, v_t I) by Laplace's method. With the residual r = (y - F) / s

    x^ = argmin_x |r(x)|^2 / 2 + |x - D|^2 / (2 v_t)
    psi_t(x_t) = N(r(x^) + R (D - x^); 0, I + v_t R R^T) / prod s,     R = dr/dx at x^

by Gauss-Newton steps from D, solved in the space of the m measurements: m products with the forward
model's adjoint each, and no pass through the network. v_t is what the denoiser usually leaves unknown,
measured on draws of the prior. For linear F this is `InflatedGaussian` with that width. By the envelope
theorem x^ needs no derivative: the gradient with respect to D is (x^ - D) / v_t (the determinant, which
is that of an approximation, is held constant).

Where F folds (|x|, x^2) one minimum is not the whole posterior and the value over-confident:
`InflatedGaussian`, whose width is measured through F, is then the better one.

Reference: Tierney, Kadane, "Accurate approximations for posterior moments and marginal densities" (1986).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential, tweedie
from smcguide.potentials.widths import unknown
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.rehearsal import Rehearsal

_LARGEST = 512


@dataclass(frozen=True)
class Laplace(Potential):
    """Gaussian likelihoods linearised at the most probable event. Other summands of the cost are treated
    as `Tweedie` treats them.

    Arguments:
        num_iters: linearisations, the first at the denoised estimate.
        variance: of the prior's coordinates, which gives v_t = (1 / variance + alpha^2 / sigma^2)^-1;
            None to measure v_t.

    Raises:
        InvalidInput: for num_iters below 1, variance not positive; when bound to a cost without a
            Gaussian likelihood, to one with more than 512 measurements, or without a rehearsal.
    """

    num_iters: int = 4
    variance: float | None = None
    _gaussian: Sequence[Any] = field(default=(), init=False, repr=False)
    _rest: Sequence[Any] = field(default=(), init=False, repr=False)
    _rehearsal: Rehearsal | None = field(default=None, init=False, repr=False)
    needs_cost_gradient = True

    def __post_init__(self) -> None:
        if self.num_iters < 1 or not (self.variance is None or self.variance > 0):
            raise InvalidInput(
                f"{self!r}: num_iters must be at least 1, variance positive or None."
            )

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.variance is None

    @property
    def uses_cost(self) -> int:  # type: ignore[override]
        return self.num_iters

    def check(self, cost: Any) -> None:
        sizes = [len(c.std) for c in cost.parts() if hasattr(c, "residual")]
        if not sizes or sum(sizes) > _LARGEST:
            raise InvalidInput(
                f"{self!r} needs a GaussianLikelihood of at most {_LARGEST} measurements, got the cost "
                f"{cost!r} with {sum(sizes)}. Use potentials.InflatedGaussian() or potentials.Tweedie()."
            )

    def bind(self, problem: Problem) -> Self:
        self.check(problem.cost)
        unknown(Level(1.0, 1.0, 1.0), self.variance, problem.rehearsal)
        bound, parts = super().bind(problem), problem.cost.parts()
        gaussian = tuple(c for c in parts if hasattr(c, "residual"))
        object.__setattr__(bound, "_gaussian", gaussian)
        object.__setattr__(bound, "_rest", tuple(c for c in parts if c not in gaussian))
        object.__setattr__(bound, "_rehearsal", problem.rehearsal)
        return bound

    def log_value(self, look: Look) -> Tensor:
        v, D = unknown(look.t, self.variance, self._rehearsal), look.x0_hat.detach()
        offset = torch.zeros_like(D.flatten(2), dtype=torch.float64)  # x^ - D
        for _ in range(self.num_iters):
            r, R = self._linearise(look, D + offset.unflatten(2, D.shape[2:]).to(D.dtype))
            eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
            L = torch.linalg.cholesky_ex(
                eye + v * R @ R.mT
            ).L  # no error: NaN is the engine's to report
            c = r - _times(R, offset)  # the linear model at D
            offset = -v * _times(R.mT, torch.cholesky_solve(c[..., None], L)[..., 0])
        c = c + _times(R, (look.x0_hat - D).flatten(2).double())  # zero, with the gradient of D
        white = torch.linalg.solve_triangular(L, c[..., None], upper=False)[..., 0]
        std = torch.cat([k.std for k in self._gaussian])
        value = -0.5 * white.square().sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        value = value - std.log().sum() - 0.5 * len(std) * math.log(2 * math.pi)
        return value + tweedie(self._rest, look)

    def _residual(self, x0: Tensor) -> Tensor:
        return torch.cat([c.residual(x0) for c in self._gaussian], -1)

    def _linearise(self, look: Look, x0: Tensor) -> tuple[Tensor, Tensor]:
        """r (S, N, m) and R (S, N, m, d) at x0, row by row."""
        r, pull = look.step.linearise(self._residual, x0)
        rows = []
        for i in range(r.shape[-1]):
            unit = torch.zeros_like(r)
            unit[..., i] = 1
            rows.append(pull(unit).flatten(2).double())
        return r, torch.stack(rows, -2)


def _times(R: Tensor, v: Tensor) -> Tensor:
    return (R @ v[..., None])[..., 0]
