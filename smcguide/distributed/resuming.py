"""Checkpoints of a run over processes: each keeps its own part, PATH.0-of-4, PATH.1-of-4, ...

Processes are never a whole step apart, so at a crash their newest files are at most one checkpoint apart,
and each has the one before as well. All go on from the newest one that everybody has.
"""

import os
from collections.abc import Iterator
from os import PathLike
from typing import Any

import torch

from smcguide import engine
from smcguide.checkpoint import Checkpoint
from smcguide.distributed.world import World
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.loop import Plan, State
from smcguide.records import Particles, StepInfo
from smcguide.snapshot import Snapshot


def part_of(path: str | PathLike[str] | None, world: World) -> str | None:
    """The file of this process."""
    return None if path is None else f"{os.fspath(path)}.{world.rank}-of-{world.size}"


def steps(
    model: FeynmanKac, plan: Plan, world: World, file: Checkpoint, settings: dict[str, Any],
    before: dict[str, int],
) -> Iterator[tuple[Particles, StepInfo]]:  # fmt: skip
    """A run step by step, from where `file` left it, and kept there; `before` are the evaluations at its
    beginning, adjusted for what was spent before a crash."""
    trace: list[StepInfo] = []
    start: State | None = None
    if (saved := _common(model, plan, world, file, settings)) is not None:
        start, trace = saved.state, list(saved.trace)
        before |= {n: before.get(n, 0) - count for n, count in saved.evaluations.items()}
        for info in saved.trace:
            yield saved.state.particles, info
    for state, info in engine._checked(model, plan, start, trace, file):
        trace.append(info)
        if file.is_due(info.step, model.num_steps):
            file.save(Snapshot(state, trace, None, engine._spent(model, before), settings))
        yield state.particles, info


def _common(
    model: FeynmanKac, plan: Plan, world: World, file: Checkpoint, settings: dict[str, Any]
) -> Snapshot | None:
    """The newest checkpoint that all processes have, None for none.

    Raises:
        InvalidInput: for parts that do not belong together, besides what `Checkpoint.begin` finds.
    """
    saved = file.begin(model, plan, settings)
    if file.path is None:
        return None
    step = -1 if saved is None else saved.state.k
    common = min(int(a) for a in world.gather(torch.tensor([step])))
    if step > common and file.previous.exists():
        os.replace(file.previous, file.path)
        saved = file.begin(model, plan, settings)
        step = -1 if saved is None else saved.state.k
    if common >= 0 and step != common:
        raise InvalidInput(
            f"checkpoint: {str(file.path)!r} is of step {step}, another process's of step {common}. "
            "They are not of one run: delete them all to begin anew."
        )
    return saved if step == common else None
