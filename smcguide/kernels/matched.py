r"""Reverse kernel with matched variance: the DDPM mean, and the variance that a finite step really has.

Given x_t, the true reverse law is a mixture of DDPM posteriors over x_0, so its variance is the
posterior's plus what is unknown about x_0,

    v = v_DDPM + c_D^2 E |x_0 - D(x_t)|^2 / d,

with the expectation measured once on draws of the prior. Ancestral DDPM drops the second term and so
contracts on coarse grids; with it an isotropic Gaussian prior is reproduced in any number of steps, up
to the error of the measurement, (2 / (n d))^(1/2) of the expectation with n draws.

Reference: Bao et al., "Analytic-DPM" (arXiv 2201.06503).
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from smcguide.gaussian import Gaussian
from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDIM
from smcguide.records import Level
from smcguide.rehearsal import Rehearsal


@dataclass(frozen=True)
class MatchedDDPM(Kernel):
    """Ancestral sampling with the matched variance; plain DDPM until bound to a prior."""

    needs_rehearsal = True
    _rehearsal: Rehearsal | None = field(default=None, init=False, repr=False)

    def bind(self, rehearsal: Rehearsal | None) -> Self:
        bound = replace(self)
        object.__setattr__(bound, "_rehearsal", rehearsal)
        return bound

    def step(
        self, x: Tensor, x0_hat: Tensor, t: Level, s: Level, memory: Tensor | None = None
    ) -> Gaussian:
        base = DDIM(eta=1.0).step(x, x0_hat, t, s)
        if base.is_dirac or self._rehearsal is None:
            return base
        c_D = s.alpha - t.alpha * math.sqrt(s.sigma**2 - base.std**2) / t.sigma
        unknown = float(self._rehearsal.interpolate(self._rehearsal.residual_variance, t))
        return Gaussian(base.mean, math.sqrt(base.std**2 + c_D**2 * unknown))
