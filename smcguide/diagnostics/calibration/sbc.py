r"""Simulation-based calibration: ranks of the truth among draws of the posterior.

Where x* comes from the prior and y from the likelihood, x* and draws from p(x | y) have one law, so the
rank of f(x*) among n draws is uniform on 0, ..., n for every function f, also for one that knows y:
ranks of log p(y | x) see a sampler that ignores the data, whose coordinates have uniform ranks.

Draws are taken without replacement as far as the weights allow: particles in random order, then n
equally spaced points of their summed weights. For equal weights no particle is drawn twice, and N
independent draws of the exact posterior, N >= n, have exactly uniform ranks; draws with replacement
would repeat themselves, and the truth would lie outside all of them too often.

References: Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based Calibration"
(arXiv 1804.06788); Modrak et al., "Simulation-Based Calibration Checking for Bayesian Computation: The
Choice of Test Quantities Shapes Sensitivity" (arXiv 2211.02383).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.calibration.bands import path_p_value, simultaneous_band, thinned
from smcguide.diagnostics.calibration.quantities import (
    Statistic,
    check_truth,
    coordinates,
    evaluate,
    stream,
)
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of L truths among the draws of their posteriors, for F functions.

    Attributes:
        ranks: (L, F) int64, each 0, ..., num_draws; uniform under calibration.
        num_draws: n, draws of each posterior.
        names: F names.
        seeds: of the batches that they came from.
    """

    ranks: Tensor
    num_draws: int
    names: tuple[str, ...]
    seeds: tuple[int, ...] = ()

    def __repr__(self) -> str:
        worst = ", ".join(
            f"{n} {p:.2g}" for n, p in zip(self.names, self.p_values().tolist(), strict=True)
        )
        return f"Ranks({len(self.ranks)} data sets among {self.num_draws} draws; p-values: {worst})"

    def p_values(self) -> Tensor:
        """(F,) of the test for uniform ranks by simultaneous bands of their distribution function.

        Exact under calibration: a p-value is below a with probability a or, ranks being whole numbers,
        a little less. See `bands`, Saeilynoja et al. (arXiv 2103.10522).
        """
        i = thinned(self.num_draws)
        levels = i / (self.num_draws + 1)
        counts = (self.ranks[:, :, None] < torch.from_numpy(i)).sum(0).numpy()
        return torch.tensor(
            [path_p_value(c, len(self.ranks), levels) for c in counts], dtype=torch.float64
        )

    def band(self, confidence: float = 0.99) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (Q,) and the lowest and highest distribution function (Q,) of ranks / (num_draws + 1)
        there that calibrated ranks keep between, all at once."""
        levels = thinned(self.num_draws) / (self.num_draws + 1)
        low, high = simultaneous_band(len(self.ranks), levels, confidence)
        return torch.from_numpy(levels), torch.from_numpy(low), torch.from_numpy(high)

    def histogram(self, bins: int) -> Tensor:
        """(F, bins) counts in bins of equal probability.

        Raises:
            InvalidInput: for bins that do not divide num_draws + 1.
        """
        if bins < 1 or (self.num_draws + 1) % bins:
            raise InvalidInput(
                f"histogram: {bins} bins do not divide the {self.num_draws + 1} possible ranks, so "
                "they would not have equal probabilities."
            )
        where = self.ranks * bins // (self.num_draws + 1)
        return torch.stack([torch.bincount(w, minlength=bins) for w in where.T])

    def pit(self, seed: int = 0) -> Tensor:
        """(L, F) numbers (rank + U) / (num_draws + 1), uniform on [0, 1] under calibration."""
        U = torch.rand(self.ranks.shape, generator=stream(seed, "pit"), dtype=torch.float64)
        return (self.ranks + U) / (self.num_draws + 1)

    def to_arviz(self) -> dict[str, dict[str, np.ndarray]]:
        """Group name -> name -> (1, L) for ArviZ (one chain, L draws): the group `prior_sbc` with
        probability integral transforms, where `plot_ecdf_pit` of ArviZ 1.x looks for them."""
        pit = self.pit().T[:, None].numpy()
        return {"prior_sbc": dict(zip(self.names, pit, strict=True))}

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """The ranks of several batches of data sets as one.

        Raises:
            InvalidInput: for no batch, or batches of different functions or numbers of draws.
        """
        kinds = {(b.names, b.num_draws) for b in batches}
        if len(kinds) != 1:
            raise InvalidInput(
                "Ranks.concatenate: expected batches of the same functions and number of draws, got "
                f"{sorted(kinds)}."
            )
        seeds = tuple(seed for b in batches for seed in b.seeds)
        ranks = torch.cat([b.ranks for b in batches])
        return cls(ranks, batches[0].num_draws, batches[0].names, seeds)


def ranks_among(truth: Mapping[str, Tensor], draws: Mapping[str, Tensor], seed: int = 0) -> Ranks:
    """Ranks of numbers among draws that were made by whatever method.

    Arguments:
        truth: name -> (L,).
        draws: name -> (L, n) equal-weight draws from the posterior of each data set.
        seed: of the random order of ties.

    Raises:
        InvalidInput: for names or shapes that do not fit.
    """
    shapes = {name: tuple(draws[name].shape) if name in draws else None for name in truth}
    sizes = {(len(t), shapes[name]) for name, t in truth.items()}
    if len(sizes) != 1 or next(iter(sizes))[1] is None or len(next(iter(sizes))[1] or ()) != 2:
        raise InvalidInput(
            f"ranks_among: draws have shapes {shapes}; expected (L, n) for each truth."
        )
    t = torch.stack([torch.as_tensor(a) for a in truth.values()], -1)
    d = torch.stack([torch.as_tensor(draws[name]) for name in truth], -1)
    below, ties = (d < t[:, None]).sum(1), (d == t[:, None]).sum(1)
    u = torch.rand(ties.shape, generator=stream(seed, "ties"), dtype=torch.float64)
    ranks = below + (u * (ties + 1)).long()
    return Ranks(ranks, d.shape[1], tuple(truth), (seed,))


def sbc_ranks(
    posterior: Posterior,
    truth: Tensor,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_draws: int = 99,
    seed: int = 0,
) -> Ranks:
    """Ranks of the truths of S data sets among draws of their posteriors.

    Arguments:
        posterior: of S data sets (systems).
        truth: (S, *E), what each data set was made from.
        statistics: name -> function (S, n, *E) -> (S, n), which may hold the data (S, 1, ...); the
            coordinates by default.
        num_draws: n, at most the number of particles.
        seed: of draws and ties.

    Raises:
        InvalidInput: for truths that do not fit the posterior, and for more draws than particles.
    """
    truth, (S, N) = check_truth(posterior, truth), posterior.log_w.shape
    if not 1 <= num_draws <= N:
        raise InvalidInput(
            f"sbc_ranks: num_draws={num_draws} of {N} particles. Repeated draws have the truth outside "
            "of them too often: use at most as many draws as particles."
        )
    device = posterior.x.device
    generator = stream(seed, "draws", device)
    order = torch.rand(S, N, generator=generator, device=device, dtype=torch.float64).argsort(-1)
    u = torch.rand(S, 1, generator=generator, device=device, dtype=torch.float64)
    points = (torch.arange(num_draws, device=device) + u) / num_draws
    index = order.gather(1, weights.inverse_cdf(posterior.log_w.gather(1, order), points))
    x = posterior.x[torch.arange(S, device=device)[:, None], index]
    functions = statistics or coordinates(tuple(posterior.x.shape[2:]))
    both = torch.cat([truth[:, None], x], 1)
    values = evaluate(functions, both, torch.ones_like(both.flatten(2)[..., 0], dtype=torch.bool))
    return ranks_among(
        dict(zip(functions, values[:, 0].unbind(-1), strict=True)),
        dict(zip(functions, values[:, 1:].unbind(-1), strict=True)),
        seed,
    )
