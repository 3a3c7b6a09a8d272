r"""Rollover budget forcing: a search that spends a fixed number of network evaluations where they help.

Each of N chains has a budget. It keeps the best of `num_initial` first draws, with value r*. At every
step it draws continuations one at a time. The first whose value exceeds r* is taken at once, r* rises,
and what is left of the step's quota rolls over to the next; without such luck the best candidate of the
step is taken when the quota is used up. Chains run side by side; the budget is never exceeded.

Reference: Kim et al., "Inference-time scaling for flow models via stochastic generation and rollover
budget forcing" (arXiv 2503.19385).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import SEARCH
from smcguide.feynman_kac import Propagated
from smcguide.guided import GuidedDiffusion
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.randomness import generators
from smcguide.records import Particles, StepInfo
from smcguide.results import collect
from smcguide.runs import check_run
from smcguide.trace import step_info


@torch.no_grad()
def rollover(
    model: GuidedDiffusion,
    *,
    budget: int,
    num_chains: int = 2,
    num_initial: int = 8,
    rolls_over: bool = True,
    seed: int = 0,
    progress: bool | str | Callable[[StepInfo], None] = "auto",
) -> Posterior:
    """Search for events of low cost.

    Arguments:
        model: with `proposals.Bootstrap()`; its potential is the value that is compared across steps,
            usually `Tweedie(1.0)`.
        budget: network evaluations of each chain.
        num_chains: N.
        num_initial: first draws per chain, out of the budget.
        rolls_over: False for the same quota at every step.
        seed: of all randomness.
        progress: as in `run`.

    Returns:
        N events, labelled search, without log Z.

    Raises:
        InvalidInput: for a budget below num_initial plus one evaluation per step, a guided proposal, a
            cost with one observation per system.
    """
    check_run(model, num_chains, None, (), progress, seed)
    noisy, fixed = _affordable(model, budget, num_initial)
    noise, _ = generators(seed, model.device)
    before = dict(model.evaluations)
    first = model.initial((1, num_chains * num_initial), noise)
    best = first.log_g.reshape(num_chains, num_initial).argmax(1)
    own = torch.arange(num_chains, device=best.device)
    chains = _Chains(first.x, first.carry).take(best + num_initial * own)
    record, spare = chains.value, torch.zeros_like(own)
    trace: list[StepInfo] = []
    log_z = torch.zeros(1, dtype=torch.float64, device=best.device)
    still = torch.zeros(1, dtype=torch.bool, device=best.device)
    if model.evaluations["network_forward"] - before.get("network_forward", 0) > first.x.shape[1]:
        raise InvalidInput(
            f"rollover: {model.potential!r} calls the network more than once per value."
        )
    rest, K = budget - num_initial - fixed, len(noisy)
    quotas = [rest * (i + 1) // K - rest * i // K for i in range(K)]
    with Progress(progress, model.num_steps) as bar:
        for k in range(model.num_steps):
            if k in noisy:
                quota = quotas[noisy.index(k)] + spare * rolls_over
                chains, spare = _search(model, k, chains, record, quota, noise)
            else:  # nothing to choose from
                chains, _ = _search(model, k, chains, record, torch.ones_like(own), noise)
            record = torch.maximum(record, chains.value)
            moved = Propagated(chains.x, torch.zeros_like(chains.carry["log_psi"]), chains.carry)
            particles = Particles(moved.x, moved.log_g, own[None], moved.carry)
            trace.append(step_info(model, k + 1, particles, log_z, own[None], still, moved, ()))
            bar.update(trace[-1])
    about = {
        "evaluations": {n: model.evaluations[n] - before.get(n, 0) for n in model.evaluations},
        "settings": {
            "num_particles": num_chains, "seed": seed, "budget": budget, "exactness": SEARCH,
            **{name: repr(part) for name, part in model.parts.items()},
        },
        "has_systems": False,
    }  # fmt: skip
    return collect(particles, trace, about)


def _affordable(model: GuidedDiffusion, budget: int, num_initial: int) -> tuple[list[int], int]:
    """The steps that choose, and what the steps without a choice cost."""
    paid = [k for k in range(model.num_steps) if model.levels[k + 1].sigma > 0]
    noisy = [k for k in paid if not model.is_noiseless(k)]
    if num_initial < 1 or not noisy or budget < num_initial + len(paid):
        raise InvalidInput(
            f"rollover: a budget of {budget} cannot pay for {num_initial} first draws (at least 1) and "
            f"one candidate in each of {len(paid)} steps; give at least {num_initial + len(paid)}."
        )
    if model.proposal.is_guided or model.num_systems is not None or model.extras:
        raise InvalidInput(
            "rollover: needs proposals.Bootstrap(), a cost with one observation, and a model that only "
            f"propagates; got {model.proposal!r}, {model.cost!r}, {', '.join(model.extras) or 'no more'}."
        )
    return noisy, len(paid) - len(noisy)


@dataclass(frozen=True)
class _Chains:
    """States (1, N, *E) of the chains, and what they carry."""

    x: Tensor
    carry: Mapping[str, Tensor]

    @property
    def value(self) -> Tensor:
        return self.carry["log_psi"][0]

    def take(self, index: Tensor) -> "_Chains":
        return _Chains(self.x[:, index], {name: a[:, index] for name, a in self.carry.items()})

    def improved(self, index: Tensor, found: "_Chains") -> "_Chains":
        """With the candidates of the chains `index` where they are better."""
        better = found.value > self.value[index]
        index, found = index[better], found.take(better.nonzero()[:, 0])
        carry = {n: a.index_copy(1, index, found.carry[n]) for n, a in self.carry.items()}
        return _Chains(self.x.index_copy(1, index, found.x), carry)


def _search(
    model: GuidedDiffusion, k: int, here: _Chains, record: Tensor, quota: Tensor, noise: Generator
) -> tuple[_Chains, Tensor]:
    """Where each chain goes in step k, and what is left of its quota (N,), at least 1 at first."""

    def candidate(chains: _Chains) -> _Chains:
        moved = model.step(k, chains.x, chains.carry, noise)
        return _Chains(moved.x, moved.carry)

    there, quota = candidate(here), quota - 1
    while bool((searching := (quota > 0) & (there.value <= record)).any()):
        index = searching.nonzero()[:, 0]
        there = there.improved(index, candidate(here.take(index)))
        quota = quota - searching.long()
    return there, quota
