"""What is kept of each step, and the check that its weights are legal."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.population import Population
from smcguide.records import Particles, StepInfo

HERE = Population()


def _distinct(index: Tensor) -> Tensor:
    """Number of distinct entries per row of (S, N) indices below N."""
    counts = torch.zeros_like(index).scatter_add_(1, index, torch.ones_like(index))
    return counts.clamp_(max=1).sum(1)


def step_info(
    model: FeynmanKac,
    step: int,
    particles: Particles,
    log_z: Tensor,
    ancestors: Tensor | None,
    resampled: Tensor,
    moved: Propagated,
    record: Sequence[str],
    population: Population = HERE,
    before: StepInfo | None = None,
) -> StepInfo:
    """The record of the population after `step` transitions; all tensors stay on the device.

    Arguments:
        ancestors: (S, N) who was chosen, None for each particle itself.
        before: the record of the step before, if there is one.
    """
    log_w = population.whole(particles.log_w)
    ess, log_mean = weights.summary(log_w)
    kept = {"particles": particles.x, "log_weights": log_w}
    N = log_w.shape[1]
    if "ancestors" in record:
        own = torch.arange(N, device=log_w.device).expand_as(log_w)
        kept["ancestors"] = own if ancestors is None else ancestors
    if "x0_hat" in record:
        kept["x0_hat"] = _predictions(model, particles)
    return StepInfo(
        step=step,
        time=model.time(step),
        ess=ess,
        resampled=resampled,
        log_evidence=log_z + log_mean,
        unique_ancestors=(
            torch.full_like(resampled, N, dtype=torch.long)
            if ancestors is None
            else _distinct(ancestors)
        ),
        unique_eves=(
            _distinct(population.whole(particles.eve))
            if before is None or ancestors is not None
            else before.unique_eves
        ),
        bad=_illegal(log_w, log_mean),
        report=population.means(model.report(moved.carry)),
        recorded={name: kept[name] for name in record},
    )


def _illegal(log_w: Tensor, log_mean: Tensor) -> Tensor:
    """Number of illegal weights per system, (S,); N where all are zero. One that is NaN or +inf makes the
    mean so, which on the CPU is looked at first."""
    if weights.looking_is_free(log_w.device) and math.isfinite(log_mean.sum()):
        return torch.zeros_like(log_mean, dtype=torch.long)
    N = log_w.shape[1]
    illegal = N - (log_w < torch.inf).sum(1)
    return illegal.masked_fill_(torch.isneginf(log_mean), N)


def _predictions(model: FeynmanKac, particles: Particles) -> Tensor:
    """The denoised estimates of the states, (S, N, *E).

    Raises:
        InvalidInput: for a model that carries none.
    """
    if "x0_hat" not in particles.carry:
        raise InvalidInput(
            f"record: {model!r} carries no predictions 'x0_hat'; a GuidedDiffusion does. Leave it out."
        )
    return particles.carry["x0_hat"]


def raise_if_degenerate(
    model: FeynmanKac,
    trace: list[StepInfo],
    particles: Particles,
    num_particles: int,
    since: int = 0,
) -> None:
    """Look at the flags of the steps from `since` on; the only wait for the device.

    Raises:
        DegenerateWeights: with the whole trace, at the first illegal step.
    """
    flags = [info.bad for info in trace[since:]]
    if not (torch.stack(flags) if len(flags) > 1 else flags[0]).any():
        return
    bad = torch.stack(flags).cpu()
    row = int(bad.any(1).nonzero()[0])
    system = int(bad[row].nonzero()[0])
    info, count = trace[since + row], int(bad[row, system])
    dead = bool(torch.isneginf(info.log_evidence[system]))
    culprit, remedy = model.culprit(info.step)
    error = DegenerateWeights(
        "No particle is left alive" if dead else "Non-finite weights",
        step=info.step, time=info.time, system=system, count=count, num_particles=num_particles,
        culprit=culprit, remedy=remedy,
    )  # fmt: skip
    error.particles, error.trace = particles, trace[: since + row + 1]
    raise error
