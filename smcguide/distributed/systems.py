"""Systems over processes: each runs some of them, and nothing is said before the end."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from smcguide import engine
from smcguide.distributed.finish import joined
from smcguide.distributed.sharded import seed_of
from smcguide.distributed.world import join
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.posterior import Posterior
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.triggers import Trigger


def run_systems(
    make: Callable[[range], FeynmanKac],
    num_systems: int,
    *,
    num_particles: int = 512,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    record: Sequence[str] = (),
    progress: bool | str | Callable[[StepInfo], None] = "auto",
    timeout: float = 600.0,
) -> Posterior | None:
    """`sg.run` with whole systems spread over the processes that torchrun started; all of them make the
    same call. Any model will do, and all records.

    Arguments:
        make: the model of the systems in a range, e.g. of observations y[here.start : here.stop]; for
            replicates of one problem `lambda here: model`.
        num_systems: S over all processes, at least their number.
        num_particles, resampler, trigger, seed, record: as in `sg.run`.
        progress: as in `sg.run`; shown and called in the first process only.
        timeout: seconds to wait at the end for the slowest process; of the first call in a program.

    Returns:
        The posterior of all systems, on the CPU, in the first process (rank 0); None in the others.

    Raises:
        InvalidInput: as `sg.run`; for fewer systems than processes; for a model with another number.
        DegenerateWeights: in the process where it happens; the others end with it.
        LostProcess: when another process is gone.
    """
    world = join(timeout)
    if num_systems < world.size:
        raise InvalidInput(
            f"num_systems={num_systems} are fewer than the {world.size} processes; start fewer of them."
        )
    cuts = [r * num_systems // world.size for r in range(world.size + 1)]
    here = range(cuts[world.rank], cuts[world.rank + 1])
    with world.together():
        model = make(here)
        if model.num_systems not in (None, len(here)):
            raise InvalidInput(f"make({here}) gave a model of {model.num_systems} systems.")
        try:
            post = engine.run(
                model, num_particles=num_particles, resampler=resampler, trigger=trigger, record=record,
                num_systems=len(here) if model.num_systems is None else None,
                seed=seed if world.size == 1 else seed_of(seed, world.rank),
                progress=progress if world.rank == 0 else False,
            )  # fmt: skip
        except DegenerateWeights as error:
            error.add_note(f"System 0 of this process is system {here.start} of the job.")
            raise
        post = replace(post, settings={**post.settings, "seed": seed, "processes": world.size})
        return joined(world, post)
