"""One population over R processes: N particles, N / R in each.

Every process has its own noise and the same stream for selection. Log-weights are gathered before they
are looked at, so trigger, resampler and evidence see exactly what they would see in one process, and
every process comes to the same ancestors. A run differs from one in a single process by its random
numbers only: Z is unbiased, whatever N and R.

Traffic of a process: S n log-weights to each other one per step; at a resampling the particles that must
move, and no more (`assignment`). Families are known everywhere and never sent.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor

from smcguide.distributed.assignment import Moves, at_home, moves
from smcguide.distributed.world import World, pack, unpack
from smcguide.population import Population
from smcguide.randomness import generators
from smcguide.records import Particles


def seed_of(seed: int, rank: int) -> int:
    """A seed for the random numbers that are process `rank`'s alone."""
    return int(np.random.SeedSequence(seed, spawn_key=(rank,)).generate_state(1)[0])


class Sharded(Population):
    """The particles of one process, for `loop.Plan`; for one run.

    Arguments:
        world: the processes.
        num_particles: N, a multiple of their number.
    """

    def __init__(self, world: World, num_particles: int) -> None:
        self.world, self._N = world, num_particles
        # the last of each kind, weights and families: part, version, whole
        self._known: dict[torch.dtype, tuple[Tensor, int, Tensor]] = {}

    def generators(self, seed: int, device: torch.device) -> list[Generator]:
        selection = generators(seed, device)[1]
        return [generators(seed_of(seed, self.world.rank), device)[0], selection]

    def places(self, num_particles: int) -> slice:
        n = num_particles // self.world.size
        return slice(self.world.rank * n, (self.world.rank + 1) * n)

    def whole(self, a: Tensor) -> Tensor:
        """Asked twice for the same numbers, nothing is sent."""
        if a.dtype in self._known:
            part, version, known = self._known[a.dtype]
            if part is a and version == a._version:
                return known
        return self._remember(a, torch.cat(self.world.gather(a), 1))

    def _remember(self, part: Tensor, known: Tensor) -> Tensor:
        self._known[part.dtype] = part, part._version, known
        return known

    def means(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not named:
            return named
        rows = torch.stack([a.double() for a in named.values()])
        mean = torch.stack(self.world.gather(rows)).mean(0)
        return {name: row.to(a.dtype) for (name, a), row in zip(named.items(), mean, strict=True)}

    def arrange(self, ancestors: Tensor) -> Tensor:
        if ancestors.device.type != "cpu":  # cumulative sums of a GPU may differ in the last bit
            ancestors = self.world.from_first(ancestors)
        return at_home(ancestors, self._N, self.world.size)

    def take(self, particles: Particles, ancestors: Tensor, log_w: Tensor) -> Particles:
        here = self.places(ancestors.shape[1])
        eves = self.whole(particles.eve).gather(1, ancestors)
        eve = eves[:, here].contiguous()
        todo = moves(ancestors, self.world.rank, self.world.size)
        fields = {f"carry {name}": a for name, a in particles.carry.items()} | {"x": particles.x}
        out = carry_out(self.world, todo, fields)
        self._remember(eve, eves)
        return Particles(
            out["x"], log_w, eve, {name: out[f"carry {name}"] for name in particles.carry}
        )


def carry_out(world: World, todo: Moves, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fields (S, n, ...) of the slots of this process, from fields of its particles; one exchange."""
    flat = {name: a.flatten(0, 1) for name, a in fields.items()}
    out = {name: a.index_select(0, todo.kept) for name, a in flat.items()}
    if todo.total:
        rows = pack({name: a.index_select(0, todo.outgoing) for name, a in flat.items()})
        got = unpack(world.exchange(rows, todo.send, todo.receive), flat)
        for name, a in out.items():
            a.index_copy_(0, todo.awaited, got[name].index_select(0, todo.arrived))
    return {name: a.unflatten(0, fields[name].shape[:2]) for name, a in out.items()}
