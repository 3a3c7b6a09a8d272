"""The engine: one sequential Monte Carlo step in four paragraphs, and what is built on it.

    resample    the systems whose trigger fires, adding their log-mean-weight to the evidence
    propose     the model moves every particle
    look ahead  and values it where it went (both inside `model.step`)
    reweight    log w += log g; weights are carried where no resampling happened

Per-system decisions are masks: nothing in the loop waits for the device. The final weights are
returned, never resampled away.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.boundary import check_population
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.triggers import Trigger, ess_below

_RECORDABLE = ("ancestors", "particles", "log_weights")
_CHECK_EVERY = 16  # on a device that runs ahead of us


@torch.no_grad()
def _resample(
    particles: Particles, log_z: Tensor, fires: Tensor, resampler: Resampler, generator: Generator
) -> tuple[Particles, Tensor, Tensor]:
    """Resample the systems where `fires` (S,), leave the others as they are."""
    own = torch.arange(particles.log_w.shape[1], device=fires.device)
    ancestors = torch.where(fires[:, None], resampler(particles.log_w, generator), own)
    log_z = log_z + torch.where(fires, weights.log_mean_exp(particles.log_w), 0.0)
    particles = particles.take(ancestors)
    return replace(particles, log_w=particles.log_w.masked_fill(fires[:, None], 0.0)), log_z, ancestors


def iterate(
    model: FeynmanKac,
    *,
    num_particles: int = 512,
    num_systems: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    record: Sequence[str] = (),
) -> Iterator[tuple[Particles, StepInfo]]:
    """Run a model one step at a time.

    Arguments:
        model: what to run.
        num_particles: N per system.
        num_systems: S independent systems; None for the model's own number, or 1.
        resampler: default Systematic().
        trigger: when to resample, default ess_below(0.5).
        seed: of all randomness.
        record: any of "ancestors", "particles", "log_weights", to keep in each StepInfo.

    Yields:
        K + 1 pairs: the initial population, then the population after each transition.

    Raises:
        InvalidInput: for sizes below 1 or unknown names in `record`.
        DegenerateWeights: when a weight is NaN or +inf, or a system has no living particle.
    """
    S = check_population(num_particles, num_systems, model)
    if unknown := set(record) - set(_RECORDABLE):
        raise InvalidInput(f"record: unknown names {sorted(unknown)}; there are {_RECORDABLE}.")
    return _iterate(
        model, (S, num_particles), resampler or Systematic(), trigger or ess_below(0.5), seed, record
    )


def _iterate(
    model: FeynmanKac,
    shape: tuple[int, int],
    resampler: Resampler,
    trigger: Trigger,
    seed: int,
    record: Sequence[str],
) -> Iterator[tuple[Particles, StepInfo]]:
    noise, selection = _generators(seed, model.device)
    first = model.initial(shape, noise)
    own = torch.arange(shape[1], device=first.x.device).expand(shape)
    particles = Particles(first.x, first.log_g.double(), own, first.carry)
    log_z = torch.zeros(shape[0], dtype=torch.float64, device=first.x.device)
    ancestors, fires = own, torch.zeros_like(log_z, dtype=torch.bool)
    yield particles, _info(model, 0, particles, log_z, ancestors, fires, first, record)

    for k in range(model.num_steps):
        # resample
        decision = False if model.is_noiseless(k) else trigger(k, particles.log_w)
        fires = torch.as_tensor(decision, device=log_z.device).expand(shape[0])
        if decision is False:
            ancestors = own
        else:
            particles, log_z, ancestors = _resample(particles, log_z, fires, resampler, selection)
        # propose, look ahead
        moved = model.step(k, particles.x, particles.carry, noise)
        # reweight
        log_w = particles.log_w + moved.log_g.double()
        particles = Particles(moved.x, log_w, particles.eve, moved.carry)
        yield particles, _info(model, k + 1, particles, log_z, ancestors, fires, moved, record)


def _generators(seed: int, device: torch.device) -> list[Generator]:
    """Two independent streams: one for the model's noise, one for resampling."""
    states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    return [Generator(device).manual_seed(int(s >> np.uint64(1))) for s in states]


