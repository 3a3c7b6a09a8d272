"""Gradient steps on a control, element by element, so that no particle knows of another.

(`torch.optim` does the same after importing a compiler for seconds at its first use.)

Reference: Kingma, Ba, "Adam" (arXiv 1412.6980), torch's default constants.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def sgd(
    u: Tensor, gradient: Callable[[int, Tensor], Tensor], rate: float, iters: Iterable[int]
) -> Tensor:
    """u after steps of gradient descent; gradient(i, u) at iteration i."""
    for i in iters:
        u = torch.sub(u, gradient(i, u), alpha=rate)
    return u


def adam(
    u: Tensor, gradient: Callable[[int, Tensor], Tensor], rate: float, iters: Iterable[int]
) -> Tensor:
    """u after steps of a fresh Adam; its iterations begin at 0."""
    m, v = torch.zeros_like(u), torch.zeros_like(u)
    for i in iters:
        g = gradient(i, u)
        m, v = BETA_1 * m + (1 - BETA_1) * g, BETA_2 * v + (1 - BETA_2) * g**2
        m_hat, v_hat = m / (1 - BETA_1 ** (i + 1)), v / (1 - BETA_2 ** (i + 1))
        u = u - rate * m_hat / (v_hat.sqrt() + EPSILON)
    return u
