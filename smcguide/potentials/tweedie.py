"""T1: log psi_t = -l_t C(D(x_t)), the cost of the denoiser's estimate, for any cost.

At high noise the estimate is far from the data and the cost over-confident, so the strength l_t must
rise from small values to 1. (Wu et al., TDS, arXiv 2306.17775, has l_t = 1.)
"""

from dataclasses import dataclass

from torch import Tensor

from smcguide.potentials.base import SIGNAL_FRACTION, Potential, Strength, strength_at
from smcguide.records import Look


@dataclass(frozen=True)
class Tweedie(Potential):
    """The cost at the denoised estimate, with a strength.

    Arguments:
        strength: l_t, a number or a function of the level.
    """

    strength: Strength = SIGNAL_FRACTION

    def log_value(self, look: Look) -> Tensor:
        cost: Tensor = self.cost.at(look.theta)(look.x0_hat)
        return -strength_at(self.strength, look.t) * cost.double()
