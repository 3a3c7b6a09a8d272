"""Running a model: one step at a time, or to the end. The step itself is in `loop`."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

from smcguide import exactness
from smcguide.checkpoint import Checkpoint
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.loop import Plan, State, steps
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.results import collect
from smcguide.runs import check_run, check_selection, check_together
from smcguide.snapshot import Snapshot
from smcguide.trace import raise_if_degenerate
from smcguide.triggers import Trigger, ess_below

_CHECK_EVERY = 16  # on a device that runs ahead of us


def iterate(
    model: FeynmanKac,
    *,
    num_particles: int = 512,
    num_systems: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    record: Sequence[str] = (),
) -> Iterator[tuple[Particles, StepInfo]]:
    """Run a model one step at a time.

    Arguments:
        model: what to run.
        num_particles: N per system.
        num_systems: S independent systems; None for the model's own number, or 1.
        resampler: default Systematic().
        trigger: when to resample, default ess_below(0.5).
        seed: of all randomness.
        record: any of "ancestors", "particles", "log_weights", "x0_hat", to keep in each StepInfo.

    Yields:
        K + 1 pairs: the initial population, then the population after each transition.

    Raises:
        InvalidInput: for sizes below 1 or unknown names in `record`.
        DegenerateWeights: when a weight is NaN or +inf, or a system has no living particle.
    """
    if "paths" in record:
        raise InvalidInput(
            "record: paths are known at the end only; use run(..., record=('paths',))."
        )
    plan = _plan(model, num_particles, num_systems, resampler, trigger, seed, record)
    return ((state.particles, info) for state, info in _checked(model, plan))


def _plan(
    model: FeynmanKac,
    num_particles: int,
    num_systems: int | None,
    resampler: Resampler | None,
    trigger: Trigger | None,
    seed: int,
    record: Sequence[str],
    lineage: Genealogy | None = None,
) -> Plan:
    """What was asked for, checked."""
    S = check_run(model, num_particles, num_systems, record, seed=seed)
    check_selection(resampler, trigger)
    plan = Plan(
        (S, num_particles), resampler or Systematic(), trigger or ess_below(0.5), seed, record,
        lineage,
    )  # fmt: skip
    check_together(model, plan.resampler, num_particles, record, lineage is not None)
    return plan


def _checked(
    model: FeynmanKac,
    plan: Plan,
    start: State | None = None,
    trace: Sequence[StepInfo] = (),
    file: Checkpoint | None = None,
) -> Iterator[tuple[State, StepInfo]]:
    """The steps of a run after `start` and its trace; on the CPU each is looked at, on a device every
    16th, the last, and those that `file` is to keep."""
    every = 1 if model.device.type == "cpu" else _CHECK_EVERY
    trace = list(trace)
    seen = len(trace)
    for state, info in steps(model, plan, start):
        trace.append(info)
        due = file is not None and file.is_due(info.step, model.num_steps)
        if due or info.step % every == 0 or info.step == model.num_steps:
            raise_if_degenerate(model, trace, state.particles, plan.shape[1], seen)
            seen = len(trace)
        yield state, info


def run(
    model: FeynmanKac,
    *,
    num_particles: int = 512,
    num_systems: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    record: Sequence[str] = (),
    progress: bool | str | Callable[[StepInfo], None] = "auto",
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> Posterior:
    """Run a model to the end; arguments as in `iterate`.

    Arguments:
        record: also "paths", the ancestral path (S, K + 1, N, *E) of each final particle.
        progress: True, False, "auto" (a bar on a terminal only), or a function of each StepInfo.
        checkpoint: a file that keeps the run while it lasts: after a crash or a kill the same call goes
            on from it. Removed when the result is there.
        checkpoint_every: steps between checkpoints.

    Returns:
        The posterior, with the final weights.

    Raises:
        InvalidInput, DegenerateWeights: as `iterate`.
        InvalidInput: also for a checkpoint of another run, or one that cannot be read or written.
        MissingExtra: with a checkpoint, but without safetensors.
    """
    file = Checkpoint(checkpoint, checkpoint_every)
    check_run(model, num_particles, num_systems, record, progress, seed)
    lineage = Genealogy() if "paths" in record else None
    kept = [name for name in record if name != "paths"]
    plan = _plan(model, num_particles, num_systems, resampler, trigger, seed, kept, lineage)
    settings, before = _settings(model, plan), dict(getattr(model, "evaluations", {}))
    trace: list[StepInfo] = []
    start: State | None = None
    if (saved := file.begin(model, plan, settings)) is not None:
        start, trace, settings = saved.state, saved.trace, saved.settings
        before |= {n: before.get(n, 0) - count for n, count in saved.evaluations.items()}
    with file, Progress(progress, model.num_steps) as bar:
        for info in trace:
            bar.update(info)
        for state, info in _checked(model, plan, start, trace, file):
            trace.append(info)
            bar.update(info)
            if file.is_due(info.step, model.num_steps):
                spent = _spent(model, before)
                file.save(Snapshot(state, trace, lineage, spent, settings))
    about = {
        "evaluations": _spent(model, before),
        "settings": settings,
        "has_systems": num_systems is not None or model.num_systems is not None,
        "are_replicates": model.num_systems is None,
        "parameters": model.outputs(state.particles.carry),
    }
    paths = {} if lineage is None else {"paths": lineage.paths()["x"].transpose(1, 2)}
    posterior = collect(state.particles, trace, about, paths)
    file.finish()
    return posterior


def _settings(model: FeynmanKac, plan: Plan) -> dict[str, Any]:
    """What a result says of how it was made."""
    return {
        "num_particles": plan.shape[1], "seed": plan.seed, "resampler": repr(plan.resampler),
        "trigger": repr(plan.trigger), **{k: repr(v) for k, v in getattr(model, "parts", {}).items()},
        "exactness": exactness.worst([model.exactness, exactness.label([plan.resampler, plan.trigger])]),
    }  # fmt: skip


def _spent(model: FeynmanKac, before: dict[str, int]) -> dict[str, int]:
    """Evaluations since `before`."""
    after = getattr(model, "evaluations", {})
    return {name: after.get(name, 0) - before.get(name, 0) for name in {**before, **after}}
