"""`sample`: the whole job in one call, with defaults chosen by what the prior and the cost can do.

The defaults and the measurements behind them are in docs/decisions.md.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from types import SimpleNamespace

import torch
from torch import Tensor

from smcguide.boundary import as_prior, is_differentiable, typical
from smcguide.checkpoint import Checkpoint
from smcguide.chunking import ChunkSize
from smcguide.costs.base import TerminalCost, as_cost
from smcguide.engine import run
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.grids import Grid, karras
from smcguide.guided import GuidedDiffusion
from smcguide.kernels.base import Kernel
from smcguide.kernels.matched import MatchedDDPM
from smcguide.moves.base import Move
from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameter_moves.random_walk import RandomWalk
from smcguide.posterior import Posterior
from smcguide.potentials.base import SIGNAL_FRACTION, Potential
from smcguide.potentials.inflated import InflatedGaussian
from smcguide.potentials.krylov_laplace import KrylovLaplace
from smcguide.potentials.tempered import Tempered
from smcguide.potentials.tweedie import Tweedie
from smcguide.priors.base import Prior
from smcguide.proposals.base import Proposal
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.proposals.gradient import Gradient
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.runs import check_run, check_selection
from smcguide.starts.base import Start
from smcguide.triggers import Trigger


def default_potential(prior: Prior, cost: TerminalCost) -> Potential:
    """InflatedGaussian where it can serve the cost, KrylovLaplace for other costs with a gradient
    (tempered where there are unknown parameters, which it would otherwise choose among at the noisiest
    level), else Tweedie."""
    try:
        InflatedGaussian().check(cost)
    except InvalidInput:
        if not _has_gradient(prior, cost):
            return Tweedie()
        value = KrylovLaplace()
        return value if cost.parameters is None else Tempered(value, SIGNAL_FRACTION)
    return InflatedGaussian()


def default_proposal(prior: Prior, cost: TerminalCost) -> Proposal:
    """Gradient within two standard deviations where the cost can be differentiated, else Bootstrap."""
    return Gradient(trust=2.0) if _has_gradient(prior, cost) else Bootstrap()


def _has_gradient(prior: Prior, cost: TerminalCost) -> bool:
    x = torch.zeros(cost.num_systems or 1, 1, *prior.event_shape, dtype=prior.dtype)
    x = x.to(prior.device)
    return is_differentiable(typical(cost, x), x)


def model(
    prior: Prior,
    cost: TerminalCost | Callable[[Tensor], Tensor],
    *,
    num_steps: int | None = None,
    proposal: Proposal | None = None,
    potential: Potential | None = None,
    kernel: Kernel | None = None,
    times: Grid | Tensor | None = None,
    move: Move | None = None,
    start: Start | None = None,
    parameter_move: ParameterMove | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    chunk_size: ChunkSize = None,
) -> GuidedDiffusion:
    """The model that `sample` runs, for `run`, `iterate`, `particle_gibbs`, `Candidates`, `rollover`, ...

    Arguments and errors: as `sample`.
    """
    if num_steps is not None and times is not None:
        raise InvalidInput(
            f"num_steps={num_steps} and times={times!r}: give one of them. Presets hold times and take "
            "num_steps themselves, e.g. presets.tds(num_steps=50)."
        )
    prior = as_prior(prior).to(device, dtype)
    cost = as_cost(cost).to(prior.device)
    cost.check(tuple(prior.event_shape), torch.zeros((), dtype=prior.dtype, device=prior.device))
    return GuidedDiffusion(
        prior,
        cost,
        kernel=kernel or MatchedDDPM(),
        times=karras(100 if num_steps is None else num_steps) if times is None else times,
        potential=potential or default_potential(prior, cost),
        proposal=proposal or default_proposal(prior, cost),
        move=move,
        start=start,
        parameter_move=parameter_move or (RandomWalk() if cost.parameters is not None else None),
        chunk_size=chunk_size,
    )


def sample(
    prior: Prior,
    cost: TerminalCost | Callable[[Tensor], Tensor],
    *,
    num_particles: int = 512,
    num_systems: int | None = None,
    num_steps: int | None = None,
    proposal: Proposal | None = None,
    potential: Potential | None = None,
    kernel: Kernel | None = None,
    times: Grid | Tensor | None = None,
    move: Move | None = None,
    start: Start | None = None,
    parameter_move: ParameterMove | None = None,
    wrap: Callable[[GuidedDiffusion], FeynmanKac] | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    chunk_size: ChunkSize = None,
    record: Sequence[str] = (),
    progress: bool | str | Callable[[StepInfo], None] = "auto",
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> Posterior:
    """Sample p(x_0) exp(-C(x_0)) / Z and estimate Z.

    Arguments:
        prior: a diffusion prior over events of shape E.
        cost: a `TerminalCost`, or any function (M, *E) -> (M,).
        num_particles: N per system.
        num_systems: independent replicates; None for one, or for one per observation.
        num_steps: K, default 100; or give `times`. Results are exact for the chain of K steps: double it
            until the answer stops moving.
        proposal, potential, kernel, times, resampler, trigger: None for the default, which is
            recorded in the result's settings.
        move, start: Markov moves between the steps, and how the first population is made; None for none.
        parameter_move: Markov moves of the cost's unknown parameters; None for RandomWalk().
        wrap: makes another model of the guided one, e.g. functools.partial(sg.Candidates, num=4).
        seed: of all randomness.
        device, dtype: where and in what precision the particles live; None for the prior's.
        chunk_size: largest number of particles in the network at once, None for all, "auto" for what fits
            in memory (see docs/memory.md): tried on few, halved where it runs out, and said in the log.
        record: any of "ancestors", "particles", "log_weights", "paths" and "x0_hat", the denoiser's
            estimates of the event. Particles, paths and estimates take S (K + 1) N events of memory each.
        progress: True, False, "auto", or a function of each StepInfo.
        checkpoint: a file that keeps the run while it lasts: after a crash or a kill the same call goes
            on from it. Removed when the result is there.
        checkpoint_every: steps between checkpoints.

    Returns:
        The posterior; without an axis of systems unless systems were asked for.

    Raises:
        InvalidInput: before the first network call, when the parts do not fit.
        DegenerateWeights: during the run, with step, time, system, culprit and remedy.
    """
    Checkpoint(checkpoint, checkpoint_every)  # said before anything is computed
    check_selection(resampler, trigger)
    sized = SimpleNamespace(
        num_systems=as_cost(cost).num_systems, chain_length=1 if move is None else move.chain_length
    )
    check_run(sized, num_particles, num_systems, record, progress, seed)
    guided = model(
        prior, cost, num_steps=num_steps, proposal=proposal, potential=potential, kernel=kernel,
        times=times, move=move, start=start, parameter_move=parameter_move, device=device, dtype=dtype,
        chunk_size=chunk_size,
    )  # fmt: skip
    return run(
        wrap(guided) if wrap else guided, num_particles=num_particles, num_systems=num_systems,
        resampler=resampler, trigger=trigger, seed=seed, record=record, progress=progress,
        checkpoint=checkpoint, checkpoint_every=checkpoint_every,
    )  # fmt: skip
