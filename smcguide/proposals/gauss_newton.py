r"""One Gauss-Newton step of the DTM problem for least-squares values, -log psi = |r(D)|^2 / 2 + const.

With J = dD/dx, R = dr/dD, B = dm/dx all at x_t, and x~ = x_t + gamma u,

    gamma ( J^T R^T R J + B^T B / c^2 ) gamma u = -gamma J^T R^T r

solved by a few conjugate-gradient iterations, each with two vector-Jacobian products through one kept
network evaluation, which also give J gamma u. J is taken to be symmetric, which it is for an exact
denoiser; truncation and asymmetry only make the proposal worse, never wrong.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Step
from smcguide.records import Look


def require_least_squares(value: Any) -> None:
    """Raise InvalidInput unless a potential is a least-squares one."""
    if not hasattr(value, "residual"):
        raise InvalidInput(
            f"solver='gauss_newton' needs a least-squares value such as InflatedGaussian(), got "
            f"{value!r}. Use solver='sgd'."
        )


def gauss_newton(
    base: Gaussian, look: Look, step: Step, gamma: float | Tensor, guide: Any, num_iters: int
) -> tuple[Tensor, Tensor]:
    """The control u (S, N, *E), and the denoised estimate there to first order, D + J gamma u."""
    residual = (guide or step.potential).residual
    D, J = step.linearise(step.denoise, look.x)
    r, Rt = step.linearise(lambda D: residual(replace(look, x0_hat=D)), D)
    there = step.base_of(look.x, D).mean

    def product(u: Tensor) -> tuple[Tensor, Tensor]:
        v = gamma * u
        Jv = J(v)
        RtRJv = Rt(residual(replace(look, x0_hat=D + Jv)) - r)
        s = (step.base_of(look.x + v, D + Jv).mean - there) / base.std**2
        Bs_direct = step.base_of(look.x + s, D).mean - there
        Bs_through = step.base_of(look.x, D + s).mean - there
        return gamma * (J(RtRJv + Bs_through) + Bs_direct), Jv

    u, Ju = _conjugate_gradient(product, -gamma * J(Rt(r)), num_iters)
    return u, D + Ju


def _conjugate_gradient(product: Any, b: Tensor, num_iters: int) -> tuple[Tensor, Tensor]:
    """Approximate solution u of H u = b, particle by particle, and J u, where product(u) is (H u, J u);
    a particle stops where the curvature is not positive."""

    def ratio(p: Tensor, q: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """<p, q> / <r, s>, 0 unless both are positive, broadcast over the event."""
        top, bottom = ((a * b).flatten(2).sum(-1) for a, b in ((p, q), (r, s)))
        safe = (top > 0) & (bottom > torch.finfo(b.dtype).tiny)
        value = torch.where(safe, top / torch.where(safe, bottom, 1.0), 0.0)
        return value.reshape(*value.shape, *[1] * (b.ndim - 2))

    u, Ju, res, direction = torch.zeros_like(b), torch.zeros_like(b), b, b
    for _ in range(num_iters):
        image, J_direction = product(direction)
        length = ratio(res, res, direction, image)
        u, Ju, new = u + length * direction, Ju + length * J_direction, res - length * image
        direction, res = new + ratio(new, new, res, res) * direction, new
    return u, Ju
