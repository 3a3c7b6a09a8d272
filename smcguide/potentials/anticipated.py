r"""The value of a state by where its next step can lead: the auxiliary particle filter as a potential.

    psi'_t(x_t) = int p(x_s | x_t) psi_s(x_s) dx_s,     psi'_t = exp(-C(m)) where x_0 = m is certain

For a Gaussian step N(m, c^2) and a value psi_s(x) = N(v; F x, Om) it is N(v; F m, c^2 F F^T + Om). It
is known when x_t is, so it weighs and selects x_t *before* the step is taken. With `proposals.Adapted`,
whose density is p(x_s | x_t) psi_s(x_s) / psi'_t(x_t), the weight of a step is psi'_s(x_s) / psi_s(x_s).

Reference: Pitt, Shephard, "Filtering via simulation: auxiliary particle filters" (1999).
"""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Level, Look


@dataclass(frozen=True)
class Anticipated(Potential):
    """The mean of the next level's value over the base step.

    Arguments:
        inner: a potential that is a Gaussian in the state, with `law(t)`, e.g. NoisedObservation().

    Raises:
        InvalidInput: for an inner potential without a law.
    """

    inner: Potential
    uses_cost = 0  # the last step asks for it

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.inner.needs_rehearsal

    def check(self, cost: Any) -> None:
        if not hasattr(self.inner, "law"):
            raise InvalidInput(
                f"{self!r}: a value can be anticipated only if it is a Gaussian in the state. Use "
                "Anticipated(NoisedObservation()), or the potential as it is."
            )
        self.inner.check(cost)

    def bind(self, problem: Problem) -> Self:
        bound = super().bind(problem)
        object.__setattr__(bound, "inner", self.inner.bind(problem))
        return bound

    def law(self, t: Level) -> Any:
        """The value of the states that a step leads to, before it is anticipated."""
        inner: Any = self.inner
        return inner.law(t)

    def log_value(self, look: Look) -> Tensor:
        base, s = look.step.base_of(look.x, look.x0_hat), look.step.s
        if base.is_dirac and s.sigma == 0:
            cost: Tensor = look.step.cost(base.mean)
            return -cost.double()
        value: Tensor = self.law(s).log_mean(base)
        return value
