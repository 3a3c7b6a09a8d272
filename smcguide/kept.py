"""Answers that are asked for again: one per noise level, as many as memory allows."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(dict[K, V], Generic[K, V]):
    """A table that makes what it lacks, and forgets its oldest entry where it is full.

    Arguments:
        make: key -> value, always the same.
        numbers: how many numbers one value holds. There is room for 2^22 in all, and for two values:
            a step needs the level it leaves and the one it enters.
    """

    def __init__(self, make: Callable[[K], V], numbers: int = 1) -> None:
        super().__init__()
        self._make, self._room = make, max(2, 2**22 // max(1, numbers))

    def __missing__(self, key: K) -> V:
        if len(self) >= self._room:
            del self[next(iter(self))]
        value = self[key] = self._make(key)
        return value
