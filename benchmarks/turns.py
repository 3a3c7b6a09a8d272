"""Times of functions that take turns, so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Sequence
from typing import Any


def seconds(f: Callable[[], Any]) -> float:
    """Of the process, not of the wall, for one call."""
    start = time.process_time()
    f()
    return time.process_time() - start


def interleaved(
    fs: Sequence[Callable[[], Any]], budget: float, least: int = 5
) -> list[list[float]]:
    """Times of each function after one call to warm up, over `least` to 200 turns for about `budget`
    seconds."""
    for f in fs:
        f()
    turns: list[list[float]] = []
    while len(turns) < least or (sum(map(sum, turns)) < budget and len(turns) < 200):
        turns.append([seconds(f) for f in fs])
    return [list(column) for column in zip(*turns, strict=True)]
