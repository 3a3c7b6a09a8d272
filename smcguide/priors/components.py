r"""What one noise level makes of the components of a Gaussian mixture (`priors.mixture`).

In the eigenbasis of its covariance U diag(v) U^T a component is, at x_t, N(alpha m, diag(u)) with
u = alpha^2 v + sigma^2, and its denoiser is diagonal: m + (alpha v / u) (x - alpha m), which is
(alpha v / u) x + (sigma^2 / u) m. Components are rows, (K, M): reductions over them are faster so.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from smcguide.records import Level
from smcguide.weights import log_sum_exp


class Components(ABC):
    """The law of x_t (M, d) and its denoiser, float64."""

    @abstractmethod
    def denoise(self, x: Tensor) -> Tensor:
        """E[x_0 | x_t = x], (M, d)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_t), (M,)."""


class OneShape(Components):
    """All components have one covariance: the distances are one matrix product.

    Arguments:
        log_w: (K,) log-weights.
        m: (K, d) means.
        v, U: (d,) and (d, d) eigenvalues and -vectors of the covariance, None for U = I.
        t: the noise level.
    """

    def __init__(self, log_w: Tensor, m: Tensor, v: Tensor, U: Tensor | None, t: Level) -> None:
        m = m if U is None else m @ U
        u = t.alpha**2 * v + t.sigma**2
        self._U, self._u = U, u
        self._directions = t.alpha * m / u
        self._log_w = (log_w - t.alpha**2 * (m.square() / u).sum(-1) / 2)[:, None]
        self._gain, self._rest = t.alpha * v / u, t.sigma**2 / u * m

    def _log_joint(self, z: Tensor) -> Tensor:
        """log of weight times density of each component, but for what all share, (K, M)."""
        return torch.addmm(self._log_w, self._directions, z.T)

    def denoise(self, x: Tensor) -> Tensor:
        z = x if self._U is None else x @ self._U
        r = torch.softmax(self._log_joint(z), 0)
        D = torch.addcmul((self._rest.T @ r).T.contiguous(), self._gain, z)
        return D if self._U is None else D @ self._U.T

    def log_prob(self, x: Tensor) -> Tensor:
        z = x if self._U is None else x @ self._U
        shared = (z.square() / self._u).sum(-1) + torch.log(2 * math.pi * self._u).sum()
        return log_sum_exp(self._log_joint(z), 0) - shared / 2


class ManyShapes(Components):
    """Each component has its own covariance.

    Arguments:
        log_w, m, t: as above.
        v, U: (K, d) and (K, d, d).
    """

    def __init__(self, log_w: Tensor, m: Tensor, v: Tensor, U: Tensor | None, t: Level) -> None:
        self._U, self._u = U, t.alpha**2 * v + t.sigma**2
        self._m = m if U is None else torch.einsum("kd,kde->ke", m, U)
        self._centre, self._gain = t.alpha * self._m, t.alpha * v / self._u
        self._log_w = (log_w - torch.log(2 * math.pi * self._u).sum(-1) / 2)[:, None]

    def _inside(self, x: Tensor) -> Tensor:
        """x - alpha m in each eigenbasis, (M, K, d)."""
        z = x[:, None] if self._U is None else torch.einsum("md,kde->mke", x, self._U)
        return z - self._centre

    def _log_joint(self, z: Tensor) -> Tensor:
        return self._log_w - (z.square() / self._u).sum(-1).T / 2

    def denoise(self, x: Tensor) -> Tensor:
        z = self._inside(x)
        D = self._m + self._gain * z
        if self._U is not None:
            D = torch.einsum("mke,kde->mkd", D, self._U)
        return torch.einsum("km,mkd->md", torch.softmax(self._log_joint(z), 0), D)

    def log_prob(self, x: Tensor) -> Tensor:
        return log_sum_exp(self._log_joint(self._inside(x)), 0)
