"""Times of functions that take turns, so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def seconds(f: Callable[[], Any], device: str = "cpu") -> float:
    """For one call: of the process, not of the wall; on another device by the clock, until it is idle."""
    if device == "cpu":
        start = time.process_time()
        f()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    f()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(
    fs: Sequence[Callable[[], Any]], budget: float, least: int = 5, device: str = "cpu"
) -> list[list[float]]:
    """Times of each function after one call to warm up, over `least` to 200 turns for about `budget`
    seconds."""
    for f in fs:
        f()
    turns: list[list[float]] = []
    while len(turns) < least or (sum(map(sum, turns)) < budget and len(turns) < 200):
        turns.append([seconds(f, device) for f in fs])
    return [list(column) for column in zip(*turns, strict=True)]
