"""The sequential Monte Carlo step in four paragraphs.

    resample    the systems whose trigger fires, adding their log-mean-weight to the evidence
    propose     the model moves every particle
    look ahead  and values it where it went (both inside `model.step`)
    reweight    log w += log g; weights are carried where no resampling happened

Per-system decisions are masks: nothing in the loop waits for a device. On the CPU, where looking costs
nothing, a resampling of no system is left out. The final weights are returned, never resampled away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.population import Population
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.trace import step_info
from smcguide.triggers import Trigger, decide


@dataclass(frozen=True)
class Plan:
    """How a model is run.

    Attributes:
        shape: (S, N), of the whole population.
        resampler, trigger: how and when to resample.
        seed: of all randomness.
        record: what each `StepInfo` keeps.
        lineage: grows with the run where paths are wanted.
        population: where the particles are.
    """

    shape: tuple[int, int]
    resampler: Resampler
    trigger: Trigger
    seed: int
    record: Sequence[str] = ()
    lineage: Genealogy | None = None
    population: Population = field(default_factory=Population)


@dataclass
class State:
    """A run between two steps: all that the rest of it depends on. One object for a whole run, so that
    nobody keeps a population alive that has been replaced.

    Attributes:
        k: transitions made so far.
        particles: the population here.
        log_z: (S,) evidence of the resamplings so far.
        noise, selection: the two streams of random numbers, where they stand.
        info: the record of the last step, whose ESS and evidence the next one goes on from; None where
            the particles have changed since.
    """

    k: int
    particles: Particles
    log_z: Tensor
    noise: Generator
    selection: Generator
    info: StepInfo | None = None


def begin(model: FeynmanKac, plan: Plan) -> tuple[State, StepInfo]:
    """The first population."""
    noise, selection = plan.population.generators(plan.seed, model.device)
    own = _own(model, plan)
    here = own[:, plan.population.places(plan.shape[1])]
    first = model.initial((plan.shape[0], here.shape[1]), noise)
    first = model.adapt(0, torch.zeros_like(first.log_g), first)
    eve = here if first.eve is None else here[:, :1] + first.eve
    particles = Particles(first.x, first.log_g.double(), eve, first.carry)
    log_z = torch.zeros(plan.shape[0], dtype=torch.float64, device=first.x.device)
    still = torch.zeros_like(log_z, dtype=torch.bool)
    info = step_info(model, 0, particles, log_z, None, still, first, plan.record, plan.population)
    return State(0, particles, log_z, noise, selection, info), info


def advance(model: FeynmanKac, plan: Plan, state: State) -> StepInfo:
    """One transition more, by which `state` changes."""
    k = state.k
    # resample
    fires = _fires(model, plan, state)
    ancestors = None if fires is None else _resample(model, plan, state, fires)
    particles, log_z = state.particles, state.log_z
    x, carry = model.refresh(k, particles.x, particles.carry, fires, state.noise)
    if plan.lineage is not None:
        parents = _own(model, plan) if ancestors is None else ancestors
        plan.lineage.insert({"x": x}, parents if k else None)
    # propose, look ahead
    moved = model.adapt(k + 1, particles.log_w, model.step(k, x, carry, state.noise))
    # reweight
    log_w = particles.log_w + moved.log_g.double()
    particles = Particles(moved.x, log_w, particles.eve, moved.carry)
    if plan.lineage is not None and k + 1 == model.num_steps:
        plan.lineage.insert({"x": moved.x}, _own(model, plan))
    resampled = torch.zeros_like(log_z, dtype=torch.bool) if fires is None else fires
    info = step_info(
        model, k + 1, particles, log_z, ancestors, resampled, moved, plan.record, plan.population,
        state.info,
    )  # fmt: skip
    state.k, state.particles, state.info = k + 1, particles, info
    return info


def steps(
    model: FeynmanKac, plan: Plan, start: State | None = None
) -> Iterator[tuple[State, StepInfo]]:
    """The whole run, or what is left of it after `start`."""
    state = start
    if state is None:
        state, info = begin(model, plan)
        yield state, info
    while state.k < model.num_steps:
        yield state, advance(model, plan, state)


def _own(model: FeynmanKac, plan: Plan) -> Tensor:
    """(S, N): every slot its own ancestor."""
    return torch.arange(plan.shape[1], device=model.device).expand(plan.shape)


def _fires(model: FeynmanKac, plan: Plan, state: State) -> Tensor | None:
    """(S,) which systems are resampled now; None where it is known that none is."""
    if model.is_noiseless(state.k):
        return None
    log_w = plan.population.whole(state.particles.log_w)
    ess = weights.ess(log_w) if state.info is None else state.info.ess
    decision = decide(plan.trigger, state.k, log_w, ess)
    if not isinstance(decision, Tensor):
        return torch.ones_like(ess, dtype=torch.bool) if decision else None
    fires = decision.to(ess.device).expand(plan.shape[0])
    if weights.looking_is_free(ess.device) and not fires.any():
        return None
    return fires


@torch.no_grad()
def _resample(model: FeynmanKac, plan: Plan, state: State, fires: Tensor) -> Tensor:
    """Resample the systems where `fires` (S,), leave the others as they are; each chosen ancestor fills
    `chain_length` neighbouring places. Returns the ancestors (S, N)."""
    log_w = plan.population.whole(state.particles.log_w)
    chosen = plan.resampler(log_w, state.selection, plan.shape[1] // model.chain_length)
    chosen = plan.population.arrange(chosen)
    if model.chain_length > 1:
        chosen = chosen.repeat_interleave(model.chain_length, 1)
    ancestors = torch.where(fires[:, None], chosen, _own(model, plan))
    known = state.info
    so_far = state.log_z + weights.log_mean_exp(log_w) if known is None else known.log_evidence
    state.log_z = torch.where(fires, so_far, state.log_z)
    # a system that does not fire keeps its particles in their places, and their weights
    carried = torch.where(fires[:, None], 0.0, state.particles.log_w)
    state.particles = plan.population.take(state.particles, ancestors, carried)
    return ancestors
