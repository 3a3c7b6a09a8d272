"""What a program's inference found: all latents by name, weighted; draws, evidence, tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.bridges.latents import draw_choices
from smcguide.bridges.layout import Layout, log_choices
from smcguide.bridges.nuisance import Found
from smcguide.bridges.program import Program
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior

_BATCH = 1024  # particles evaluated at once
_MOST_ROWS = 12  # of one site in a table


@dataclass(frozen=True)
class Outcome:
    """All latents of a program after inference.

    Attributes:
        program, layout: what was run.
        found: particles or draws.
        seed: of discrete latents, draws and simulations.
    """

    program: Program
    layout: Layout
    found: Found
    seed: int

    @cached_property
    def _flat(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """x by site, theta and the discrete latents of all S N particles."""
        x = self.layout.sites_of(self.found.x.flatten(0, 1), self.program)
        theta = self.found.theta.flatten(0, 1).to(self.program.device)
        choices = self.program.choices.to(theta.device)
        if len(choices) == 1:
            return x, theta, choices.expand(len(theta), -1)
        logits = torch.cat([log_choices(self.program, *part) for part in _batches(x, theta)])
        generator = Generator().manual_seed(self.seed)
        choice = draw_choices(logits.cpu(), self.program, generator)
        return x, theta, choice.to(theta.device)

    @cached_property
    def latents(self) -> dict[str, Tensor]:
        """Every latent site, name -> (S, N, *shape)."""
        x, theta, choice = self._flat
        named = {**x, **self.program.constrain(theta, choice)}
        shape = self.found.log_w.shape
        return {name: a.detach().unflatten(0, shape) for name, a in named.items()}

    @property
    def is_weighted(self) -> bool:
        """Particles rather than draws of Markov chains."""
        return isinstance(self.found.result, Posterior)

    @property
    def log_weights(self) -> Tensor:
        """(S N,) log-weights of all particles in one population, whose mean is the evidence; zero for
        Markov chains."""
        log_w, result = self.found.log_w, self.found.result
        if not isinstance(result, Posterior):
            return log_w.flatten().cpu()
        within = log_w - weights.log_mean_exp(log_w)[:, None]
        return (result.log_z[:, None] + within).flatten().cpu()

    @property
    def log_evidence(self) -> Tensor:
        """log Z, a scalar: the mean of the systems' unbiased estimates.

        Raises:
            InvalidInput: for Markov chains, which do not estimate it.
        """
        if not self.is_weighted:
            raise InvalidInput(
                "PMMH and Gibbs are Markov chains and do not estimate the evidence; run with "
                "nuisance=Particles()."
            )
        return weights.log_mean_exp(self.log_weights[None])[0]

    def indices(self, num: int | None, seed: int | None = None) -> Tensor:
        """Places (num,) of equal-weight draws among all S N particles; all of them for Markov chains
        where no number is given."""
        log_w, (_, N) = self.log_weights, self.found.log_w.shape
        if not self.is_weighted and num is None:
            return torch.arange(len(log_w))
        num = N if num is None else num
        if num < 1:
            raise InvalidInput(f"num_samples must be at least 1, got {num}.")
        generator = Generator().manual_seed(self.seed if seed is None else seed)
        u = torch.rand(num, generator=generator, dtype=torch.float64)
        points = (torch.arange(num) + u) / num
        shuffled = points[torch.rand(num, generator=generator).argsort()]
        return weights.inverse_cdf(log_w[None], shuffled[None])[0]

    def samples(self, num: int | None = None, seed: int | None = None) -> dict[str, Tensor]:
        """Equal-weight draws of all latents jointly, name -> (num, *shape)."""
        index = self.indices(num, seed)
        return {name: a.flatten(0, 1)[index] for name, a in self.latents.items()}

    def at(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """x by site, theta and discrete latents of the particles at these places."""
        x, theta, choice = self._flat
        return {name: a[index] for name, a in x.items()}, theta[index], choice[index]

    def pointwise(self, index: Tensor) -> dict[str, Tensor]:
        """Log-likelihood of each entry of the data for the particles at these places."""
        parts = _batches(*self.at(index))
        return _joined([self.program.pointwise(x, theta, j) for x, theta, j in parts])

    def simulate(self, index: Tensor) -> dict[str, Tensor]:
        """New data of the particles at these places."""
        generator = Generator().manual_seed(self.seed + 1)
        parts = _batches(*self.at(index))
        return _joined([self.program.simulate(x, theta, j, generator) for x, theta, j in parts])

    def summary(self) -> str:
        """A table of the scalar latents, a line for each other, and how the run went."""
        lines = [f"{'':20s}{'mean':>10s}{'s.d.':>10s}{'5 %':>10s}{'50 %':>10s}{'95 %':>10s}"]
        log_w, levels = self.log_weights[None], torch.tensor([0.05, 0.5, 0.95]).double()
        for name, a in self.latents.items():
            flat = a.reshape(1, a.shape[0] * a.shape[1], -1).double()
            if flat.shape[-1] > _MOST_ROWS:
                mean = weights.mean(flat, log_w)
                span = f"means from {mean.min():.3g} to {mean.max():.3g}"
                lines.append(f"{name:20s}shape {tuple(a.shape[2:])}, {span}")
                continue
            mean = weights.mean(flat, log_w)
            std = weights.mean((flat - mean[:, None]).square(), log_w).sqrt()
            rows = torch.cat([mean, std, weights.quantile(flat, log_w, levels)[:, 0]])
            for i, row in enumerate(rows.T):
                label = name if flat.shape[-1] == 1 else f"{name}[{i}]"
                lines.append(f"{label:20s}" + "".join(f"{v:10.3f}" for v in row.tolist()))
        return "\n".join([*lines, "", self.found.result.summary()])

    def to_arviz(self, num_draws: int | None = None) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x), see `bridges.outcome_arviz`."""
        from smcguide.bridges.outcome_arviz import outcome_to_arviz

        return outcome_to_arviz(self, num_draws)


def _batches(*parts: Any) -> list[tuple[Any, ...]]:
    """The same arguments for at most `_BATCH` particles at once."""
    size = len(parts[1])
    cuts = [slice(i, i + _BATCH) for i in range(0, size, _BATCH)]

    def take(part: Any, cut: slice) -> Any:
        return {n: a[cut] for n, a in part.items()} if isinstance(part, Mapping) else part[cut]

    return [tuple(take(part, cut) for part in parts) for cut in cuts]


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([p[name].detach() for p in parts]) for name in parts[0]}
