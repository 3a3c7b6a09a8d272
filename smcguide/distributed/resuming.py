"""Checkpoints of a run over processes: each keeps its own part, PATH.0-of-4, PATH.1-of-4, ...

Processes are never a whole step apart, so at a crash their newest files are at most one checkpoint apart,
and each has the one before as well. All go on from the newest one that everybody has.
"""

import os
from os import PathLike

import torch

from smcguide.checkpoint import Checkpoint
from smcguide.course import Course
from smcguide.distributed.world import World
from smcguide.errors import InvalidInput
from smcguide.snapshot import Snapshot


def part_of(path: str | PathLike[str] | None, world: World) -> str | None:
    """The file of this process."""
    return None if path is None else f"{os.fspath(path)}.{world.rank}-of-{world.size}"


def common(course: Course, file: Checkpoint, world: World) -> Snapshot | None:
    """The newest checkpoint that all processes have, None for none.

    Raises:
        InvalidInput: for parts that do not belong together, besides what `Checkpoint.begin` finds.
    """
    saved = course.saved()
    if file.path is None:
        return None
    step = -1 if saved is None else saved.state.k
    common = min(int(a) for a in world.gather(torch.tensor([step])))
    if step > common and file.previous.exists():
        os.replace(file.previous, file.path)
        saved = course.saved()
        step = -1 if saved is None else saved.state.k
    if common >= 0 and step != common:
        raise InvalidInput(
            f"checkpoint: {str(file.path)!r} is of step {step}, another process's of step {common}. "
            "They are not of one run: delete them all to begin anew."
        )
    return saved if step == common else None
