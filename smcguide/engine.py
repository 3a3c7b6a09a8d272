"""Running a model: one step at a time, or to the end. The step itself is in `loop`."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike

from smcguide.checkpoint import Checkpoint
from smcguide.course import Course, make_plan
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.results import collect
from smcguide.runs import check_run
from smcguide.triggers import Trigger


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
    plan = make_plan(model, num_particles, num_systems, resampler, trigger, seed, record)
    return ((state.particles, info) for state, info in Course(model, plan).steps())


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
    plan = make_plan(model, num_particles, num_systems, resampler, trigger, seed, kept, lineage)
    course = Course(model, plan, file)
    trace: list[StepInfo] = []
    saved = course.saved()
    with file, Progress(progress, model.num_steps) as bar:
        for state, info in course.steps(saved):  # noqa: B007
            trace.append(info)
            bar.update(info)
    paths = {} if lineage is None else {"paths": lineage.paths()["x"].transpose(1, 2)}
    about = course.about(state.particles, num_systems)
    posterior = collect(state.particles, trace, about, paths)
    file.finish()
    return posterior
