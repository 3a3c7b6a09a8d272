r"""DTM, diffusion trajectory matching, as a proposal: a control found by optimisation at each step.

The control u shifts the state that the network sees, x~ = x_t + gamma u; the guided mean is the base
map there, m(x~), and delta = m(x~) - m(x_t). The step problem, per particle,

    min_u  -log psi_t(x~) + |delta|^2 / (2 c^2)

trades the value reached against the Kullback-Leibler cost of leaving the base kernel N(m(x_t), c^2).
`num_iters` iterations of the solver, a trust region |delta| <= trust c, then q = N(m(x_t) + delta, c^2).
Any u gives an exact method; a good one gives a small variance.

Reference: Pandey et al., "Variational control for guidance in diffusion models" (arXiv 2502.03686).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.proposals.base import Proposal, Step, within_trust
from smcguide.records import Gaussian, Look, Moments


@dataclass(frozen=True)
class DTM(Proposal):
    objective: Literal["kl"] = "kl"
    num_iters: int = 1
    solver: str = "sgd"
    learning_rate: float = 1.0
    trust: float = 2.0
    warm_start: bool = False
    guide: Any = None

    @property
    def needs_gradient(self):
        return self.guide is None and not self.warm_start

    def bind(self, cost, event_shape, moments):
        if self.guide is None:
            return self
        return replace(self, guide=self.guide.bind(cost, event_shape, moments))

    def propose(self, base, look, step):
        gamma = base.std * step.t.alpha / step.s.alpha

        def objective(u):
            there = step.look_at(look.x + gamma * u, self.guide)
            delta = step.base_of(there.x, there.x0_hat).mean - base.mean
            return -there.value + (delta / base.std).flatten(2).square().sum(-1).double() / 2

        u = step.memory if (self.warm_start and step.memory is not None) else torch.zeros_like(look.x)
        u = u.clone()
        opt = (torch.optim.SGD if self.solver == "sgd" else torch.optim.Adam)([u], lr=self.learning_rate)
        for i in range(self.num_iters):
            if i == 0 and self.needs_gradient:
                u.grad = -gamma * look.slope
            else:
                u.grad = step.gradient(objective, u)
            opt.step()
        delta = step.base_at(look.x + gamma * u).mean - base.mean
        delta = within_trust(delta, base.std, self.trust)
        return Gaussian(base.mean + delta, base.std, u if self.warm_start else None)
