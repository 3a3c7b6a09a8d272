"""The base kernel itself: no gradient, no second network call; all the work is left to the potential."""

from dataclasses import dataclass

from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Proposal, Step
from smcguide.records import Look


@dataclass(frozen=True)
class Bootstrap(Proposal):
    """q = base kernel."""

    is_guided = False

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        return base
