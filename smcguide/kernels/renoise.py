r"""The base kernel of several guidance papers: a fixed share of the noise is drawn anew,

    x_s = alpha_s D + sigma_s (sqrt(1 - share) e + sqrt(share) z),    e = (x_t - alpha_t D) / sigma_t.

It keeps the marginals of a known x_0, as every member of the family of `kernels.DDIM`, but its variance
does not shrink with the step: its chain does not tend to the prior's law as steps are refined.

References: DDRM (arXiv 2201.11793), DDNM (2212.00490), FreeDoM (2303.09833) with share = eta^2; DiffPIR
(2305.08995) with share = zeta.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.kernels.base import Kernel
from smcguide.records import Level


@dataclass(frozen=True)
class Renoise(Kernel):
    """Fresh noise of variance share * sigma_s^2.

    Arguments:
        share: in [0, 1].

    Raises:
        InvalidInput: for a share outside [0, 1].
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidInput(f"Renoise: share must be in [0, 1], got {self.share}.")

    def step(
        self, x: Tensor, x0_hat: Tensor, t: Level, s: Level, memory: Tensor | None = None
    ) -> Gaussian:
        c_x = math.sqrt(1 - self.share) * s.sigma / t.sigma
        mean = c_x * x + (s.alpha - t.alpha * c_x) * x0_hat
        return Gaussian(mean, math.sqrt(self.share) * s.sigma)
