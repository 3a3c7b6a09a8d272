r"""Islands: each process resamples within itself, and whole islands are resampled rarely.

Island r has n particles, its own trigger and its own evidence Z_r, which is unbiased. The estimate of the
whole is the mean, and the islands' weights are in proportion to Z_r:

    Z = (1/R) sum_r Z_r,      ESS of islands = (sum_r Z_r)^2 / sum_r Z_r^2

Where that ESS falls, R islands are drawn with probabilities Z_r / sum Z, copied as they are, and each
gets Z as its evidence: the mean stays Z, and Z stays unbiased. Per step a handful of numbers per system
travels, and at an exchange the islands that are lost are replaced. Averages weigh islands by Z_r and
are consistent in n and in R.

Reference: Verge, Dubarry, Del Moral, Moulines, "On parallel implementation of sequential Monte Carlo
methods: the island particle model" (arXiv 1306.3911).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.distributed.assignment import at_home, moves
from smcguide.distributed.sharded import carry_out, seed_of
from smcguide.distributed.world import World
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.loop import Plan, State, advance, begin
from smcguide.population import Population
from smcguide.randomness import generators
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.systematic import Systematic
from smcguide.trace import raise_if_degenerate

_NUMBERS = ("log_evidence", "ess", "bad", "resampled", "unique_ancestors", "unique_eves")


@dataclass(frozen=True)
class Islands:
    """When islands are exchanged: every `every` steps, in the systems whose ESS of islands is below
    `fraction` of their number, fraction in (0, 1]; and where an island has died out.

    Raises:
        InvalidInput: for other numbers.
    """

    every: int = 1
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.every, Integral) or self.every < 1 or not 0 < self.fraction <= 1:
            raise InvalidInput(
                f"{self!r}: every must be a whole number of at least 1, fraction in (0, 1]."
            )

    def exchanges(self, k: int, log_z: Tensor) -> Tensor:
        """The systems (S,) bool to exchange after k transitions, from the islands' evidences (S, R)."""
        few = weights.ess(log_z) < self.fraction * log_z.shape[1]
        dead = torch.isneginf(log_z)
        return (few & (k % self.every == 0)) | (dead.any(1) & ~dead.all(1))


class _Alone(Population):
    """The particles of one island are all that it sees."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def generators(self, seed: int, device: torch.device) -> list[Generator]:
        return generators(seed_of(seed, self.rank), device)


def steps(
    model: FeynmanKac, plan: Plan, islands: Islands, world: World
) -> Iterator[tuple[Particles, StepInfo]]:
    """A run on islands, step by step: the particles here with their weights and families in the whole,
    and what happened in the whole. `plan` is that of the whole.

    Raises:
        DegenerateWeights: in all processes, when a weight is illegal or all islands are dead.
    """
    S, n = plan.shape[0], plan.shape[1] // world.size
    alone = replace(plan, shape=(S, n), population=_Alone(world.rank))
    choice = generators(plan.seed, torch.device("cpu"))[1]  # the same in all processes
    origin = torch.arange(world.size).expand(S, -1)
    trace: list[StepInfo] = []
    state, info = begin(model, alone)
    while True:
        whole, log_z = _together(world, info, n)
        trace.append(whole)
        raise_if_degenerate(model, trace, state.particles, plan.shape[1], len(trace) - 1)
        yield _in_the_whole(state, origin[:, world.rank]), whole
        if state.k == model.num_steps:
            return
        due = islands.exchanges(state.k, log_z)
        if bool(due.any()) and not model.is_noiseless(state.k):
            chosen = _exchange(world, state, log_z, due, choice)
            origin = origin.gather(1, chosen)
        info = advance(model, alone, state)


def _together(world: World, info: StepInfo, n: int) -> tuple[StepInfo, Tensor]:
    """What happened on all islands, and their evidences (S, R); on the CPU."""
    here = {name: getattr(info, name) for name in _NUMBERS} | dict(info.report)
    table = torch.stack([a.double() for a in here.values()], 1).cpu()
    whole = torch.stack(world.gather(table), 1)
    of = dict(zip(here, whole.unbind(2), strict=True))  # name -> (S, R)
    log_z, dead = of["log_evidence"], torch.isneginf(of["log_evidence"])
    illegal = torch.where(dead, 0.0, of["bad"]).sum(1)
    squares = torch.where(dead, -torch.inf, 2 * log_z - of["ess"].log())
    ess = torch.exp(2 * weights.log_sum_exp(log_z) - weights.log_sum_exp(squares))
    info = replace(
        info, ess=ess, log_evidence=weights.log_mean_exp(log_z), resampled=of["resampled"].bool().any(1),
        unique_ancestors=of["unique_ancestors"].sum(1).long(),
        unique_eves=of["unique_eves"].sum(1).long(),  # families on two islands count twice
        bad=torch.where(dead.all(1), float(n * world.size), illegal).long(),
        report={name: of[name].mean(1) for name in info.report},
    )  # fmt: skip
    return info, log_z


def _exchange(world: World, state: State, log_z: Tensor, due: Tensor, choice: Generator) -> Tensor:
    """Islands drawn by their evidences (S, R) in the systems that are `due` (S,): which, (S, R)."""
    own = torch.arange(world.size).expand(log_z.shape)
    chosen = at_home(Systematic()(log_z, choice), world.size, world.size)
    chosen = torch.where(due[:, None], chosen, own)
    p, device = state.particles, state.log_z.device
    fields = {f"carry {name}": a for name, a in p.carry.items()}
    fields |= {"x": p.x, "log_w": p.log_w, "eve": p.eve}
    todo = moves(chosen.to(device), world.rank, world.size)
    rows = carry_out(world, todo, {name: a[:, None] for name, a in fields.items()})
    out = {name: a[:, 0] for name, a in rows.items()}
    carry = {name: out[f"carry {name}"] for name in p.carry}
    particles = Particles(out["x"], out["log_w"], out["eve"], carry)
    mean = weights.log_mean_exp(log_z).to(device)
    shared = mean - weights.log_mean_exp(particles.log_w)
    log_z_here = torch.where(due.to(device), shared, state.log_z)
    state.particles, state.log_z, state.info = particles, log_z_here, None
    return chosen


def _in_the_whole(state: State, origin: Tensor) -> Particles:
    """The particles here with the weights and the families that they have among all islands."""
    p, n = state.particles, state.particles.eve.shape[1]
    eve = p.eve + n * origin.to(p.eve.device)[:, None]
    return Particles(p.x, p.log_w + state.log_z[:, None], eve, p.carry)
