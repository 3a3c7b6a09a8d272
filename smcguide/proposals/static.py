r"""One control for the whole path: a clean event mu per particle, kept from step to step (RED-diff).

With x_t = alpha_t mu + sigma_t eps, the step problem is a penalised measurement,

    g = weight (mu - D(x_t)) + strength grad C(mu),       lam_t (eps_theta - eps) = mu - D(x_t),

and mu moves by one Adam or gradient step along -g, nothing being propagated through the network. Then
x_s ~ N(alpha_s mu, sigma_s^2) with fresh noise, as published, or the base kernel with mu as its clean
estimate, which is much closer to the base and therefore costs far less variance when it is weighted.

Reference: Mardani et al., "A variational perspective on solving inverse problems with diffusion models"
(RED-diff, arXiv 2305.04391).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.shift import shift_of
from smcguide.records import Look

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8  # as published


@dataclass(frozen=True)
class StaticControl(Proposal):
    """Follow one clean event per particle, corrected once per step.

    The first mu is the clean estimate at the first step.

    Arguments:
        learning_rate: nonnegative.
        weight: of the denoiser's estimate, nonnegative.
        strength: of the cost, nonnegative.
        solver: "adam" (constants as published) or "sgd".
        noise: "fresh" (as published) or "base" (the base kernel with mu as clean estimate).
        trust: largest shift in units of the base's standard deviation; inf for none.

    Raises:
        InvalidInput: for unknown names, negative numbers, trust not positive.
    """

    learning_rate: float = 0.1
    weight: float = 0.25
    strength: float = 1.0
    solver: Literal["adam", "sgd"] = "adam"
    noise: Literal["fresh", "base"] = "fresh"
    trust: float = math.inf
    remembers = True

    def __post_init__(self) -> None:
        if self.solver not in ("adam", "sgd") or self.noise not in ("fresh", "base"):
            raise InvalidInput(
                f"{self!r}: solver must be 'adam' or 'sgd', noise 'fresh' or 'base'."
            )
        if min(self.learning_rate, self.weight, self.strength) < 0 or self.trust <= 0:
            raise InvalidInput(
                f"{self!r}: learning_rate, weight, strength nonnegative, trust positive."
            )

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        memory = self._move(look, step)
        mu = memory[:, :, 0]
        if self.noise == "base":
            delta = shift_of(mu - look.x0_hat, look, step, "recomputed")
            return base.moved(delta, self.trust, memory=memory)
        q = base.moved(step.s.alpha * mu - base.mean, self.trust)
        return Gaussian(q.mean, step.s.sigma, memory)

    def _move(self, look: Look, step: Step) -> Tensor:
        """mu after its step, with Adam's two moments and the number of steps, (S, N, 1 or 4, *E)."""
        if step.memory is None:
            mu, zero = look.x0_hat, torch.zeros_like(look.x0_hat)
            moments = [zero, zero, zero] if self.solver == "adam" else []
        else:
            mu, *moments = step.memory.unbind(2)
        g = self.weight * (mu - look.x0_hat) + self.strength * step.gradient(step.cost, mu)
        if self.solver == "sgd":
            return torch.stack([mu - self.learning_rate * g], 2)
        m, v, k = BETA_1 * moments[0] + (1 - BETA_1) * g, moments[1], moments[2] + 1
        v = BETA_2 * v + (1 - BETA_2) * g**2
        move = m / (1 - BETA_1**k) / ((v / (1 - BETA_2**k)).sqrt() + EPSILON)
        return torch.stack([mu - self.learning_rate * move, m, v, k], 2)
