r"""Adaptive strengths made a schedule: what a run has chosen, another run takes as given.

A strength that was chosen by looking at the particles costs unbiasedness; the same number, known before
the run, does not. So a pilot run with `Tempered(inner, Adaptive())` finds the schedule, and the frozen
model gives an exact answer with it.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from smcguide.errors import InvalidInput
from smcguide.guided import GuidedDiffusion
from smcguide.posterior import Posterior
from smcguide.potentials.tempered import Tempered
from smcguide.records import Level


@dataclass(frozen=True)
class Recorded:
    """The strengths of a run as a function of the level.

    Attributes:
        strengths: time -> strength.
    """

    strengths: Mapping[float, float]

    def __call__(self, t: Level) -> float:
        return self.strengths[t.time]


def freeze(model: GuidedDiffusion, posterior: Posterior) -> GuidedDiffusion:
    """The same model with the strengths of a run of it, averaged over its systems, as a schedule.

    Arguments:
        model: with an adaptively tempered potential.
        posterior: of a run of this model, best with other seeds than the runs to come.

    Returns:
        A model whose evidence is unbiased for any number of particles; label "exact" where the other
        parts are.

    Raises:
        InvalidInput: for a model whose strengths are not adaptive, for the posterior of another model,
            for a run that visits a level twice.
    """
    potential = model.potential
    if not isinstance(potential, Tempered) or potential.adaptive_cess is None:
        raise InvalidInput(
            f"freeze: the potential {potential!r} chooses no strengths during a run, there is nothing "
            "to freeze. Use potentials.Tempered(inner, potentials.Adaptive())."
        )
    times = [t.time for t in model.levels]
    if "strength" not in posterior.trace or posterior.times.tolist() != times:
        raise InvalidInput(
            "freeze: the posterior is not of a run of this model: no strengths, or other times."
        )
    if len(set(times)) < len(times):
        raise InvalidInput("freeze: this run visits a level twice; use a grid that does not.")
    schedule = Recorded(dict(zip(times, posterior.trace["strength"].mean(0).tolist(), strict=True)))
    frozen = copy.copy(model)
    frozen.potential = replace(potential, strength=schedule)
    object.__setattr__(frozen.potential, "cost", potential.cost)
    frozen.parts = model.parts | {"potential": replace(model.parts["potential"], strength=schedule)}
    frozen.evaluations = Counter()
    return frozen
