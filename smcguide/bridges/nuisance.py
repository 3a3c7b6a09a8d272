"""Three ways to infer a program's other latents, theta, together with those that have a diffusion prior.

Particles   theta is extra particle state: drawn from its prior, moved after each resampling. One run
            gives everything, the evidence too. The default.
PMMH        a random walk of theta, accepted by the estimated evidence of a run of its own. Right for
            any number of particles, also where particles cannot follow theta; one run per candidate.
Gibbs       theta given x and x given theta in turn. Cheap for many parameters; slow where x all but
            determines theta.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.bridges.latents import ParametricProgramCost
from smcguide.chains import Chains, ParameterChains
from smcguide.costs.base import TerminalCost
from smcguide.engine import run
from smcguide.errors import InvalidInput
from smcguide.gibbs import particle_gibbs
from smcguide.guided import GuidedDiffusion
from smcguide.parameter_gibbs import parameter_gibbs
from smcguide.parameter_moves.base import ParameterMove
from smcguide.pmmh import pmmh
from smcguide.posterior import Posterior


@dataclass(frozen=True)
class Task:
    """What is to be inferred, and how runs are made.

    Attributes:
        cost: of the program.
        build: cost, move of parameters -> model.
        num_particles, num_chains, seed, progress: as `run`; a chain is a system.
        selection: resampler and trigger, by name.
    """

    cost: TerminalCost
    build: Callable[[TerminalCost, ParameterMove | None], GuidedDiffusion]
    num_particles: int
    num_chains: int
    seed: int
    progress: Any
    selection: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Particles or draws of all latents.

    Attributes:
        x: (S, N, *E) events.
        theta: (S, N, p).
        log_w: (S, N), zero for Markov chains.
        result: what the sampler returned.
    """

    x: Tensor
    theta: Tensor
    log_w: Tensor
    result: Posterior | Chains | ParameterChains


class Nuisance(ABC):
    """A way to infer the other latents."""

    @abstractmethod
    def infer(self, task: Task) -> Found:
        """Run it."""


@dataclass(frozen=True)
class Particles(Nuisance):
    """As extra particle state.

    Arguments:
        move: None for `parameter_moves.RandomWalk()`.
    """

    move: ParameterMove | None = None

    def infer(self, task: Task) -> Found:
        model = task.build(task.cost, self.move)
        posterior = run(
            model, num_particles=task.num_particles, num_systems=task.num_chains, seed=task.seed,
            progress=task.progress, **task.selection,
        )  # fmt: skip
        nothing = posterior.log_w.new_zeros(*posterior.log_w.shape, 0)
        theta = posterior.parameters.get("theta", nothing)
        return Found(posterior.x, theta, posterior.log_w, posterior)


@dataclass(frozen=True)
class PMMH(Nuisance):
    """Particle marginal Metropolis-Hastings. Starts and the covariance of its random walk come from a run
    of `Particles` with `pilot` particles.

    Arguments:
        num_samples: candidates to keep of each chain.
        burn_in: candidates to drop first.
        pilot: particles of the pilot run.
    """

    num_samples: int = 500
    burn_in: int = 50
    pilot: int = 512

    def infer(self, task: Task) -> Found:
        cost = task.cost
        if not isinstance(cost, ParametricProgramCost):
            raise InvalidInput(
                "PMMH: the program has no continuous latents besides the prior's; use Particles()."
            )
        pilot = run(
            task.build(task.cost, None), num_particles=self.pilot, seed=task.seed, progress=task.progress,
            **task.selection,
        ).marginal("theta")  # fmt: skip
        mean = weights.mean(pilot.x, pilot.log_w)
        centred = pilot.x[0] - mean
        covariance = (pilot.weights[:, None] * centred).T @ centred
        parameters, p = cost.parameters, cost.parameters.size
        floor = torch.diag(1e-4 * parameters.scales**2)  # a pilot that has collapsed still walks
        chains = pmmh(
            lambda theta: task.build(cost.fixed(theta), None),
            lambda theta: parameters.log_prob(theta[None])[0],
            pilot.draws(task.num_chains, task.seed),
            num_iters=self.num_samples, num_particles=task.num_particles, burn_in=self.burn_in,
            step=2.4**2 / p * covariance + floor, seed=task.seed, progress=task.progress,
            **task.selection,
        )  # fmt: skip
        return Found(chains.x, chains.theta, torch.zeros_like(chains.log_z), chains)


@dataclass(frozen=True)
class Gibbs(Nuisance):
    """Particle Gibbs, chains side by side.

    Arguments:
        num_samples: sweeps to keep of each chain.
        burn_in: sweeps to drop first.
        move: of theta given x, None for twenty steps of `parameter_moves.RandomWalk`.
    """

    num_samples: int = 200
    burn_in: int = 20
    move: ParameterMove | None = None

    def infer(self, task: Task) -> Found:
        common: dict[str, Any] = {
            "sweeps": self.num_samples, "num_particles": task.num_particles, "burn_in": self.burn_in,
            "num_chains": task.num_chains, "seed": task.seed, "progress": task.progress, **task.selection,
        }  # fmt: skip
        if task.cost.parameters is None:
            alone = particle_gibbs(task.build(task.cost, None), **common)
            nothing = torch.zeros(*alone.log_z.shape, 0, dtype=torch.float64)
            return Found(alone.x, nothing, torch.zeros_like(alone.log_z), alone)
        chains = parameter_gibbs(lambda c: task.build(c, None), task.cost, move=self.move, **common)
        return Found(chains.x, chains.theta, torch.zeros_like(chains.log_z), chains)
