r"""The fully adapted proposal: the base step conditioned on the value of where it leads, exactly.

    q(x_s | x_t) = p(x_s | x_t) psi_s(x_s) / int p psi_s,     p = N(m, c^2),  psi_s(x) = N(v; F x, Om)

    mean m + K (v - F m),     K = c^2 F^T (c^2 F F^T + Om)^-1,     covariance c^2 (I - K F)

Its weight p psi_s / q does not depend on the x_s drawn. `Anticipated` puts it where it belongs, before
the step: the pair is proposal and selection of MCGdiff (arXiv 2308.07983) and Zhao (arXiv 2506.01083).
No network call and no gradient.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal, Step
from smcguide.records import Look


@dataclass(frozen=True)
class Adapted(Proposal):
    """The base step conditioned on a Gaussian value of the next state.

    Arguments:
        guide: a potential with `law(t)` to condition on in place of the model's own, e.g.
            NoisedObservation().

    Raises:
        InvalidInput: with a potential, or guide, that is no Gaussian in the state.
    """

    guide: Any = None
    needs_cost_gradient = False

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.guide is not None and bool(self.guide.needs_rehearsal)

    def check(self, cost: Any, potential: Any) -> None:
        followed = potential if self.guide is None else self.guide
        if not hasattr(followed, "law"):
            raise InvalidInput(
                f"{self!r} needs a potential that is a Gaussian in the state, got {followed!r}. Use "
                "potential=Anticipated(NoisedObservation()), or Adapted(guide=NoisedObservation())."
            )
        if self.guide is not None:
            self.guide.check(cost)

    def bind(self, problem: Problem) -> Self:
        return self if self.guide is None else replace(self, guide=self.guide.bind(problem))

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        potential = step.potential if self.guide is None else self.guide
        conditioned: Gaussian = potential.law(step.s).condition(base)
        return conditioned
