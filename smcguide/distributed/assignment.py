"""Who sends what to whom at a resampling.

N particles are cut into R equal parts, one per process; particle a lives in part a // n, n = N / R. All
processes know all ancestors, so each finds by itself what it sends and what it gets: nobody asks.

The order of ancestors within a system means nothing, so slots are dealt out to leave as many copies as
possible where their ancestor lives. Part r has room for n copies and its particles were chosen C_r times:
max(0, C_r - n) copies must leave it whatever one does, and no more do. Copies of one particle that go to
the same part travel as one row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def at_home(ancestors: Tensor, num_particles: int, num_parts: int) -> Tensor:
    """The same ancestors (S, M) of N particles, system by system, in slots that spare the most traffic.

    Slots and particles are cut into `num_parts` parts each; M and N are multiples of it.
    """
    S, M = ancestors.shape
    n, m = num_particles // num_parts, M // num_parts
    chosen = ancestors.sort(1).values
    home = chosen // n
    parts = torch.arange(num_parts, device=chosen.device).expand(S, num_parts).contiguous()
    first = torch.searchsorted(home.contiguous(), parts)
    within = torch.arange(M, device=chosen.device) - first.gather(1, home)
    stays = within < m
    slots = torch.where(stays, home * m + within, M)  # M: a place for those who must leave
    dealt = chosen.new_full((S, M + 1), -1).scatter_(1, slots, chosen)[:, :M].contiguous()
    dealt[dealt < 0] = chosen[~stays]  # as many free slots as copies without one, in every system
    return dealt


@dataclass(frozen=True)
class Moves:
    """What one process does to get the particles of its slots.

    Attributes:
        outgoing: rows of its own S n particles to send, in the order of the receivers.
        send, receive: how many rows to and from each process.
        kept: (S n,) which own row fills each slot; 0 where one comes from elsewhere.
        awaited: the slots that are filled from elsewhere.
        arrived: for each of those, which of the received rows.
        total: how many rows travel in all, the same number in all processes.
    """

    outgoing: Tensor
    send: list[int]
    receive: list[int]
    kept: Tensor
    awaited: Tensor
    arrived: Tensor
    total: int


def moves(ancestors: Tensor, rank: int, size: int) -> Moves:
    """The moves of process `rank` of `size` for ancestors (S, N). Waits for the device: the host must
    know how much to send."""
    S, N = ancestors.shape
    n, device = N // size, ancestors.device
    systems = torch.arange(S, device=device)[:, None]
    part = torch.arange(N, device=device) // n
    key = (part * S + systems) * N + ancestors  # receiver, system, particle
    keys = key[ancestors // n != part].unique()
    to, system, particle = keys // (S * N), keys // N % S, keys % N
    sender = particle // n
    counts = torch.bincount(sender * size + to, minlength=size * size).view(size, size).tolist()
    row = system * n + particle - rank * n
    order = sender[to == rank].argsort(stable=True)  # rows come sender by sender
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=device)
    here = slice(rank * n, (rank + 1) * n)
    mine, at_sender = ancestors[:, here], systems * n + ancestors[:, here] - rank * n
    away = mine // n != rank
    return Moves(
        outgoing=row[sender == rank],
        send=counts[rank],
        receive=[line[rank] for line in counts],
        kept=torch.where(away, 0, at_sender).flatten(),
        awaited=away.flatten().nonzero()[:, 0],
        arrived=place[torch.searchsorted(keys[to == rank], key[:, here][away])],
        total=len(keys),
    )
