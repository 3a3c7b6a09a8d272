"""Inference of a probabilistic program, whatever its language: what `SMC` of both bridges has in common.

program -> prior over all diffusion sites, terminal cost of the observations -> run -> Outcome
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.boundary import as_prior, require
from smcguide.bridges.latents import program_cost
from smcguide.bridges.layout import Layout
from smcguide.bridges.nuisance import Nuisance, Particles, Task
from smcguide.bridges.outcome import Outcome
from smcguide.bridges.program import Program
from smcguide.chunking import ChunkSize
from smcguide.costs.base import TerminalCost
from smcguide.errors import InvalidInput
from smcguide.guided import GuidedDiffusion
from smcguide.parameter_moves.base import ParameterMove
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.proposals.base import Proposal
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.sampling import model as guided
from smcguide.triggers import Trigger


class Inference:
    """Sequential Monte Carlo for programs with diffusion priors.

    Arguments:
        model: the program.
        site: the site(s) with a diffusion prior; None to find all. With `prior`, a site of any
            distribution, which then only holds the place.
        prior: the diffusion prior of `site`, where the program does not say it itself.
        num_particles: N of each chain.
        num_chains: independent systems, or Markov chains with PMMH and Gibbs; chains in ArviZ.
        num_steps: of the diffusion, default 100.
        nuisance: how other continuous latents are inferred: `Particles()` (default), `PMMH()`, `Gibbs()`.
        proposal, potential, resampler, trigger: as in `smcguide.sample`.
        chunk_size: most particles in the network at once, None for all, "auto" for what fits in memory.
        progress: True, False, "auto", or a function of each StepInfo.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        site: str | list[str] | None = None,
        *,
        prior: Prior | None = None,
        num_particles: int = 512,
        num_chains: int = 1,
        num_steps: int | None = None,
        nuisance: Nuisance | None = None,
        proposal: Proposal | None = None,
        potential: Potential | None = None,
        resampler: Resampler | None = None,
        trigger: Trigger | None = None,
        chunk_size: ChunkSize = None,
        progress: bool | str | Callable[[StepInfo], None] = "auto",
    ) -> None:
        if not callable(model):
            raise InvalidInput(
                f"model: got {type(model).__name__}; expected a program, a function."
            )
        if prior is not None and not isinstance(site, str):
            raise InvalidInput(
                f"prior={prior!r}: say which site has it, e.g. site='x'; got site={site!r}."
            )
        self.model, self.site = model, site
        self.prior = None if prior is None else as_prior(prior)
        self.nuisance = Particles() if nuisance is None else nuisance
        if not isinstance(self.nuisance, Nuisance):
            raise InvalidInput(
                f"nuisance: got {nuisance!r}; expected Particles(), PMMH() or Gibbs(), objects."
            )
        if resampler is not None:
            require(resampler, Resampler, "resampler")
        self.num_particles, self.num_chains = num_particles, num_chains
        self.progress = progress
        self._selection = {"resampler": resampler, "trigger": trigger}
        self._settings = {
            "num_steps": num_steps, "proposal": proposal, "potential": potential,
            "chunk_size": chunk_size,
        }  # fmt: skip
        self._outcome: Outcome | None = None

    @property
    def placeholder(self) -> dict[str, Prior | None]:
        """Sites that hold the place of a diffusion prior."""
        return {} if self.prior is None else {str(self.site): self.prior}

    @property
    def outcome(self) -> Outcome:
        """The result of the last run.

        Raises:
            InvalidInput: before the first one.
        """
        if self._outcome is None:
            raise InvalidInput("There is no result yet: call run(...) first.")
        return self._outcome

    @property
    def result(self) -> Any:
        """What the sampler returned: a `Posterior`, or chains."""
        return self.outcome.found.result

    def get_log_normalizer(self) -> Tensor:
        """log evidence of the observations, a scalar."""
        return self.outcome.log_evidence

    def get_normalized_weights(self, log_scale: bool = False) -> Tensor:
        """Weights (num_chains num_particles,) of all particles together, or their logarithms."""
        log_w = self.outcome.log_weights
        log_W = log_w - weights.log_sum_exp(log_w)
        return log_W if log_scale else log_W.exp()

    def get_ESS(self) -> Tensor:
        """Effective sample size of all particles together, a scalar."""
        return weights.ess(self.outcome.log_weights[None])[0]

    def summary(self) -> str:
        """A table of the latents, and how the run went."""
        return self.outcome.summary()

    def to_arviz(self, num_draws: int | None = None) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x) with posterior, posterior_predictive,
        log_likelihood, observed_data, and the run's own groups; needs the extra `arviz`.

        Arguments:
            num_draws: equal-weight draws per chain; default as many as particles, at most 1000.
        """
        return self.outcome.to_arviz(num_draws)

    def infer(self, program: Program, seed: int) -> None:
        """Run the inference of a program; `seed` of all randomness."""
        layout = Layout(program.priors)
        named = [self.site] if isinstance(self.site, str) else self.site
        if named is not None and set(named) != set(layout.sites):
            raise InvalidInput(
                f"site={self.site!r}: the program has diffusion priors at {list(layout.sites)}; all of "
                "them are sampled together. Leave site out, or name them all."
            )
        if layout.prior is None:
            raise InvalidInput(
                f"The sites {list(layout.sites)} have no diffusion prior: sample them from "
                "DiffusionPrior(prior), or give prior= and site=."
            )
        cost = program_cost(program, layout)
        task = Task(
            cost, partial(_build, layout.prior, self._settings), self.num_particles, self.num_chains,
            seed, self.progress, self._selection,
        )  # fmt: skip
        with torch.no_grad():
            found = self.nuisance.infer(task)
        self._outcome = Outcome(program, layout, found, seed)


def _build(
    prior: Prior, settings: dict[str, Any], cost: TerminalCost, move: ParameterMove | None
) -> GuidedDiffusion:
    return guided(prior, cost, parameter_move=move, **settings)