def _distinct(index: Tensor) -> Tensor:
    """Number of distinct entries per row of (S, N) indices below N."""
    return torch.zeros_like(index).scatter_(1, index, 1).sum(1)


def _info(
    model: FeynmanKac,
    step: int,
    particles: Particles,
    log_z: Tensor,
    ancestors: Tensor,
    resampled: Tensor,
    moved: Propagated,
    record: Sequence[str],
) -> StepInfo:
    log_w, N = particles.log_w, particles.log_w.shape[1]
    illegal = (torch.isnan(moved.log_g) | torch.isposinf(moved.log_g) | torch.isnan(log_w)).sum(1)
    dead = torch.isneginf(log_w).all(1)
    kept = {"ancestors": ancestors, "particles": particles.x, "log_weights": log_w}
    return StepInfo(
        step=step,
        time=model.time(step),
        ess=weights.ess(log_w),
        resampled=resampled,
        log_evidence=log_z + weights.log_mean_exp(log_w),
        unique_ancestors=_distinct(ancestors),
        unique_eves=_distinct(particles.eve),
        bad=torch.where(dead, N, illegal),
        report=model.report(moved.carry),
        recorded={name: kept[name] for name in record},
    )


def _raise_if_degenerate(
    model: FeynmanKac, trace: list[StepInfo], particles: Particles, since: int
) -> None:
    """Look at the flags of the steps from `since` on; the only wait for the device."""
    bad = torch.stack([info.bad for info in trace[since:]]).cpu()
    if not bool(bad.any()):
        return
    row = int(bad.any(1).nonzero()[0])
    system = int(bad[row].nonzero()[0])
    info, count, N = trace[since + row], int(bad[row, system]), particles.log_w.shape[1]
    culprit, remedy = model.culprit(info.step)
    error = DegenerateWeights(
        "No particle is left alive" if count == N else "Non-finite weights",
        step=info.step, time=info.time, system=system, count=count, num_particles=N,
        culprit=culprit, remedy=remedy,
    )  # fmt: skip
    error.particles, error.trace = particles, trace
    raise error


def run(
    model: FeynmanKac,
    *,
    num_particles: int = 512,
    num_systems: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    record: Sequence[str] = (),
    progress: bool | str | Callable[[StepInfo], None] = "auto",
) -> Posterior:
    """Run a model to the end; arguments as in `iterate`.

    Arguments:
        progress: True, False, "auto" (a bar on a terminal only), or a function called with each
            StepInfo.

    Returns:
        The posterior, with the final weights.

    Raises:
        InvalidInput, DegenerateWeights: as `iterate`.
    """
    resampler, trigger = resampler or Systematic(), trigger or ess_below(0.5)
    check_population(num_particles, num_systems, model)
    before = dict(getattr(model, "evaluations", {}))
    trace: list[StepInfo] = []
    steps = iterate(
        model, num_particles=num_particles, num_systems=num_systems, resampler=resampler,
        trigger=trigger, seed=seed, record=record,
    )  # fmt: skip
    every = 1 if model.device.type == "cpu" else _CHECK_EVERY
    checked = 0
    with Progress(progress, model.num_steps) as bar:
        for particles, info in steps:
            trace.append(info)
            if info.step % every == 0 or info.step == model.num_steps:
                _raise_if_degenerate(model, trace, particles, checked)
                checked = len(trace)
            bar.update(info)
    settings = {
        "num_particles": num_particles, "seed": seed, "resampler": repr(resampler),
        "trigger": repr(trigger), **{k: repr(v) for k, v in getattr(model, "parts", {}).items()},
    }  # fmt: skip
    after = getattr(model, "evaluations", {})
    return Posterior.from_run(
        particles,
        trace,
        evaluations={name: after[name] - before.get(name, 0) for name in after},
        settings=settings,
        has_systems=num_systems is not None or model.num_systems is not None,
        are_replicates=model.num_systems is None,
    )
