"""The engine: one sequential Monte Carlo step in four paragraphs, and what is built on it.

    resample    the systems whose trigger fires, adding their log-mean-weight to the evidence
    propose     the model moves every particle
    look ahead  and values it where it went (both inside `model.step`)
    reweight    log w += log g; weights are carried where no resampling happened

Per-system decisions are masks: nothing in the loop waits for the device. The final weights are
returned, never resampled away.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from smcguide import exactness, weights
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.genealogy import Genealogy
from smcguide.posterior import Posterior
from smcguide.progress import Progress
from smcguide.randomness import generators
from smcguide.records import Particles, StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.results import collect
from smcguide.runs import check_run, check_selection, check_together
from smcguide.trace import checked, step_info
from smcguide.triggers import Trigger, ess_below

_CHECK_EVERY = 16  # on a device that runs ahead of us


@torch.no_grad()
def _resample(
    particles: Particles,
    log_z: Tensor,
    fires: Tensor,
    resampler: Resampler,
    generator: Generator,
    chain_length: int = 1,
) -> tuple[Particles, Tensor, Tensor]:
    """Resample the systems where `fires` (S,), leave the others as they are; each chosen ancestor fills
    `chain_length` neighbouring places."""
    N = particles.log_w.shape[1]
    chosen = resampler(particles.log_w, generator, N // chain_length)
    chosen = chosen.repeat_interleave(chain_length, 1)
    ancestors = torch.where(fires[:, None], chosen, torch.arange(N, device=fires.device))
    log_z = log_z + torch.where(fires, weights.log_mean_exp(particles.log_w), 0.0)
    particles = particles.take(ancestors)
    log_w = particles.log_w.masked_fill(fires[:, None], 0.0)
    return particles.reweighted(log_w), log_z, ancestors


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
        record: any of "ancestors", "particles", "log_weights", "x0_hat", to keep in each StepInfo.

    Yields:
        K + 1 pairs: the initial population, then the population after each transition.

    Raises:
        InvalidInput: for sizes below 1 or unknown names in `record`.
        DegenerateWeights: when a weight is NaN or +inf, or a system has no living particle.
    """
    if "paths" in record:
        raise InvalidInput(
            "record: paths are known at the end only; use run(..., record=('paths',))."
        )
    return _checked(model, num_particles, num_systems, resampler, trigger, seed, record)


def _checked(
    model: FeynmanKac,
    num_particles: int,
    num_systems: int | None,
    resampler: Resampler | None,
    trigger: Trigger | None,
    seed: int,
    record: Sequence[str],
    lineage: Genealogy | None = None,
) -> Iterator[tuple[Particles, StepInfo]]:
    S = check_run(model, num_particles, num_systems, record, seed=seed)
    check_selection(resampler, trigger)
    selection = resampler or Systematic(), trigger or ess_below(0.5)
    check_together(model, selection[0], num_particles, record, lineage is not None)
    steps = _iterate(model, (S, num_particles), *selection, seed, record, lineage)
    return checked(model, steps, 1 if model.device.type == "cpu" else _CHECK_EVERY)


def _iterate(
    model: FeynmanKac,
    shape: tuple[int, int],
    resampler: Resampler,
    trigger: Trigger,
    seed: int,
    record: Sequence[str],
    lineage: Genealogy | None,
) -> Iterator[tuple[Particles, StepInfo]]:
    noise, selection = generators(seed, model.device)
    first = model.initial(shape, noise)
    first = model.adapt(0, torch.zeros_like(first.log_g), first)
    own = torch.arange(shape[1], device=first.x.device).expand(shape)
    eve = own if first.eve is None else first.eve
    particles = Particles(first.x, first.log_g.double(), eve, first.carry)
    log_z = torch.zeros(shape[0], dtype=torch.float64, device=first.x.device)
    ancestors, fires = own, torch.zeros_like(log_z, dtype=torch.bool)
    yield particles, step_info(model, 0, particles, log_z, ancestors, fires, first, record)

    for k in range(model.num_steps):
        # resample
        decision = False if model.is_noiseless(k) else trigger(k, particles.log_w)
        fires = torch.as_tensor(decision, device=log_z.device).expand(shape[0])
        if decision is False:
            ancestors = own
        else:
            particles, log_z, ancestors = _resample(
                particles, log_z, fires, resampler, selection, model.chain_length
            )
        moves = None if decision is False else fires
        x, carry = model.refresh(k, particles.x, particles.carry, moves, noise)
        if lineage is not None:
            lineage.insert({"x": x}, ancestors if k else None)
        # propose, look ahead
        moved = model.adapt(k + 1, particles.log_w, model.step(k, x, carry, noise))
        # reweight
        log_w = particles.log_w + moved.log_g.double()
        particles = Particles(moved.x, log_w, particles.eve, moved.carry)
        if lineage is not None and k + 1 == model.num_steps:
            lineage.insert({"x": moved.x}, own)
        yield particles, step_info(model, k + 1, particles, log_z, ancestors, fires, moved, record)


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
        record: also "paths", the ancestral path (S, K + 1, N, *E) of each final particle.
        progress: True, False, "auto" (a bar on a terminal only), or a function of each StepInfo.

    Returns:
        The posterior, with the final weights.

    Raises:
        InvalidInput, DegenerateWeights: as `iterate`.
    """
    resampler, trigger = resampler or Systematic(), trigger or ess_below(0.5)
    check_run(model, num_particles, num_systems, record, progress, seed)
    before = dict(getattr(model, "evaluations", {}))
    trace: list[StepInfo] = []
    lineage = Genealogy() if "paths" in record else None
    kept = [name for name in record if name != "paths"]
    steps = _checked(model, num_particles, num_systems, resampler, trigger, seed, kept, lineage)
    with Progress(progress, model.num_steps) as bar:
        for final, info in steps:  # noqa: B007
            trace.append(info)
            bar.update(info)
    settings = {
        "num_particles": num_particles, "seed": seed, "resampler": repr(resampler),
        "trigger": repr(trigger), **{k: repr(v) for k, v in getattr(model, "parts", {}).items()},
        "exactness": exactness.worst([model.exactness, exactness.label([resampler, trigger])]),
    }  # fmt: skip
    after = getattr(model, "evaluations", {})
    about = {
        "evaluations": {name: after[name] - before.get(name, 0) for name in after},
        "settings": settings,
        "has_systems": num_systems is not None or model.num_systems is not None,
        "are_replicates": model.num_systems is None,
        "parameters": model.outputs(final.carry),
    }
    paths = {} if lineage is None else {"paths": lineage.paths()["x"].transpose(1, 2)}
    return collect(final, trace, about, paths)
