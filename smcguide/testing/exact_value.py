r"""The value that no guess can improve on, for a Gaussian prior and linear-Gaussian costs:

    psi*_t(x_t) = E[exp(-C(x_0)) | x_t]   under the discretised chain

The steps are affine, x_s = G x_t + b + sqrt(v) z, so psi*_s(x) = N(v_s; F x, Om) one step back is

    psi*_t(x) = N(v_s - F b; F G x, Om + v F F^T),

a recursion from the likelihood at data. With psi* every weight of the fully adapted proposal is equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.conditioning import GaussianValue
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.testing.oracles import affine_step


@dataclass(frozen=True)
class ExactValue(Potential):
    """psi* of a `LinearGaussian` cost under the DDIM(eta) chain of the prior N(mean, covariance).

    Arguments:
        mean: (d,) float64.
        covariance: (d, d).
        eta: of the kernel.
    """

    mean: Tensor
    covariance: Tensor
    eta: float = 1.0
    _laws: Mapping[Level, GaussianValue] = field(default_factory=dict, init=False, repr=False)
    uses_cost = 0

    def bind(self, problem: Problem) -> Self:
        bound, cost = super().bind(problem), problem.cost
        F, v, Om = cost.matrix(problem.event_shape), cost.y[:, 0], torch.diag(cost.std**2)
        laws = {problem.levels[-1]: GaussianValue(F, v, Om)}
        for t, s in reversed(list(pairwise(problem.levels))):
            G, b, variance = affine_step(self.mean, self.covariance, t, s, self.eta)
            F, v, Om = F @ G, v - F @ b, Om + variance * F @ F.mT
            laws[t] = GaussianValue(F, v, Om)
        object.__setattr__(bound, "_laws", laws)
        return bound

    def law(self, t: Level) -> Any:
        """psi*_t as N(v; F x, Omega)."""
        return self._laws[t]

    def log_value(self, look: Look) -> Tensor:
        value: Tensor = self.law(look.t).log_density(look.x)
        return value
