r"""Reverse kernel with matched variance: the DDPM mean, and the variance that a finite step really has.

Given x_t, the true reverse law is a mixture of DDPM posteriors over x_0, so its variance is the
posterior's plus what is unknown about x_0,

    v = v_DDPM + c_D^2 E (x_0 - D(x_t))^2,

with the expectation measured once on draws of the prior. Ancestral DDPM drops the second term and so
contracts on coarse grids; with it a Gaussian prior is reproduced exactly in any number of steps.

Reference: Bao et al., "Analytic-DPM" (arXiv 2201.06503).
"""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDIM
from smcguide.records import Gaussian, Level
from smcguide.rehearsal import Rehearsal


@dataclass(frozen=True)
class MatchedDDPM(Kernel):
    """Ancestral sampling with the matched variance.

    Arguments:
        per_coordinate: one variance per coordinate instead of one for all.
    """

    per_coordinate: bool = False
    _rehearsal: Rehearsal | None = field(default=None, repr=False)
    needs_rehearsal = True

    def bind(self, rehearsal: Rehearsal | None) -> Self:
        return replace(self, _rehearsal=rehearsal)

    def step(
        self, x: Tensor, x0_hat: Tensor, t: Level, s: Level, memory: Tensor | None = None
    ) -> Gaussian:
        base = DDIM(1.0).step(x, x0_hat, t, s)
        if s.sigma == 0 or self._rehearsal is None:
            return base
        c_D = s.alpha - t.alpha * (s.sigma**2 - base.std**2) ** 0.5 / t.sigma
        unknown = self._rehearsal.residual_variance(t)
        unknown = unknown if self.per_coordinate else unknown.mean()
        std = torch.sqrt(base.std**2 + c_D**2 * unknown).to(x.dtype)
        return Gaussian(base.mean, std if self.per_coordinate else float(std))
