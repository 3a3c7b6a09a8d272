"""Populations in chunks: the one loop over the particle axis, and how large its chunks are.

The work of a chunk is a function of the slice alone, all random numbers are drawn before: it can be done
again. So "auto" tries the work on few particles, and a chunk that ran out of memory is done in halves.
Let p(n) be the peak of n particles, the largest of several sums (fixed + n times something): p(m) is at
most p(n) m / n for m > n. What is inferred from few particles is never too small, and closer from more.
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Integral
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.memory import budget, free, is_out_of_memory, measured, words
from smcguide.records import Level

ChunkSize = int | Literal["auto"] | None
AUTO = "auto"
_TRIED = 64  # particles, after which what is inferred of others is close enough
_LOG = logging.getLogger("smcguide")

Fields = dict[str, Tensor]
Work = Callable[[slice], Fields]


class Owner(Protocol):
    """Whose work is done in chunks, e.g. a `GuidedDiffusion`.

    Attributes:
        chunk_size: most particles at once, None for all, or "auto".
        chunk_sizes: what "auto" has chosen, by kind of work.
        evaluations: counted during the work.
    """

    device: torch.device
    chunk_size: ChunkSize
    chunk_sizes: dict[str, int]
    evaluations: Counter[str]


def check_chunk_size(size: Any) -> None:
    """Raise InvalidInput unless a size is a whole number of at least 1, None or "auto"."""
    whole = isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1
    if not (whole or size is None or (isinstance(size, str) and size == AUTO)):
        raise InvalidInput(
            f"chunk_size must be at least 1 or None, got {size!r}; give the most particles in the "
            'network at once, a whole number, None for all of them, or "auto" for what fits in memory.'
        )


def in_chunks(owner: Owner, kind: str, shape: tuple[int, ...], work: Work) -> Fields:
    """The work on a whole population, chunk by chunk: fields (S, N, ...).

    Arguments:
        owner: says how many particles at once, over all systems, at least one of each.
        kind: of work, in words; "auto" chooses a size for each.
        shape: (S, N).
        work: a slice of the particle axis -> fields (S, n, ...), always the same for the same slice.

    Raises:
        torch.OutOfMemoryError, RuntimeError: where memory runs out and no smaller chunk may be tried,
            with a note on what to do.
    """
    S, N = shape
    if owner.chunk_size == AUTO and kind not in owner.chunk_sizes and N > 1:
        owner.chunk_sizes[kind] = _choose(owner, kind, S, N, work)
    out: Fields = {}
    start = 0
    while start < N:
        here = slice(start, min(N, start + _width(owner, kind, S, N)))
        part = _attempt(owner, work, S, here)
        if part is None:
            _halve(owner, kind, S, here)
            continue
        out = _place(out, part, here, N)
        del part  # or it would live beside the next one
        start = here.stop
    return out


@lru_cache(maxsize=4096)
def kind_of(work: str, t: Level, s: Level | None = None) -> str:
    """The kind of a work at level t, on the way to s: at the ends, and back to more noise, it is another
    one, since proposals and values may have nothing to do there."""
    marks = {"from pure noise": t.alpha == 0}
    if s is not None:
        marks |= {"to the data": s.sigma == 0, "back to noise": s.ratio > t.ratio}
    return " ".join([work, *[mark for mark, there in marks.items() if there]])


def _width(owner: Owner, kind: str, S: int, N: int) -> int:
    """Particles of each system in one chunk."""
    size = owner.chunk_size
    if size == AUTO:
        size = owner.chunk_sizes.get(kind)
    return N if size is None else max(1, int(size) // S)


def _attempt(owner: Owner, work: Work, S: int, here: slice) -> Fields | None:
    """The work on a slice; None where memory ran out and a smaller slice may do, as if it had not been
    tried."""
    before = Counter(owner.evaluations)
    try:
        return work(here)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        n = here.stop - here.start
        if owner.chunk_size != AUTO or n == 1:
            error.add_note(_advice(owner, S, n))
            raise
    # here the error is gone, and with it the frames that held what was computed
    _restore(owner, before)
    gc.collect()
    if owner.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _choose(owner: Owner, kind: str, S: int, N: int, work: Work) -> int:
    """How many particles fit, from the peaks of the work on 1, 8 and 64 of them, or as many as fit. What
    was tried is not kept: the chunks of a run are the same from wherever it goes on."""
    n, before = 1, Counter(owner.evaluations)
    _attempt(owner, work, S, slice(0, 1))  # pays for what is made once and kept
    while True:
        attempt = partial(_attempt, owner, work, S, slice(0, n))
        part, peak = measured(attempt, owner.device)
        if part is None:
            width = n // 2
            break
        each = max(1, peak) / n  # bytes, of one particle in all systems
        kept = N / n * sum(a.nbytes for a in part.values())
        del part
        room = budget(owner.device, int(kept))
        width = _power_of_two(room / each)
        following = min(8 * n, width)
        if width >= N or following <= n or S * n >= _TRIED:
            break
        n = following
    _restore(owner, before)
    _LOG.info(
        'chunk_size="auto", %s: %s of %s particles at once (%s each, room for %s)',
        kind, f"{S * min(width, N):,}", f"{S * N:,}", words(each / S), words(room),
    )  # fmt: skip
    return S * width


def _power_of_two(number: float) -> int:
    """The largest power of 2 up to a number, at least 1: little changes do not change it."""
    return 1 << max(1, int(number)).bit_length() - 1


def _halve(owner: Owner, kind: str, S: int, here: slice) -> None:
    n = here.stop - here.start
    owner.chunk_sizes[kind] = S * (n // 2)
    there = free(owner.device)
    _LOG.warning(
        'chunk_size="auto", %s: out of memory with %s particles at once%s; from here on %s. The '
        "result is the same up to rounding.",
        kind, f"{S * n:,}", "" if there is None else f" ({words(there)} are free)",
        f"{S * (n // 2):,}",
    )  # fmt: skip


def _advice(owner: Owner, S: int, n: int) -> str:
    if n > 1:
        return (
            f"smcguide: memory ran out with {S * n:,} particles in the network at once "
            f'(chunk_size={owner.chunk_size}). Use chunk_size="auto", or a number below {S * n:,}.'
        )
    fewer = f"fewer systems (there are {S:,}, each with one particle at least), " if S > 1 else ""
    return (
        f"smcguide: memory ran out with the smallest chunk there is, {S:,} at once "
        f"(chunk_size={owner.chunk_size!r}). Use {fewer}a network in half precision "
        "(prior.to(network_dtype=torch.bfloat16)), priors.recompute_blocks(net), a proposal or potential "
        "without gradients, or a device with more memory."
    )


def _restore(owner: Owner, before: Counter[str]) -> None:
    owner.evaluations.clear()
    owner.evaluations.update(before)


def _place(out: Fields, part: Fields, here: slice, N: int) -> Fields:
    """The fields so far with those of a chunk in their place."""
    if here.stop - here.start == N:
        return part
    if not out:
        out = {name: a.new_empty((a.shape[0], N, *a.shape[2:])) for name, a in part.items()}
    for name, a in part.items():
        out[name][:, here] = a
    return out
