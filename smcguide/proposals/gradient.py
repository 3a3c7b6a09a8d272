r"""The twisted proposal of TDS: shift the base mean by c^2 grad log psi_t(x_t), keep the variance c^2.

It is the first-order tilt of the base kernel by the potential. One backward pass through the network
per step, shared with the look-ahead.

The published image code shifts the estimate instead, D + (sigma_t^2 / alpha_t) grad, before taking
the posterior mean; on coarse grids that mean is many standard deviations off. It is here as
rule="x0_hat" for comparison.

Reference: Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models"
(arXiv 2306.17775).
"""

import math
from dataclasses import dataclass
from typing import Literal

from smcguide.errors import InvalidInput
from smcguide.proposals.base import Proposal, Step, within_trust
from smcguide.records import Gaussian, Look


@dataclass(frozen=True)
class Gradient(Proposal):
    """Shift along the gradient of the potential (TDS).

    Arguments:
        rule: "mean" (c^2 grad, the paper's), or "x0_hat" (the published image code's).
        trust: largest shift in units of the step's standard deviation; inf for none.
    """

    rule: Literal["mean", "x0_hat"] = "mean"
    trust: float = math.inf
    needs_gradient = True

    def __post_init__(self) -> None:
        if self.rule not in ("mean", "x0_hat") or self.trust <= 0:
            raise InvalidInput(f"{self!r}: rule must be 'mean' or 'x0_hat', trust positive.")

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        if self.rule == "mean" or step.t.alpha == 0:
            delta = base.std**2 * look.slope
        else:
            shifted = look.x0_hat + step.t.sigma**2 / step.t.alpha * look.slope
            delta = step.base_of(look.x, shifted).mean - base.mean
        return Gaussian(base.mean + within_trust(delta, base.std, self.trust), base.std)
