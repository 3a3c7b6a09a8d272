"""How much memory a piece of work needs, how much there is, and what running out of it looks like.

A CUDA device is asked: its allocator knows the peak. Elsewhere the bytes of the tensors alive at a time
are counted while the work runs once: every operation is seen, and every storage until it is freed.
What other libraries (numpy, JAX) allocate is not seen there.
"""

import ctypes
import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
SHARE = 0.5  # of what is free; the rest is for what a try does not see (convolution workspaces)
CPU_BOUND = 2**25  # bytes per thread: larger chunks are no faster there (docs/memory.md)
_KEEP = {-4: 0, -1: -1}  # M_MMAP_MAX: no blocks of their own; M_TRIM_THRESHOLD: never give back
_SIGNS = re.compile(
    "out of memory|not enough memory|can(no|')t allocate memory|DefaultCPUAllocator|_ALLOC_FAILED",
    re.IGNORECASE,
)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside it that are alive; `peak` is the most there were.

    A storage that comes in from outside is not counted, neither are views of one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        self._see((args, kwargs), is_new=False)
        out = func(*args, **(kwargs or {}))
        self._see(out, is_new=True)
        self.peak = max(self.peak, self.live)
        return out

    def _see(self, tree: Any, is_new: bool) -> None:
        for a in tree_leaves(tree):
            if not isinstance(a, Tensor) or a.layout != torch.strided:
                continue
            storage = a.untyped_storage()
            key = id(storage)
            if key in self._known:
                continue
            size = storage.nbytes() if is_new else 0
            self.live += size
            self._known[key] = weakref.ref(storage, partial(self._free, key, size))

    def _free(self, key: int, size: int, _: Any) -> None:
        self.live -= size
        self._known.pop(key, None)


def measured(f: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """f() and the most bytes it held at a time, its result included.

    On a CUDA device this resets torch's peak statistics.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = f()
        return result, torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as counter:
        result = f()
    return result, counter.peak


def free(device: torch.device) -> int | None:
    """Bytes that can still be had on a CUDA device (torch's own cache included) or, on Linux, in the
    machine's memory; None where nobody says."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:  # not Linux
        return None
    return None if found is None else 1024 * int(found[1])


def budget(device: torch.device, kept: int) -> int:
    """Bytes that one chunk may take, where `kept` bytes of results must find room beside it."""
    there, bound = free(device), CPU_BOUND * torch.get_num_threads()
    if there is None:
        return bound
    share = max(0, int(SHARE * (there - kept)))
    return share if device.type == "cuda" else min(share, bound)


def keep_memory() -> bool:
    """Let the process keep memory that is freed on the CPU, for good, for its next use.

    A C library gives large blocks back to the operating system, and every new one is then filled page by
    page: where states are larger than a few megabytes that takes longer than the arithmetic. Kept memory
    counts as the process's own until it ends. The setting is that of the whole process, which is why the
    package never makes it by itself.

    Returns:
        Whether it could be set: with the GNU C library only, that is, on most Linux systems.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in _KEEP.items())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's on any device, Python's, or JAX's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def words(size: float) -> str:
    """A number of bytes to read: '3.2 GB'."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
