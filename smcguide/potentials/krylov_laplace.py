r"""A value for any differentiable cost: exp(-C) integrated over what is unknown about x_0, by Laplace.

With N(D, V_t) in place of the law of x_0 given x_t, V_t = (V^-1 + (alpha^2 / sigma^2) I)^-1,

    psi_t(x_t) = int exp(-C(x_0)) N(x_0; D, V_t) dx_0  ~=  exp(-F(x^)) det(V_t H + I)^-1/2,
    F(x) = C(x) + (x - D)^T V_t^-1 (x - D) / 2,     x^ = argmin F,     H = Hess C(D)

Each Newton step is a few conjugate-gradient iterations preconditioned by V_t. They need gradients of
C only, H p being a difference of two, and never V_t^-1: with p = V_t q the vector q is at hand. Their
step lengths a_j also give the determinant on the directions that matter, det = prod 1 / a_j. It is
exact for quadratic costs of few distinct curvatures, up to a constant of the level. Where C is sharp
this is far less confident than -C(D), and nothing is propagated through the network. In the gradient
the minimum is held where it is (envelope): d log psi / d D = V_t^-1 (x^ - D).

For multi-modal priors V_t is too wide near a mode, and sigma^2 / alpha dD/dx at the particle too narrow
between modes. A mixture of the two, `local` of it the particle's own, is better than either where
the tail of a mode matters; it takes a pass back through the network per iteration.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Look

Map = Callable[[Tensor], Tensor]
_REACH = 0.05  # of a difference of gradients, in standard deviations of x_0
_LENGTHS = (1.0, 0.5, 0.1)  # of a Newton step, tried in turn
_DONE = 1e3  # residual, of the first, in units of rounding


@dataclass(frozen=True)
class KrylovLaplace(Potential):
    """The cost integrated over the remaining uncertainty.

    Arguments:
        num_iters: conjugate-gradient iterations per Newton step, each one gradient of the cost.
        num_steps: Newton steps.
        local: share of the particle's own covariance in V_t, in [0, 1].

    Raises:
        InvalidInput: for numbers below 1, a share outside [0, 1]; with a cost without gradient.
    """

    num_iters: int = 3
    num_steps: int = 1
    local: float = 0.0
    _rehearsal: Any = field(default=None, init=False, repr=False)
    needs_rehearsal = True
    needs_cost_gradient = True
    uses_cost = 0  # counted by the step that is asked

    def __post_init__(self) -> None:
        if min(self.num_iters, self.num_steps) < 1 or not 0 <= self.local <= 1:
            raise InvalidInput(
                f"{self!r}: num_iters and num_steps must be at least 1, local in [0, 1]."
            )

    @property
    def needs_jacobian(self) -> bool:  # type: ignore[override]
        return self.local > 0

    def bind(self, problem: Problem) -> Self:
        bound = super().bind(problem)
        object.__setattr__(bound, "_rehearsal", problem.rehearsal)
        return bound

    def log_value(self, look: Look) -> Tensor:
        D = look.x0_hat.detach()
        cost, V = look.step.cost, self._covariance(look)

        def C(x: Tensor) -> Tensor:
            value: Tensor = cost(x.to(D.dtype).reshape(D.shape)).double()
            return value

        def slope(x: Tensor) -> Tensor:
            g: Tensor = look.step.gradient(cost, x.to(D.dtype).reshape(D.shape))
            return g.flatten(2).double()

        centre = D.flatten(2).double()
        x, u = centre, torch.zeros_like(centre)  # u = V^-1 (x - D), all the way
        F, log_det = C(x), torch.zeros(D.shape[:2], dtype=torch.float64, device=D.device)
        for i in range(self.num_steps):
            s, s_u, logs = _newton(slope, V, x, u, self.num_iters, torch.finfo(D.dtype).eps)
            log_det = logs if i == 0 else log_det
            for length in _LENGTHS:
                there, there_u = x + length * s, u + length * s_u
                F_there = C(there) + _dot(there_u, there - centre) / 2
                better = (F_there < F)[..., None]
                x, u = torch.where(better, there, x), torch.where(better, there_u, u)
                F = torch.minimum(F, F_there)
        moving = _dot(u, look.x0_hat.flatten(2).double() - centre)
        return moving - F - log_det / 2

    def _covariance(self, look: Look) -> Map:
        """p -> V_t p on flat float64 events (S, n, d)."""
        moments = self._rehearsal.moments
        width, U = look.t.prior_width(moments.variance), moments.basis

        def of_prior(p: Tensor) -> Tensor:
            return p * width if U is None else ((p @ U) * width) @ U.T

        t, vjp = look.t, look.vjp
        if vjp is None or t.alpha == 0:
            return of_prior

        def mixed(p: Tensor) -> Tensor:
            own = vjp(p.reshape(look.x0_hat.shape)).flatten(2).double()
            return (1 - self.local) * of_prior(p) + self.local * t.sigma**2 / t.alpha * own

        return mixed


def _newton(
    slope: Map, V: Map, x: Tensor, u: Tensor, num_iters: int, rounding: float
) -> tuple[Tensor, Tensor, Tensor]:
    """An approximate solution s of (H + V^-1) s = -(grad C + u) at x, V^-1 s, and log det (V H + I)."""
    g = slope(x)
    r = -(g + u)
    z = V(r)
    p, q = z, r  # q = V^-1 p
    s, s_u = torch.zeros_like(x), torch.zeros_like(x)
    rz = first = _dot(r, z)
    log_det = torch.zeros_like(rz)
    for _ in range(num_iters):
        done = rz <= (_DONE * rounding) ** 2 * first
        pq = _dot(p, q).clamp(min=math.ulp(0.0))
        e = (_REACH / pq.sqrt()).clamp(max=1e8)[..., None]
        Hp = (slope(x + e * p) - g) / e
        # a cost that curves down is taken to be straight
        curved = _dot(p, Hp).clamp(min=0) + pq
        length = torch.where(done, 0.0, rz / curved)[..., None]
        log_det = log_det + torch.where(done, 0.0, torch.log(curved / rz))
        s, s_u = s + length * p, s_u + length * q
        r = r - length * (Hp + q)
        z = V(r)
        new = _dot(r, z)
        ratio = torch.where(done, 0.0, new / rz.clamp(min=math.ulp(0.0)))[..., None]
        p, q, rz = z + ratio * p, r + ratio * q, new
    return s, s_u, log_det


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
