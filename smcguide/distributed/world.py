"""The processes of a job and the few things they say to each other.

`torchrun --nproc-per-node 4 script.py` starts R processes with their number in the environment; the first
call that needs the others makes the connection (gloo between CPUs, NCCL between GPUs). Without torchrun
there is one process and nothing is sent. Tensors travel as bytes: nothing is pickled.

A process that is gone closes its connections, and the others notice at the next exchange; one that hangs
is noticed after the timeout. The first to notice says so; the rest end without a word.
"""

import atexit
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from smcguide.errors import InvalidInput, SmcguideError

_STORES: list[Store] = []  # of the connection that `join` made


class LostProcess(SmcguideError, RuntimeError):
    """Another process of the job is gone or does not answer: the job cannot go on."""


class World:
    """R processes that run the same program.

    Attributes:
        rank, size: which one this is, and R.
        traffic: bytes sent to others so far: "gathered" (numbers of all particles), "moved" (particles).
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size, self.traffic = rank, size, Counter[str]()
        self._store = store

    def gather(self, a: Tensor) -> list[Tensor]:
        """`a` of every process, of the same shape everywhere, in the order of the processes."""
        if self.size == 1:
            return [a]
        out = [torch.empty_like(a, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self._say(lambda: dist.all_gather(out, a.contiguous()))
        self.traffic["gathered"] += (self.size - 1) * a.numel() * a.element_size()
        return out

    def from_first(self, a: Tensor) -> Tensor:
        """`a` of the first process."""
        if self.size > 1:
            a = a.contiguous()
            self._say(lambda: dist.broadcast(a, 0))
        return a

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Rows (m, w) go where `send` says, `send[q]` of them to process q; those received, in the
        order of the senders."""
        if self.size == 1:
            return rows
        out = rows.new_empty((sum(receive), *rows.shape[1:]))
        self._say(lambda: dist.all_to_all_single(out, rows.contiguous(), list(receive), list(send)))
        abroad = sum(send) - send[self.rank]
        self.traffic["moved"] += abroad * math.prod(rows.shape[1:]) * rows.element_size()
        return out

    def to_first(self, a: Tensor, dim: int) -> Tensor | None:
        """The tensors of all processes side by side along `dim`, on the CPU of the first; None elsewhere.
        Their sizes along `dim` may differ."""
        a = a.detach().cpu().movedim(dim, 0).contiguous()
        if self.size == 1:
            return a.movedim(0, dim)
        rows = as_bytes(a)
        lengths = [int(n) for n in self.gather(torch.tensor([len(rows)]))]
        send = [len(rows)] + [0] * (self.size - 1)
        got = self.exchange(rows, send, lengths if self.rank == 0 else [0] * self.size)
        return from_bytes(got, a).movedim(0, dim) if self.rank == 0 else None

    def leave(self) -> None:
        """Close the connections, so that nobody waits for this process."""
        if self.size > 1 and dist.is_initialized():
            if self._store is not None:
                self._store.add("lost", 1)  # the others need not speak: this one's error says it
            dist.destroy_process_group()

    @contextmanager
    def together(self, shared: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Inside, an error makes this process leave, unless it strikes all of them (one of `shared`)."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, (*shared, LostProcess)):
                self.leave()
            raise

    def _say(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            self._lost(error)

    def _lost(self, error: RuntimeError) -> NoReturn:
        first = True
        if self._store is not None:
            try:
                first = self._store.add("lost", 1) == 1
            except RuntimeError:  # it went down with the process that held it
                first = True
        if not first:
            raise SystemExit(1) from None
        reason = str(error).partition(". ")[0]
        raise LostProcess(
            f"Process {self.rank} of {self.size} cannot reach another one: it was killed, failed or did "
            f"not answer in time. The job ends here. (torch.distributed: {reason})"
        ) from None


def join(timeout: float = 600.0) -> World:
    """The processes of this job, connected; one alone if torchrun did not start it.

    Arguments:
        timeout: seconds to wait for another process before it counts as lost; of the first call.

    Raises:
        InvalidInput: if the program made a connection of its own that cannot send CPU tensors.
        LostProcess: if the others do not come.
    """
    if dist.is_available() and dist.is_initialized():
        if "cpu:" not in (config := dist.get_backend_config()):
            raise InvalidInput(
                f"The process group of this program has the backends {config!r}; smcguide needs one for "
                "the CPU too: init_process_group('cpu:gloo,cuda:nccl'), or leave it to smcguide."
            )
        return World(dist.get_rank(), dist.get_world_size(), *_STORES[:1])
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if _STORES:
        raise LostProcess("This process left the others after an error; start the job again.")
    wait = timedelta(seconds=timeout)
    store, rank, size = next(iter(rendezvous("env://", timeout=wait)))
    store.set_timeout(wait)
    store = PrefixStore("smcguide", store)
    world = World(rank, size, store)
    world._say(
        lambda: dist.init_process_group(store=store, rank=rank, world_size=size, timeout=wait)
    )
    _STORES.append(store)
    atexit.register(_part)  # gloo's threads must end before the interpreter does
    return world


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    _STORES.clear()


def device() -> torch.device:
    """Where this process should put its model: a GPU of its own, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def as_bytes(a: Tensor) -> Tensor:
    """(m, ...) -> (m, w) bytes."""
    width = math.prod(a.shape[1:]) * a.element_size()
    return a.reshape(-1).view(torch.uint8).view(len(a), width)


def from_bytes(rows: Tensor, like: Tensor) -> Tensor:
    """(m, w) bytes -> (m, ...) rows as those of `like`."""
    out = like.new_empty(
        (len(rows), *like.shape[1:])
    )  # whose memory suits the type, as a slice's may not
    out.view(-1).view(torch.uint8).view(rows.shape).copy_(rows)
    return out


def pack(fields: Mapping[str, Tensor]) -> Tensor:
    """Fields (m, ...) -> one row of bytes for each of the m, (m, w)."""
    return torch.cat([as_bytes(a) for a in fields.values()], 1)


def unpack(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`, for fields with rows as those of `like`."""
    widths = [math.prod(a.shape[1:]) * a.element_size() for a in like.values()]
    cut = rows.split(widths, 1)
    return {name: from_bytes(c, a) for (name, a), c in zip(like.items(), cut, strict=True)}
