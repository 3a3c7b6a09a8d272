r"""Control of the clean estimate by an exact solution, for linear measurements y = A x_0 + s n:

    D~ = argmin_x |(y - A x) / s|^2 / 2 + (weight / (2 lam_t^2)) |x - D(x_t)|^2,     lam = sigma / alpha

and then the base kernel with D~. No gradient of any kind. With weight -> 0 it is the projection
D + A^+ (y - A D).

    weight    noise         kernel                             method
    lambda    recomputed    v = zeta sigma_s^2                 DiffPIR (Zhu et al., arXiv 2305.08995)
    0         kept          v = eta^2 sigma_s^2                DDNM (Wang et al., arXiv 2212.00490)
"""

import math
from dataclasses import dataclass

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Step
from smcguide.proposals.linear import LinearProposal
from smcguide.proposals.shift import Noise, check_noise, shift_of
from smcguide.records import Look


@dataclass(frozen=True)
class Proximal(LinearProposal):
    """The clean estimate moved to where measurement and denoiser agree best.

    Summands of the cost that are not linear Gaussian likelihoods are left to the weights.

    Arguments:
        weight: of the denoiser's estimate against the measurement, in [0, inf]; inf is the base kernel.
        noise: "recomputed" (the noise part of the base mean is that of D~) or "kept" (the network's).
        trust: largest shift in units of the step's standard deviation; inf for none.

    Raises:
        InvalidInput: for a negative weight, an unknown `noise`, trust not positive; and with a cost that
            has no linear Gaussian part.
    """

    weight: float = 1.0
    noise: Noise = "recomputed"
    trust: float = math.inf

    def __post_init__(self) -> None:
        check_noise(self)
        if not self.weight >= 0:
            raise InvalidInput(f"{self!r}: weight must be nonnegative.")

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        closeness = (step.t.alpha / step.t.sigma) ** 2
        precision = math.inf if self.weight == math.inf else self.weight * closeness
        u = self._spectrum.pull(look, precision)
        delta = shift_of(u, look, step, self.noise)
        return base.moved(delta, self.trust)
