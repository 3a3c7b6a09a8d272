r"""Particle Gibbs for events and unknown parameters: alternate between

    x_0 given theta    a sweep of conditional SMC along the path of before (`gibbs`)
    theta given x_0    Metropolis-Hastings for p(theta) exp(-C(x_0; theta)), without the prior's network

Right for any number of particles N >= 2. It is slow where x_0 all but determines theta; where it says
little, each sweep moves theta far.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods" (2010), section 2.4.3.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from smcguide import exactness
from smcguide.along import Path, check_conditional
from smcguide.boundary import require
from smcguide.chains import ParameterChains
from smcguide.costs.base import TerminalCost
from smcguide.errors import InvalidInput, check_counts
from smcguide.feynman_kac import FeynmanKac
from smcguide.gibbs import Sweep
from smcguide.guided import GuidedDiffusion
from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameter_moves.random_walk import RandomWalk
from smcguide.parameter_refresh import Target, numbers, walk
from smcguide.parameters import Parameters
from smcguide.progress import Progress
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.runs import check_run, check_selection
from smcguide.triggers import Trigger, ess_below


@dataclass(frozen=True)
class Here:
    """Where S chains are: theta (S, 1, p), paths, and log Z and acceptance of the last sweep (S,)."""

    theta: Tensor
    path: Path | None
    log_z: Tensor
    rate: Tensor

    @property
    def x(self) -> Tensor:
        """(S, *E) the paths' last states."""
        return self.path["x"][:, -1] if self.path else torch.empty(0)


def parameter_gibbs(
    build: Callable[[TerminalCost], GuidedDiffusion],
    cost: TerminalCost,
    *,
    sweeps: int,
    num_particles: int,
    theta0: Tensor | None = None,
    num_chains: int = 1,
    move: ParameterMove | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    burn_in: int = 0,
    seed: int = 0,
    progress: bool | str | Callable[[StepInfo], None] = "auto",
) -> ParameterChains:
    """Sample events and parameters. Chains run side by side.

    Arguments:
        build: makes the model of a cost whose parameters are given, e.g.
            functools.partial(smcguide.model, prior).
        cost: with unknown parameters.
        sweeps: draws to keep of each chain.
        num_particles: N of each chain, at least 2.
        theta0: (num_chains, p) where chains begin, on unconstrained space; None for draws of the prior.
        num_chains: number of chains.
        move: of theta given x_0, default RandomWalk(num_moves=20).
        resampler, trigger: of the sweeps, as in `particle_gibbs`.
        burn_in: sweeps to drop first.
        seed: of all randomness.
        progress: True, False, "auto", or a function called with each StepInfo.

    Returns:
        The chains; their `log_z` are those of the sweeps, not unbiased, and `accepted` says whether a
        sweep moved theta at all.

    Raises:
        InvalidInput: for a cost without parameters, for sizes that do not fit, and as `particle_gibbs`.
        DegenerateWeights: as `run`.
    """
    move = RandomWalk(num_moves=20) if move is None else move
    resampler, trigger = resampler or Systematic(), trigger or ess_below(0.5)
    check_selection(resampler, trigger)
    require(move, ParameterMove, "parameter_move")
    counts = {"sweeps": (sweeps, 1), "burn_in": (burn_in, 0), "num_particles": (num_particles, 2)}
    check_counts(counts | {"num_chains": (num_chains, 1)})
    check_run(FeynmanKac, num_particles, num_chains, (), progress, seed)
    if cost.parameters is None:
        raise InvalidInput(f"parameter_gibbs: the cost {cost!r} has no unknown parameters.")
    begin = Generator().manual_seed(_state(seed, 0, 0))
    theta, nothing = _starts(cost.parameters, theta0, num_chains, begin), torch.zeros(num_chains)
    model = build(cost.at(theta))
    here = Here(theta.to(model.device), None, nothing, nothing)
    kept, evaluations = list[Here](), Counter[str]()
    check_run(model, num_particles, num_chains, (), progress, seed)
    check_conditional(model, resampler, num_particles, ancestor_sampling=False)
    with Progress(progress, (burn_in + sweeps) * model.num_steps) as bar:
        for n in range(burn_in + sweeps):
            tried, model = model.chunk_sizes, build(cost.at(here.theta))
            model.chunk_sizes = tried  # "auto" need not try again
            sweep = Sweep(model, (num_chains, num_particles), resampler, trigger, watch=bar.update)
            path, _, log_z = sweep(here.path, (seed, 1, n))
            generator = Generator(model.device).manual_seed(_state(seed, 2, n))
            here = _moved(model, cost, move, Here(here.theta, path, log_z, here.rate), generator)
            evaluations += model.evaluations
            kept += [here] * (n >= burn_in)
    parts = model.parts | {"cost": cost, "parameter_move": move}
    parts |= {"resampler": resampler, "trigger": trigger}
    settings = {
        "num_particles": num_particles, "burn_in": burn_in, "seed": seed,
        **{name: repr(part) for name, part in parts.items()},
        "exactness": exactness.worst([exactness.LIMIT, exactness.label(parts.values())]),
    }  # fmt: skip
    return _collected(kept, cost.parameters, dict(evaluations), settings)


def _collected(
    kept: list[Here], parameters: Parameters, evaluations: dict[str, int], settings: dict[str, Any]
) -> ParameterChains:
    theta = torch.stack([here.theta[:, 0] for here in kept], 1).cpu()
    log_prior = parameters.log_prob(theta.flatten(0, 1)).unflatten(0, theta.shape[:2])
    return ParameterChains(
        theta, torch.stack([here.x for here in kept], 1), torch.stack([h.log_z for h in kept], 1),
        log_prior, torch.stack([here.rate > 0 for here in kept], 1), evaluations, settings,
    )  # fmt: skip


@torch.no_grad()
def _moved(
    model: GuidedDiffusion, cost: TerminalCost, move: ParameterMove, here: Here, generator: Generator
) -> Here:  # fmt: skip
    """theta moved given x_0."""
    x0 = here.x[:, None]
    parameters: Parameters = cost.parameters  # type: ignore[assignment]  # asked before

    def value(theta: Tensor) -> Tensor:
        model.evaluations["cost"] += len(theta)
        return -cost.at(theta)(x0).double()

    target = Target(parameters, value, model.pullback)
    z, u = numbers(move, here.theta, generator)
    there = walk(target, move, here.theta, value(here.theta), z, u)
    return Here(there["theta"], here.path, here.log_z, there["parameter_acceptance"][:, 0])


def _starts(
    parameters: Parameters, theta0: Tensor | None, num_chains: int, generator: Generator
) -> Tensor:
    """(S, 1, p) float64."""
    if theta0 is None:
        theta0 = parameters.draw(num_chains, generator)
    theta0 = torch.as_tensor(theta0, dtype=torch.float64)
    if theta0.shape != (num_chains, parameters.size) or not bool(theta0.isfinite().all()):
        raise InvalidInput(
            f"theta0 of shape {tuple(theta0.shape)}: expected finite numbers, one row per chain, "
            f"({num_chains}, {parameters.size})."
        )
    return theta0[:, None]


def _state(*seed: int) -> int:
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
