r"""The proposal of DDSMC: what is unknown of x_0 is conditioned on the measurement, then the base step.

Given x_t, take x_0 ~ N(D, w I), the base kernel N(m, c^2) being what is left when x_0 is integrated out:
its mean moves by c_D for each unit of x_0. For a linear measurement y = A x_0 + s n the law of x_0
becomes N(mu, P), and the proposal

    P = (I / w + A^T A / s^2)^-1,     mu = P (D / w + A^T y / s^2)
    N( the base map at mu,  c^2 - c_D^2 w + c_D^2 P )

with w <= c^2 / 2 c_D^2, which binds on coarse grids only and leaves at least half of the variance: the
weights of a still narrower kernel need not have a finite variance.

Reference: Kelvinius et al., "Solving linear-Gaussian Bayesian inverse problems with decoupled diffusion
sequential Monte Carlo" (arXiv 2502.06379).
"""

import math
from dataclasses import dataclass

import torch

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Step
from smcguide.proposals.linear import LinearProposal
from smcguide.proposals.shift import shift_of
from smcguide.records import Look


@dataclass(frozen=True)
class DDSMC(LinearProposal):
    """The base step from the posterior of x_0 in place of its estimate.

    Summands of the cost that are not linear Gaussian likelihoods are left to the weights.

    Arguments:
        variance: V of the prior, for w = (1 / V + alpha_t^2 / sigma_t^2)^-1; positive, inf for the
            plain squared noise level.
        trust: largest shift of the mean in units of the base's standard deviation; inf for none.

    Raises:
        InvalidInput: for a variance or trust not positive; and with a cost that has no linear Gaussian
            part.
    """

    variance: float = 1.0
    trust: float = math.inf

    def __post_init__(self) -> None:
        if not self.variance > 0 or self.trust <= 0:
            raise InvalidInput(f"{self!r}: variance and trust must be positive.")

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        spectrum, S = self._spectrum, self._spectrum.S
        origin = torch.zeros_like(look.x[:1, :1])
        by_unit = step.base_of(origin, origin + 1).mean - step.base_of(origin, origin).mean
        c_D2 = by_unit.flatten()[0].double().square()
        c2 = spectrum.variance(base.std, base.mean)
        width = step.t.prior_width(torch.as_tensor(self.variance, dtype=c2.dtype, device=c2.device))
        width = torch.minimum(width, c2 / (2 * c_D2))
        delta = shift_of(spectrum.pull(look, 1 / width), look, step, "recomputed")
        known = width * S**2 / (1 + width * S**2)
        std = (c2 - c_D2 * width * known).sqrt()
        return spectrum.with_std(base.moved(delta, self.trust), std)
