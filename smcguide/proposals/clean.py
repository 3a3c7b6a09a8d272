r"""Control of the clean estimate: D(x_t) -> D(x_t) + u, and then the base kernel. Nothing is propagated
back through the network.

    u = 0,     u <- u - scale * grad C(D + u),     `num_iters` times

What happens to the noise that the network sees in x_t is the one thing on which methods differ:

    kept          alpha_s (D + u) + the noise part of the base mean: m + alpha_s u     MPGD
    recomputed    the base map at D + u: m + c_D u                                     Universal Guidance

References: He et al., MPGD (arXiv 2311.16424); Bansal et al., Universal Guidance (2302.07121), its
backward part; Nair, Patel, Dreamguider (2406.02549).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.scales import Scale, as_scale
from smcguide.proposals.shift import Noise, check_noise, shift_of
from smcguide.records import Look


@dataclass(frozen=True)
class CleanGradient(Proposal):
    """Gradient descent on the cost, from the clean estimate.

    Arguments:
        num_iters: gradients of the cost.
        scale: length of a step, a number or a `Scale`.
        noise: "kept" or "recomputed" (above).
        trust: largest shift in units of the step's standard deviation; inf for none.

    Raises:
        InvalidInput: for num_iters below 1, an unknown `noise`, trust not positive, a negative scale.
    """

    num_iters: int = 1
    scale: float | Scale = 1.0
    noise: Noise = "kept"
    trust: float = math.inf

    def __post_init__(self) -> None:
        check_noise(self)
        as_scale(self.scale)
        if self.num_iters < 1:
            raise InvalidInput(f"{self!r}: num_iters must be at least 1.")

    def check(self, cost: Any, potential: Any) -> None:
        as_scale(self.scale).check(cost)

    def bind(self, problem: Problem) -> Self:
        return replace(self, scale=as_scale(self.scale).bind(problem.cost))

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        u = torch.zeros_like(look.x0_hat)
        for _ in range(self.num_iters):
            u = u + self._step(replace(look, x0_hat=look.x0_hat + u), step)
        delta = shift_of(u, look, step, self.noise)
        return base.moved(delta, self.trust)

    def _step(self, here: Look, step: Step) -> Tensor:
        def ahead(v: Tensor) -> Tensor:
            return -step.gradient(step.cost, here.x0_hat + v)

        slope = -step.gradient(step.cost, here.x0_hat)
        return as_scale(self.scale).step(here, step, slope, ahead)
