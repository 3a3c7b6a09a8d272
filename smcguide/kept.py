"""Answers that are asked for again: one per noise level, as many as memory allows."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(dict[K, V], Generic[K, V]):
    """A table that makes what it lacks, and forgets its oldest entry where it is full.

    What is kept is good for everybody: made in inference mode it knows gradients all the same; made
    inside a transform of torch.func, or by a tracer, it is not kept.

    Arguments:
        make: key -> value, always the same.
        numbers: how many numbers one value holds. There is room for 2^22 in all, and for two values:
            a step needs the level it leaves and the one it enters.
    """

    def __init__(self, make: Callable[[K], V], numbers: int = 1) -> None:
        super().__init__()
        self._make, self._room = make, max(2, 2**22 // max(1, numbers))

    def __missing__(self, key: K) -> V:
        has_grad = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(has_grad):
            if not _are_plain():
                return self._make(key)
            if len(self) >= self._room:
                self.pop(next(iter(self)), None)  # another thread may have been faster
            value = self[key] = self._make(key)
            return value


def _are_plain() -> bool:
    """Whether tensors made now are tensors like any other, and not a transform's or a tracer's own."""
    probe = torch.zeros(()) + 1
    try:
        probe.untyped_storage()
    except NotImplementedError:  # a wrapper of torch.func
        return False
    return type(probe) is Tensor
