"""The course of a run: from its beginning or its checkpoint, looked at and kept while it lasts. What
`engine.run` and `distributed.run` have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from smcguide import exactness
from smcguide.checkpoint import Checkpoint
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.loop import Plan, State, steps
from smcguide.population import Population
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.runs import check_run, check_selection, check_together
from smcguide.snapshot import Snapshot
from smcguide.trace import raise_if_degenerate
from smcguide.triggers import Trigger, ess_below

_CHECK_EVERY = 16  # on a device that runs ahead of us


def make_plan(
    model: FeynmanKac,
    num_particles: int,
    num_systems: int | None,
    resampler: Resampler | None,
    trigger: Trigger | None,
    seed: int,
    record: Sequence[str],
    lineage: Genealogy | None = None,
) -> Plan:
    """What was asked for, checked; arguments as in `engine.iterate`."""
    S = check_run(model, num_particles, num_systems, record, seed=seed)
    check_selection(resampler, trigger)
    plan = Plan(
        (S, num_particles), resampler or Systematic(), trigger or ess_below(0.5), seed, record,
        lineage,
    )  # fmt: skip
    check_together(model, plan.resampler, num_particles, record, lineage is not None)
    return plan


class Course:
    """One run of a model.

    Arguments:
        model, plan: what is run, and how.
        file: where it is kept; None for nowhere.

    Attributes:
        plan: as given, see `spread`.
        settings: what the result says of how it was made.
    """

    def __init__(self, model: FeynmanKac, plan: Plan, file: Checkpoint | None = None) -> None:
        self._model, self.plan, self._file = model, plan, file
        self._before = dict(getattr(model, "evaluations", {}))
        parts = {name: repr(part) for name, part in getattr(model, "parts", {}).items()}
        used = exactness.label([plan.resampler, plan.trigger])
        self.settings: dict[str, Any] = {
            "num_particles": plan.shape[1], "seed": plan.seed, "resampler": repr(plan.resampler),
            "trigger": repr(plan.trigger), **parts,
            "exactness": exactness.worst([model.exactness, used]),
        }  # fmt: skip

    def spread(self, population: Population) -> None:
        """Run it on another population."""
        self.plan = replace(self.plan, population=population)

    def saved(self) -> Snapshot | None:
        """Where the file says that this run stood."""
        if self._file is None:
            return None
        return self._file.begin(self._model, self.plan, self.settings)

    def steps(self, saved: Snapshot | None = None) -> Iterator[tuple[State, StepInfo]]:
        """All steps, those before `saved` with its state; kept where that is due. On the CPU each is
        looked at, on a device every 16th, the last, and those that are kept.

        Raises:
            DegenerateWeights: at the first illegal step.
        """
        model, file = self._model, self._file
        trace: list[StepInfo] = []
        start: State | None = None
        if saved is not None:
            start, trace, self.settings = saved.state, list(saved.trace), saved.settings
            for name, count in saved.evaluations.items():
                self._before[name] = self._before.get(name, 0) - count
            for info in saved.trace:
                yield saved.state, info
        every = 1 if model.device.type == "cpu" else _CHECK_EVERY
        seen = len(trace)
        for state, info in steps(model, self.plan, start):
            trace.append(info)
            due = file is not None and file.is_due(info.step, model.num_steps)
            if due or info.step % every == 0 or info.step == model.num_steps:
                raise_if_degenerate(model, trace, state.particles, self.plan.shape[1], seen)
                seen = len(trace)
            yield state, info
            if file is not None and due:
                lineage = self.plan.lineage
                file.save(Snapshot(state, trace, lineage, self._spent(), self.settings))

    def about(self, particles: Particles, num_systems: int | None) -> dict[str, Any]:
        """What `results.collect` wants to know; `num_systems` as it was asked for."""
        model = self._model
        return {
            "evaluations": self._spent(),
            "settings": self.settings,
            "has_systems": num_systems is not None or model.num_systems is not None,
            "are_replicates": model.num_systems is None,
            "parameters": model.outputs(particles.carry),
        }

    def _spent(self) -> dict[str, int]:
        """Evaluations since the beginning."""
        after = getattr(self._model, "evaluations", {})
        names = {**self._before, **after}
        return {name: after.get(name, 0) - self._before.get(name, 0) for name in names}
