"""Ranks of truths among draws: their test for uniformity, and how to count them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from smcguide.diagnostics.calibration.bands import path_p_value, simultaneous_band, thinned
from smcguide.diagnostics.calibration.quantities import stream
from smcguide.errors import InvalidInput, check_counts


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
        check_counts({"bins": (bins, 1)})
        if (self.num_draws + 1) % bins:
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
            InvalidInput: for no batch, batches of different functions or numbers of draws, or several of
                one seed.
        """
        kinds = {(b.names, b.num_draws) for b in batches}
        if len(kinds) != 1:
            raise InvalidInput(
                "Ranks.concatenate: expected batches of the same functions and number of draws, got "
                f"{sorted(kinds)}."
            )
        seeds = tuple(seed for b in batches for seed in b.seeds)
        if len(set(seeds)) < len(seeds):
            raise InvalidInput(
                "Ranks.concatenate: batches of one seed are the same data sets or share the randomness "
                f"of their ranks; seeds are {seeds}: give each batch its own."
            )
        ranks = torch.cat([b.ranks for b in batches])
        return cls(ranks, batches[0].num_draws, batches[0].names, seeds)


def ranks_among(truth: Mapping[str, Tensor], draws: Mapping[str, Tensor], seed: int = 0) -> Ranks:
    """Ranks of numbers among draws that were made by whatever method.

    Arguments:
        truth: name -> (L,).
        draws: name -> (L, n) equal-weight draws from the posterior of each data set.
        seed: of the random order of ties.

    Raises:
        InvalidInput: for names or shapes that do not fit, no draws, NaN.
    """
    t, d = _columns("truth", truth, truth), _columns("draws", draws, truth)
    if t.ndim != 2 or d.ndim != 3 or d.shape[::2] != t.shape or not d.numel():
        raise InvalidInput(
            f"ranks_among: truth has shape {tuple(t.shape[:-1])} and draws have shape "
            f"{tuple(d.shape[:-1])}; expected (L,) and (L, n) for each name, L and n at least 1."
        )
    below, ties = (d < t[:, None]).sum(1), (d == t[:, None]).sum(1)
    u = torch.rand(ties.shape, generator=stream(seed, "ties"), dtype=torch.float64)
    ranks = below + (u * (ties + 1)).long()
    return Ranks(ranks, d.shape[1], tuple(truth), (seed,))


def _columns(what: str, given: Mapping[str, Tensor], names: Collection[str]) -> Tensor:
    """Numbers by name, all of one shape, as one tensor (..., F) on the CPU without NaN."""
    try:
        columns = [torch.as_tensor(given[name]).cpu() for name in names if name in given]
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"ranks_among: {what} must be tensors of numbers: {error}.") from error
    shapes = [tuple(a.shape) for a in columns]
    if not columns or len(columns) < len(names) or len(set(shapes)) > 1:
        raise InvalidInput(
            f"ranks_among: {what} have shapes {shapes} for the names {list(given)}; expected one shape "
            f"for each of {list(names)}."
        )
    out = torch.stack(columns, -1)
    if bool(out.isnan().any()):
        raise InvalidInput(
            f"ranks_among: {int(out.isnan().sum())} numbers of {what} are NaN; a rank needs numbers that "
            "can be ordered."
        )
    return out
