r"""DDRM: each measured direction of x_s has its own Gaussian, for linear measurements y = A x_0 + s n.

With A / s = U diag(S) V^T, th = V^T D and yb = th + (1 / S) U^T (y - A D) / s, the law of V^T x_s is

    N( alpha_s th + sqrt(sigma_s^2 - v) S (yb - th),  v )      where sigma_s / alpha_s < 1 / S, the
                                                               measurement is noisier than the state,
    N( alpha_s (th + eta_b (yb - th)),                         elsewhere,
       sigma_s^2 - eta_b^2 alpha_s^2 / S^2 )

v the variance of the base kernel (v = eta^2 sigma_s^2 in the paper), whose mean is kept in all other
directions. With `noiseless`, S = inf: the measured directions are N(alpha_s yb, sigma_s^2), which after
a gradient step is MCG's projection, made before the noise is added.

References: Kawar et al., DDRM (arXiv 2201.11793); Chung et al., MCG (arXiv 2206.00941).
"""

import math
from dataclasses import dataclass

import torch

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Step
from smcguide.proposals.linear import LinearProposal
from smcguide.records import Look

_FLOOR = 1e-3  # of the base kernel's std, where the published variance vanishes


@dataclass(frozen=True)
class Spectral(LinearProposal):
    """Replace the measured directions, one by one.

    Summands of the cost that are not linear Gaussian likelihoods are left to the weights.

    Arguments:
        eta_b: how much of the measurement enters while the state is noisier than it, in [0, 1].
        noiseless: take the measurement to be exact.
        trust: largest shift of the mean in units of the base's standard deviation; inf for none.

    Raises:
        InvalidInput: for eta_b outside [0, 1], trust not positive; and with a cost that has no linear
            Gaussian part.
    """

    eta_b: float = 1.0
    noiseless: bool = False
    trust: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.eta_b <= 1 or self.trust <= 0:
            raise InvalidInput(f"{self!r}: eta_b must be in [0, 1], trust positive (inf for none).")

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        spectrum, s = self._spectrum, step.s
        v = spectrum.variance(base.std, base.mean)
        S = torch.full_like(spectrum.S, math.inf) if self.noiseless else spectrum.S.abs()
        noisy = s.sigma * S < s.alpha  # the measurement is noisier than the state
        gap = spectrum.residual(look.x0_hat) / spectrum.S
        near = (s.sigma**2 - v).clamp(min=0).sqrt() * torch.where(noisy, S, 0.0)
        mean = s.alpha * spectrum.rows(look.x0_hat)
        mean = mean + torch.where(noisy, near, s.alpha * self.eta_b) * gap
        delta = spectrum.back(mean - spectrum.rows(base.mean), base.mean)
        far = s.sigma**2 - (self.eta_b * s.alpha / S) ** 2
        std = torch.where(noisy, v, torch.maximum(far, _FLOOR**2 * v)).sqrt()
        return spectrum.with_std(base.moved(delta, self.trust), std)
