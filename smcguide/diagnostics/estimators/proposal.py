r"""The sampling law of adaptive importance sampling: a defensive mixture of the target and Gaussians.

    q = rho p + (1 - rho) sum_k pi_k N(m_k, S_k)

The share rho of the target itself bounds every weight p / q by 1 / rho, whatever the fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.weights import log_sum_exp, normalise

_ITERATIONS = 20  # of EM
_FLOOR = 1e-6  # added to the variances, relative


@dataclass(frozen=True)
class Mixture:
    """Gaussians over flat events.

    Attributes:
        log_share: (K,) log pi_k.
        mean: (K, d).
        root: (K, d, d) lower Cholesky factors of S_k.
    """

    log_share: Tensor
    mean: Tensor
    root: Tensor

    def log_parts(self, x: Tensor) -> Tensor:
        """log pi_k N(x; m_k, S_k), (M, K), at x (M, d)."""
        gap = (x[:, None] - self.mean).permute(1, 2, 0)
        white = torch.linalg.solve_triangular(self.root, gap, upper=False)
        volume = self.root.diagonal(dim1=1, dim2=2).log().sum(1)
        norm = self.log_share - volume - x.shape[1] / 2 * math.log(2 * math.pi)
        return norm - white.square().sum(1).T / 2

    def draw(self, num: int, generator: Generator) -> Tensor:
        """(num, d) draws."""
        share = self.log_share.exp()
        k = torch.multinomial(share, num, replacement=True, generator=generator)
        z = torch.randn(num, self.mean.shape[1], generator=generator, dtype=share.dtype,
                        device=share.device)  # fmt: skip
        return self.mean[k] + torch.einsum("mde,me->md", self.root[k], z)


@dataclass(frozen=True)
class Defensive:
    """q = rho p + (1 - rho) mixture; p alone without a mixture.

    Attributes:
        draw_p: (num, generator) -> (num, *E).
        log_p: (M, *E) -> (M,), normalised.
        rho: share of p.
        mixture: of flat events, or None.
    """

    draw_p: Callable[[int, Generator], Tensor]
    log_p: Callable[[Tensor], Tensor]
    rho: float
    mixture: Mixture | None = None

    def draw(self, num: int, generator: Generator) -> Tensor:
        """(num, *E) draws.

        Raises:
            InvalidInput: where `draw_p` gives another number.
        """
        x = self.draw_p(num, generator)
        if x.ndim < 1 or len(x) != num:
            raise InvalidInput(
                f"expectations: draw gave {tuple(x.shape)} where {num} draws were asked for; expected "
                f"({num}, *E)."
            )
        if self.mixture is None:
            return x
        u = torch.rand(num, generator=generator, dtype=torch.float64, device=x.device)
        other = self.mixture.draw(num, generator).to(x.dtype).reshape(x.shape)
        return torch.where((u < self.rho).reshape(-1, *[1] * (x.ndim - 1)), x, other)

    def log_q(self, x: Tensor, log_p: Tensor) -> Tensor:
        """log q (M,) at x, where log p is known."""
        if self.mixture is None:
            return log_p
        parts = self.mixture.log_parts(x.reshape(len(x), -1).double()) + math.log1p(-self.rho)
        return log_sum_exp(torch.cat([log_p[:, None] + math.log(self.rho), parts], 1))


def fitted(x: Tensor, log_w: Tensor, num: int, generator: Generator) -> Mixture:
    """`num` Gaussians fitted to weighted points x (M, d), log_w (M,), by EM from weighted draws.

    Each covariance is drawn towards that of all points as if the latter had been seen d + 1 times among
    as many points as the weights are worth.
    """
    W = normalise(log_w[None])[0]
    worth, d = 1 / W.square().sum(), x.shape[1]
    centre = W @ x
    whole = (x - centre).T @ (W[:, None] * (x - centre))
    whole = whole + _FLOOR * torch.diag(whole.diagonal().clamp(min=1e-300))
    start = x[torch.multinomial(W, num, replacement=True, generator=generator)]
    share = torch.full((num,), -math.log(num), dtype=x.dtype, device=x.device)
    root = torch.linalg.cholesky(whole)
    mixture = Mixture(share, start if num > 1 else centre[None], root.expand(num, -1, -1))
    for _ in range(_ITERATIONS if num > 1 else 1):
        mass = torch.softmax(mixture.log_parts(x), 1) * W[:, None]
        total = mass.sum(0).clamp(min=1e-12)
        mean = (mass.T @ x) / total[:, None]
        gap = x[:, None] - mean
        spread = worth * torch.einsum("mk,mkd,mke->kde", mass, gap, gap) + (d + 1) * whole
        root = torch.linalg.cholesky(spread / (worth * total + d + 1)[:, None, None])
        mixture = Mixture((total / total.sum()).log(), mean, root)
    return mixture
