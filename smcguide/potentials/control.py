r"""T6: what the best control of the next step is worth. The optimal value obeys

    psi*_t(x_t) = E[ psi*_s(x_s) ],   x_s ~ N(m, c^2),      hence for every shift delta of the mean
    log psi*_t >= E log psi*_s(m + delta + c z) - |delta|^2 / (2 c^2)

and a proposal has just that shift: with psi~ an ordinary value,

    log psi_t(x_t) = log psi~_s(m + delta) - KL(q || p),     q = N(m + delta, c^2) the control

It improves on psi~ by one step of look-ahead, at the price of the control and one network call more. At
the last step, where there is nothing to control, it is psi~_t.

Reference: Pandey et al., "Variational control for guidance in diffusion models" (arXiv 2502.03686), whose
step problem is log psi_t; as a value for weights it is this package's.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Look


@dataclass(frozen=True)
class ControlValue(Potential):
    """The value reached by a control, minus what the control costs.

    Arguments:
        control: a proposal, e.g. proposals.DTM(); if it follows a potential and names none, `value`.
        value: the potential psi~.

    Raises:
        InvalidInput: for a control that follows the model's own potential (which is this one) or
            remembers earlier steps, for a value that needs the denoiser's Jacobian or a particle's past.
    """

    control: Any
    value: Potential
    has_gradient = False

    def __post_init__(self) -> None:
        if getattr(self.control, "guide", self) is None:
            object.__setattr__(self, "control", replace(self.control, guide=self.value))
        if self.control.needs_gradient or self.control.remembers:
            raise InvalidInput(
                f"{self!r}: the control must follow a potential of its own and start afresh, "
                "e.g. proposals.DTM(guide=potentials.InflatedGaussian())."
            )
        if self.value.needs_jacobian or not self.value.is_markov:
            raise InvalidInput(f"{self!r}: take a value such as potentials.InflatedGaussian().")

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return bool(self.control.needs_rehearsal or self.value.needs_rehearsal)

    @property
    def needs_cost_gradient(self) -> bool:  # type: ignore[override]
        follows = self.control.is_guided and self.control.needs_cost_gradient
        return bool(follows or self.value.needs_cost_gradient)

    @property
    def uses_cost(self) -> int:  # type: ignore[override]
        return int(self.value.uses_cost)

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return max(int(self.control.num_draws), self.value.num_draws)

    def check(self, cost: Any) -> None:
        self.value.check(cost)
        self.control.check(cost, self.value)

    def bind(self, problem: Problem) -> Self:
        bound = super().bind(problem)
        object.__setattr__(bound, "control", self.control.bind(problem))
        object.__setattr__(bound, "value", self.value.bind(problem))
        return bound

    def log_value(self, look: Look) -> Tensor:
        step, t, s = look.step, look.t, look.step.s
        base = step.base_of(look.x, look.x0_hat)
        if base.is_dirac or s.ratio > t.ratio:  # data, a deterministic step, or one back to noise
            return self.value.log_value(look)
        q = self.control.propose(base, look, step)
        there = replace(look, x=q.mean, x0_hat=step.denoise_at(q.mean, s), t=s)
        return self.value.log_value(there) - q.kl(base)
