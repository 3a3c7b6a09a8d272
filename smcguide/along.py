"""Conditional SMC: the engine's own loop along a given path, which slot 0 follows.

`Along` is a model whose particle 0 goes where the path went; `Conditional` resamples given that slot 0
descends from the path, or from the past that ancestor sampling gives it. See `smcguide.gibbs`.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.guided import GuidedDiffusion
from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler

Path = Mapping[str, Tensor]


class Along(FeynmanKac):
    """A model along a path.

    Arguments:
        model: anything with `conditional_initial` and `conditional_step`.
        path: "x" (S, K + 1, *E) and the model's `path_fields`, (S, K + 1, ...).
    """

    def __init__(self, model: FeynmanKac, path: Path) -> None:
        self.model, self.path = model, path
        self.num_steps, self.event_shape = model.num_steps, model.event_shape
        self.num_systems, self.device = model.num_systems, model.device
        self.latest: tuple[int, Propagated]

    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        first = self.model.conditional_initial(shape, generator, self._at(0))
        return self._remembered(0, first)

    def step(self, k: int, x: Tensor, carry: Path, generator: Generator) -> Propagated:
        moved = self.model.conditional_step(k, x, carry, generator, self._at(k + 1))
        return self._remembered(k + 1, moved)

    def log_past(self) -> Tensor:
        """How well each particle of the latest population explains the path's next state, (S, N)."""
        k, here = self.latest
        return self.model.log_transition(k, here.x, here.carry, self.path["x"][:, None, k + 1])

    def time(self, k: int) -> float:
        return self.model.time(k)

    def is_noiseless(self, k: int) -> bool:
        return self.model.is_noiseless(k)

    def report(self, carry: Path) -> Path:
        return self.model.report(carry)

    def culprit(self, k: int) -> tuple[str, str]:
        return self.model.culprit(k)

    def _at(self, k: int) -> dict[str, Tensor]:
        return {name: a[:, k] for name, a in self.path.items()}

    def _remembered(self, k: int, moved: Propagated) -> Propagated:
        self.latest = k, moved
        return moved


class Conditional(Resampler):
    """A resampler's law given the ancestor of slot 0: particle 0, or one drawn by ancestor sampling."""

    def __init__(self, resampler: Resampler, along: Along, ancestor_sampling: bool) -> None:
        self.resampler, self.along = resampler, along
        self.ancestor_sampling = ancestor_sampling

    def __call__(self, log_w: Tensor, generator: Generator, num: int | None = None) -> Tensor:
        if not self.ancestor_sampling:
            return self.resampler.conditional(log_w, generator)
        S, N = log_w.shape
        past = weights.inverse_cdf(log_w + self.along.log_past(), uniforms((S, 1), generator))
        # count the particles from the new past on: it must be number 0, and their cycle stays
        cycle = (past + torch.arange(N, device=log_w.device)) % N
        return cycle.gather(1, self.resampler.conditional(log_w.gather(1, cycle), generator))


def check_conditional(
    model: FeynmanKac, resampler: Resampler, num_particles: int, ancestor_sampling: bool
) -> None:
    """Raise InvalidInput unless a model can run along a path; before any network call.

    Raises:
        InvalidInput: for fewer than 2 particles; for models that cannot go where a path went, with moves
            or a start, or whose steps look at the whole population; for resamplers without a
            conditional law; for ancestor sampling where the target is not Markov.
    """
    if num_particles < 2:
        raise InvalidInput(
            f"num_particles={num_particles}: the path itself takes one slot, so nothing would ever "
            "change. Use 2 or more."
        )
    resampler.conditional(torch.zeros(1, num_particles), torch.Generator())
    kind = type(model)
    if model.extras:
        raise InvalidInput(
            f"Conditional SMC: the model must only propagate, this one has {', '.join(model.extras)}. "
            "Leave moves and starts out (sweeps are Markov moves of whole paths), freeze adaptive "
            "strengths (`freeze`), give the model inside of Candidates."
        )
    if kind.conditional_step is FeynmanKac.conditional_step:
        raise InvalidInput(
            f"{kind.__name__} cannot run along a given path: write its conditional_initial and "
            "conditional_step."
        )
    if ancestor_sampling:
        _check_ancestor_sampling(model)


def _check_ancestor_sampling(model: FeynmanKac) -> None:
    blame = None
    if isinstance(model, GuidedDiffusion):
        dot = torch.zeros((1, 1, *model.event_shape), dtype=model.prior.dtype, device=model.device)
        if not model.potential.is_markov:
            blame = f"the value of {model.potential!r} depends on a particle's past"
        elif model.base_kernel(0, dot, dot).memory is not None:
            blame = f"{model.kernel!r} remembers earlier steps"
    elif type(model).log_transition is FeynmanKac.log_transition:
        blame = f"{type(model).__name__} has no log_transition"
    if blame is not None:
        raise InvalidInput(
            f"ancestor_sampling=True: {blame}, so a path cannot be given another past. Use "
            "ancestor_sampling=False, with more particles."
        )
