"""Checkpoints: a run keeps its state in a file, and the same call goes on from it.

A new checkpoint is written beside the old one, brought to the disk, and then takes its name, so a run
that is killed at any moment leaves a whole file. The one before it is kept as `NAME.previous`.
"""

import json
import os
import shutil
import warnings
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from smcguide import sealed
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.identity import differences, identity
from smcguide.loop import Plan
from smcguide.snapshot import Snapshot, pack, unpack

_FILES, _SMALLEST = 3, 4  # of one run at a time; bytes of a number


class Checkpoint:
    """Where and how often a run keeps its state.

    What a checkpoint costs is mostly waiting for the disk.

    Arguments:
        path: the file, in a folder that exists; None for no checkpoints.
        every: steps between checkpoints.

    Raises:
        InvalidInput: where nothing can be written, for a number of steps below 1.
        MissingExtra: without safetensors.
    """

    def __init__(self, path: str | os.PathLike[str] | None, every: int) -> None:
        given: Any = every
        if not isinstance(given, Integral) or given < 1:
            raise InvalidInput(f"checkpoint_every must be a whole number >= 1, got {every!r}.")
        if not isinstance(path, str | os.PathLike | None):
            raise InvalidInput(f"checkpoint must be the path of a file, got {path!r}.")
        self.path = None if path is None else Path(path).absolute()
        self.every, self.step = every, -1
        self.damaged = False  # the newest file
        if self.path is None:
            return
        self.previous = self.path.with_name(self.path.name + ".previous")
        self.unfinished = self.path.with_name(self.path.name + ".unfinished")
        sealed.require()
        try:
            if self.path.is_dir():
                raise IsADirectoryError("it is a folder")
            self.unfinished.write_bytes(b"smcguide")
            self.unfinished.unlink()
        except OSError as error:
            raise InvalidInput(
                f"checkpoint={str(path)!r} cannot be written: {error}. Give a file in a folder that "
                "exists and has room."
            ) from error

    def is_due(self, k: int, num_steps: int) -> bool:
        """Whether the state after k transitions is to be kept; the last one is the result."""
        return self.path is not None and k % self.every == 0 and 0 < k < num_steps

    def begin(self, model: FeynmanKac, plan: Plan, settings: dict[str, Any]) -> Snapshot | None:
        """Where this run stood, or None for its beginning.

        Raises:
            InvalidInput: for the checkpoint of another run, where no file can be read, and on a disk
                without room.
        """
        if self.path is None:
            return None
        free = shutil.disk_usage(self.path.parent).free
        numbers = plan.shape[0] * plan.shape[1] * torch.Size(model.event_shape).numel()
        if free < (needed := _FILES * _SMALLEST * numbers):
            raise InvalidInput(
                f"checkpoint={str(self.path)!r} needs at least {needed:.3g} bytes on a disk that has "
                f"{free:.3g}. Choose another disk."
            )
        found = self._newest()
        self.identity = identity(model, plan, settings)
        if found is None:
            return None
        tensors, about = found
        if other := differences(about["identity"], self.identity):
            raise InvalidInput(
                f"checkpoint={str(self.path)!r} belongs to another run: {'; '.join(other)}. Make the run "
                "the same again, or give another file; to begin anew, delete it and "
                f"{self.previous.name!r}."
            )
        self.step = about["step"]
        return unpack(tensors, about, plan, model.device)

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot. On a disk that has become full warn, and leave what there is."""
        if self.path is None:
            return
        tensors, about = pack(snapshot)
        text = json.dumps(about | {"identity": self.identity}, default=index)
        try:
            sealed.write(self.unfinished, tensors, text)
            if self.path.exists() and not self.damaged:
                os.replace(self.path, self.previous)
            os.replace(self.unfinished, self.path)
            self.damaged = False
            sealed.to_disk(self.path.parent)
        except OSError as error:
            self.unfinished.unlink(missing_ok=True)
            kept = f"with the one of step {self.step}" if self.step >= 0 else "without one"
            warnings.warn(
                f"The checkpoint of step {about['step']} could not be written: {error}. The run goes on "
                f"{kept}.",
                RuntimeWarning, stacklevel=3,
            )  # fmt: skip
        else:
            self.step = about["step"]

    def finish(self) -> None:
        """The result is there: remove the files."""
        if self.path is not None:
            for path in (self.unfinished, self.previous, self.path):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self.step >= 0:
            error.add_note(
                f"The checkpoint {str(self.path)!r} holds the run after step {self.step}; the same call "
                "goes on from there."
            )

    def _newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What is in the newest file that is whole; None where there is no file."""
        reasons = []
        for path in (self.path, self.previous):
            if path is None or not path.exists():
                continue
            try:
                tensors, text = sealed.read(path)
                about = json.loads(text)
            except InvalidInput as error:
                reasons.append(str(error))
                continue
            if reasons:
                self.damaged = True
                warnings.warn(
                    f"{reasons[0]}. Going on from {str(path)!r}, step {about['step']}.",
                    RuntimeWarning, stacklevel=4,
                )  # fmt: skip
            return tensors, about
        if reasons:
            raise InvalidInput(
                f"checkpoint: {'; '.join(reasons)}. To begin anew, delete the file or give another one."
            )
        return None
