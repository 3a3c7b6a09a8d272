"""What particle marginal Metropolis-Hastings is made of: a density known by runs, and a walk under it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smcguide import exactness, weights
from smcguide.engine import iterate
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.feynman_kac import FeynmanKac
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.triggers import Trigger


@dataclass(frozen=True)
class State:
    """Where a chain is.

    Attributes:
        theta: (p,) parameters.
        log_prior: their log prior density.
        log_z: the log-evidence estimate that came with them; -inf for none.
        x: (*E) a draw of the event; None where the evidence is 0.
    """

    theta: Tensor
    log_prior: float
    log_z: float = -math.inf
    x: Tensor | None = None

    @property
    def log_posterior(self) -> float:
        """Unnormalised."""
        return self.log_prior + self.log_z


class Pseudomarginal:
    """The posterior of the parameters, as far as runs can tell.

    Arguments:
        build: theta (p,) -> a Feynman-Kac model.
        log_prior: theta (p,) -> log prior density.
        num_particles, resampler, trigger: of the runs.
        watch: called with the last StepInfo of each run.

    Attributes:
        evaluations: of all runs so far.
        model: the latest one.
    """

    def __init__(
        self,
        build: Callable[[Tensor], FeynmanKac],
        log_prior: Callable[[Tensor], Tensor],
        num_particles: int,
        resampler: Resampler,
        trigger: Trigger,
        watch: Callable[[StepInfo], None],
    ) -> None:
        self.build, self.log_prior, self.num_particles = build, log_prior, num_particles
        self.resampler, self.trigger, self.watch = resampler, trigger, watch
        self.evaluations: Counter[str] = Counter()
        self.model: FeynmanKac

    def __call__(self, theta: Tensor, seed: tuple[int, ...]) -> State:
        """The parameters with a fresh run; without one where the prior excludes them."""
        log_prior = float(self.log_prior(theta))
        if math.isnan(log_prior) or log_prior == math.inf:
            raise InvalidInput(
                f"log_prior is {log_prior} at theta = {theta.tolist()}; it must be finite, or -inf where "
                "theta is impossible."
            )
        if log_prior == -math.inf:
            return State(theta, log_prior)
        try:
            model = self.model = self._checked(self.build(theta))
        except (InvalidInput, ValueError, RuntimeError) as error:
            raise InvalidInput(
                f"pmmh: no model for theta = {theta.tolist()}: {error} Return -inf from log_prior where "
                "theta is impossible, or sample its logarithm."
            ) from error
        before = Counter(getattr(model, "evaluations", {}))
        try:
            log_z, x = self._run(model, seed)
        except DegenerateWeights as error:
            if not bool(torch.isneginf(error.trace[-1].log_evidence).all()):
                raise  # a broken model, not an impossible theta
            log_z, x = -math.inf, None
        self.evaluations += Counter(getattr(model, "evaluations", {})) - before
        return State(theta, log_prior, log_z, x)

    def _run(self, model: FeynmanKac, seed: tuple[int, ...]) -> tuple[float, Tensor]:
        of_run, of_draw = np.random.SeedSequence(seed).generate_state(2, np.uint64) >> np.uint64(1)
        steps = iterate(
            model, num_particles=self.num_particles, resampler=self.resampler, trigger=self.trigger,
            seed=int(of_run),
        )  # fmt: skip
        for particles, info in steps:  # noqa: B007 - the last ones
            pass
        self.watch(info)
        generator = torch.Generator(particles.x.device).manual_seed(int(of_draw))
        u = torch.rand(1, 1, generator=generator, dtype=torch.float64, device=generator.device)
        index = weights.inverse_cdf(particles.log_w, u)[0, 0]
        return float(info.log_evidence[0]), particles.x[0, index]

    def _checked(self, model: FeynmanKac) -> FeynmanKac:
        label = exactness.worst([model.exactness, exactness.label([self.resampler, self.trigger])])
        if model.num_systems not in (None, 1):
            raise InvalidInput(
                f"build(theta) made a model with {model.num_systems} systems; pmmh needs one evidence. "
                "Put all observations of a theta into one cost."
            )
        if label != exactness.EXACT:
            raise InvalidInput(
                f"build(theta) made a model whose runs are {label!r}; pmmh needs an unbiased Z. "
                "Leave out adaptive and approximate parts."
            )
        return model


def walk(
    target: Pseudomarginal, here: State, factor: Tensor, seed: tuple[int, int], num: int
) -> Iterator[tuple[State, bool]]:
    """A random walk of `num` candidates from `here`: states, and whether they are new ones. The steps
    are factor z, z standard normal."""
    state = np.random.SeedSequence((*seed, 2)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
    for n in range(num):
        z = torch.randn(len(factor), generator=generator, dtype=torch.float64)
        u = torch.rand((), generator=generator, dtype=torch.float64)
        there = target(here.theta + factor @ z, (*seed, 1, n + 1))
        accepted = float(u.log()) < there.log_posterior - here.log_posterior
        here = there if accepted else here
        yield here, accepted
