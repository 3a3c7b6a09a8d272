"""One file of tensors and a text, with a checksum of both; nothing in it is ever executed."""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smcguide.errors import InvalidInput, MissingExtra

FORMAT = "smcguide checkpoint 1"


def require() -> None:
    """Raise MissingExtra without safetensors."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("safetensors", "checkpoint", "Writing a checkpoint") from error


def write(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write a safetensors file and bring it to the disk.

    Arguments:
        path: overwritten.
        tensors: on the CPU, contiguous, each with memory of its own.
        text: anything.

    Raises:
        OSError: if that is not possible.
    """
    from safetensors.torch import save

    seal = {"format": FORMAT, "about": text, "sha256": checksum(tensors, text)}
    # save_file writes to a file of its own making, which a process that is killed leaves behind
    path.write_bytes(save(dict(tensors), seal))
    to_disk(path)


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors and text of a file that `write` wrote.

    Raises:
        InvalidInput: for a file of another format, and for a truncated or damaged one.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            seal = file.metadata() or {}
            if seal.get("format") != FORMAT:
                raise ValueError(f"its format is {seal.get('format')!r}, expected {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if seal["sha256"] != checksum(tensors, seal["about"]):
            raise ValueError("its numbers do not match their checksum")
    except Exception as error:  # a damaged file brings every kind
        raise InvalidInput(f"{str(path)!r} is no whole checkpoint: {error}") from error
    return tensors, seal["about"]


def to_disk(path: Path) -> None:
    """Bring what was written to a file, or the names in a folder, from memory to the disk."""
    if path.is_dir() and os.name != "posix":  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of contiguous tensors on the CPU and a text."""
    total = sha256(text.encode())
    for name, a in sorted(tensors.items()):
        total.update(json.dumps([name, str(a.dtype), list(a.shape)]).encode())
        numbers: Any = a.reshape(-1).view(torch.uint8).numpy()
        total.update(numbers)
    return total.hexdigest()
