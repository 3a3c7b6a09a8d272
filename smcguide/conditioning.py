r"""Gaussian values of the state, psi(x) = N(v; F x, Omega), and what they make of a Gaussian kernel.

With Omega = L L^T, the decomposition L^-1 F = U diag(s) V^T and w = U^T L^-1 v, everything is diagonal:

    log psi(x)                        = -|w - s V^T x|^2 / 2 + constant
    log int N(x; m, c^2 I) psi(x) dx  = -sum (w - s V^T m)^2 / 2 k  -  sum log(k) / 2 + constant
    N(x; m, c^2 I) psi(x) / int ...   = mean m + V (c^2 s / k) (w - s V^T m),  std c / sqrt(k) along V,

with k = 1 + c^2 s^2 and std c in all other directions.
"""

import math

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian


class GaussianValue:
    """psi(x) = N(v; F x, Omega), float64.

    Arguments:
        F: (m, d) acting on flattened events; m = 0 is psi = 1.
        v: (S, m), or (1, m) for all systems.
        Omega: (m, m) positive definite.
    """

    def __init__(self, F: Tensor, v: Tensor, Omega: Tensor) -> None:
        self.F, self.v, self.Omega = F, v, Omega
        L = torch.linalg.cholesky(Omega)
        U, self._s, Vt = torch.linalg.svd(
            torch.linalg.solve_triangular(L, F, upper=False), full_matrices=False
        )
        white = torch.linalg.solve_triangular(L, v.mT, upper=False).mT
        self._V, self._w = Vt.mT, white @ U
        beyond = white - self._w @ U.mT  # what no state explains, if rows outnumber columns
        self._constant = -0.5 * beyond.square().sum(-1) - L.diagonal().log().sum()
        self._constant = self._constant - 0.5 * len(Omega) * math.log(2 * math.pi)

    def _gap(self, x: Tensor) -> Tensor:
        return self._w[:, None] - self._s * (x.flatten(2).double() @ self._V)

    def log_density(self, x: Tensor) -> Tensor:
        """log psi(x), (S, N) for x (S, N, *E)."""
        return -0.5 * self._gap(x).square().sum(-1) + self._constant[:, None]

    def log_mean(self, base: Gaussian) -> Tensor:
        """log of the mean of psi over a kernel with one std, (S, N)."""
        k = 1 + (_one_std(base) * self._s) ** 2
        square = (self._gap(base.mean).square() / k).sum(-1)
        return -0.5 * (square + k.log().sum()) + self._constant[:, None]

    def condition(self, base: Gaussian) -> Gaussian:
        """The law proportional to base(x) psi(x), for a base kernel with one std."""
        c, x = _one_std(base), base.mean
        k = 1 + (c * self._s) ** 2
        delta = (self._gap(x) * (c**2 * self._s / k)) @ self._V.mT
        return Gaussian(
            x + delta.reshape(x.shape).to(x.dtype),
            base.std,
            basis=self._V.to(x.dtype),
            along=(c / k.sqrt()).to(x.dtype),
        )


def _one_std(base: Gaussian) -> float | Tensor:
    if isinstance(base.std, float):
        return base.std
    if base.std.numel() == 1:
        return base.std.double().reshape(())
    raise InvalidInput(
        f"A Gaussian value needs a base kernel with one std for all coordinates, got a std of shape "
        f"{tuple(base.std.shape)}. Use kernels.DDPM(), or another potential and proposal."
    )
