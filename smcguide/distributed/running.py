"""Running a model over the processes of a job."""

from collections.abc import Callable, Sequence
from os import PathLike

from smcguide import engine
from smcguide.checkpoint import Checkpoint
from smcguide.course import Course, make_plan
from smcguide.distributed import islands as island_model
from smcguide.distributed import resuming
from smcguide.distributed.finish import posterior
from smcguide.distributed.islands import Islands
from smcguide.distributed.resuming import part_of
from smcguide.distributed.sharded import Sharded
from smcguide.distributed.world import World, join
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.guided import GuidedDiffusion
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.runs import check_run
from smcguide.triggers import Trigger


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
    islands: Islands | None = None,
    timeout: float = 600.0,
) -> Posterior | None:
    """`sg.run` with the particles spread over the processes that torchrun started; all of them make the
    same call. Without torchrun it is `sg.run`.

    Arguments:
        model: the same in every process, on the process's own `device()`.
        num_particles: N per system over all processes, a multiple of their number.
        num_systems, resampler, trigger, seed: as in `sg.run`; seed and all else equal everywhere.
        record: any of "ancestors", "particles", "log_weights", "x0_hat"; nothing with `islands`.
        progress: as in `sg.run`; shown and called in the first process only.
        checkpoint, checkpoint_every: as in `sg.run`; each process keeps a file of its own, PATH.0-of-4
            and so on, on a disk that will be there for it again. Not with `islands`.
        islands: let each process resample within itself and exchange whole islands rarely; None for one
            population.
        timeout: seconds to wait for another process before it counts as lost, more than the slowest step
            takes; of the first call in a program.

    Returns:
        The whole posterior, on the CPU, in the first process (rank 0); None in the others.

    Raises:
        InvalidInput: before the first network call, in all processes: as `sg.run`; for a number of
            particles that cannot be spread; for models that choose by looking at the whole population.
        DegenerateWeights: in all processes, at the same step.
        LostProcess: when another process is gone.
    """
    world = join(timeout)
    if world.size == 1:
        return engine.run(
            model, num_particles=num_particles, num_systems=num_systems, resampler=resampler,
            trigger=trigger, seed=seed, record=record, progress=progress, checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip
    with world.together():  # one disk may be full
        file = Checkpoint(part_of(checkpoint, world), checkpoint_every)
    check_run(model, num_particles, num_systems, record, progress, seed)
    _check(model, num_particles, record, islands, checkpoint is not None, world)
    plan = make_plan(model, num_particles, num_systems, resampler, trigger, seed, record)
    course = Course(model, plan, file)
    course.settings |= {"processes": world.size}
    trace: list[StepInfo] = []
    if islands is not None:
        course.settings |= {"islands": repr(islands)}
        steps = island_model.steps(model, plan, islands, world)
    else:
        course.spread(Sharded(world, num_particles))
        saved = resuming.common(course, file, world)
        steps = ((state.particles, info) for state, info in course.steps(saved))
    bar = Progress(progress if world.rank == 0 else False, model.num_steps)
    with world.together((DegenerateWeights,)), file, bar:
        for particles, info in steps:  # noqa: B007
            trace.append(info)
            bar.update(info)
        result = posterior(world, particles, trace, course.about(particles, num_systems))
    file.finish()
    return result


def _check(
    model: FeynmanKac,
    num_particles: int,
    record: Sequence[str],
    islands: Islands | None,
    is_kept: bool,
    world: World,
) -> None:
    """Raise InvalidInput for what cannot be spread over processes."""
    step = world.size * model.chain_length
    if num_particles % step:
        raise InvalidInput(
            f"num_particles={num_particles} cannot be spread over {world.size} processes in equal parts "
            f"(of whole chains of {model.chain_length}): take a multiple of {step}, e.g. "
            f"{-(-num_particles // step) * step}."
        )
    refused = set(record) if islands is not None else {"paths"} & set(record)
    if refused:
        raise InvalidInput(
            f"record: {sorted(refused)} cannot be kept with {world.size} processes"
            + (" on islands; leave it out." if islands else "; keep 'particles' and 'ancestors'.")
        )
    if islands is not None and is_kept:
        raise InvalidInput("checkpoint: runs on islands keep none; leave it out.")
    if _looks_around(model):
        raise InvalidInput(
            f"{type(model).__name__} looks at the whole population ({model.extras}), which no process "
            "has. Give the strengths (a schedule, not an adaptive one), `sg.freeze` those of a small "
            "run in one process, or use `distributed.run_systems`."
        )


def _looks_around(model: FeynmanKac) -> bool:
    """Whether `adapt` of a model does anything."""
    if isinstance(model, GuidedDiffusion):
        return model.potential.adaptive_cess is not None
    return type(model).adapt is not FeynmanKac.adapt
