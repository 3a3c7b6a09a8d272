"""Many data sets of a known prior, each with its posterior: the raw material of every calibration.

For each batch of S data sets: S truths from the prior, a data set of each from the likelihood, one
inference of them all as the systems of one posterior.

    for sets in simulate(draw_truth, measure, infer, num_sets=300):
        sbc_ranks(sets.posterior, sets.truth, seed=sets.seed), tarp(sets.posterior, sets.truth), ...
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from smcguide.diagnostics.calibration.quantities import Statistic
from smcguide.diagnostics.calibration.ranks import Ranks
from smcguide.diagnostics.calibration.sbc import sbc_ranks
from smcguide.errors import InvalidInput, check_counts
from smcguide.posterior import Posterior


@dataclass(frozen=True, eq=False)
class DataSets:
    """A batch of S simulated data sets and what was inferred from them.

    Attributes:
        truth: (S, *E).
        y: (S, *obs).
        posterior: with S systems.
        seed: of the batch; `simulate(..., num_sets=S, batch=S, seed=seed)` makes it again.
    """

    truth: Tensor
    y: Tensor
    posterior: Posterior
    seed: int


def simulate(
    draw_truth: Callable[[int, Generator], Tensor],
    measure: Callable[[Tensor, Generator], Tensor],
    infer: Callable[[Tensor, int], Posterior],
    *,
    num_sets: int,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool | str = "auto",
) -> Iterator[DataSets]:
    """Data sets and their posteriors, a batch at a time.

    To test the inference and not the discretisation of a prior, draw the truths by the chain that the
    inference runs: `smcguide.draw` with the same kernel and levels.

    Arguments:
        draw_truth: (S, generator) -> (S, *E) draws from the prior.
        measure: (truths (S, *E), generator) -> data y (S, *obs).
        infer: (y, seed) -> posterior with one system for each data set.
        num_sets: L, data sets in all.
        batch: S, data sets of one inference; the last batch may be smaller.
        seed: of the first batch; each further one has a seed of its own derived from it. Streams for data
            and inference are made from the seed of the batch alone.
        device: of the generators.
        progress: True, False, or "auto" for a bar on terminals only.

    Raises:
        InvalidInput: for sizes below 1, and where the posterior has not one system for each data set.
    """
    check_counts({"num_sets": (num_sets, 1), "batch": (batch, 1), "seed": (seed, 0)})
    return _batches(draw_truth, measure, infer, (num_sets, batch), seed, device, progress)


def _batches(
    draw_truth: Callable[[int, Generator], Tensor],
    measure: Callable[[Tensor, Generator], Tensor],
    infer: Callable[[Tensor, int], Posterior],
    sizes: tuple[int, int],
    seed: int,
    device: torch.device | str,
    progress: bool | str,
) -> Iterator[DataSets]:
    from tqdm import tqdm

    num_sets, batch = sizes
    hidden = None if progress == "auto" else not progress
    with tqdm(total=num_sets, unit="data set", disable=hidden) as bar:
        for b, first in enumerate(range(0, num_sets, batch)):
            S = min(batch, num_sets - first)
            own = _seed_of(seed, b)
            data, inference = np.random.SeedSequence(own).generate_state(2)
            generator = Generator(device).manual_seed(int(data))
            truth = draw_truth(S, generator)
            y = measure(truth, generator)
            posterior = infer(y, int(inference))
            if len(truth) != S or len(y) != S or len(posterior.x) != S:
                raise InvalidInput(
                    f"simulate: {S} data sets were asked for; got {len(truth)} truths, y of shape "
                    f"{tuple(y.shape)} and a posterior of {len(posterior.x)} systems. The first axis of "
                    "each counts data sets: infer with a cost of y with batched=True."
                )
            yield DataSets(truth, y, posterior, own)
            bar.update(S)


def _seed_of(seed: int, b: int) -> int:
    """Seed of batch b, 63 bits: studies of neighbouring seeds share no batch."""
    if b == 0:
        return seed
    return int(np.random.SeedSequence([seed, b]).generate_state(1, np.uint64)[0]) >> 1


def simulate_ranks(
    draw_truth: Callable[[int, Generator], Tensor],
    measure: Callable[[Tensor, Generator], Tensor],
    infer: Callable[[Tensor, int], Posterior],
    *,
    statistics: Callable[[Tensor], Mapping[str, Statistic]] | None = None,
    num_draws: int = 99,
    num_sets: int = 200,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool | str = "auto",
) -> Ranks:
    """Simulation-based calibration of a whole inference in one call.

    Arguments:
        draw_truth, measure, infer, num_sets, batch, seed, device, progress: as `simulate`.
        statistics: from the data y (S, *obs) of a batch, the functions to rank (see `sbc_ranks`); the
            coordinates by default.
        num_draws: n, at most the number of particles.

    Raises:
        InvalidInput: as `simulate` and `sbc_ranks`.
    """
    check_counts({"num_draws": (num_draws, 1)})
    sets = simulate(
        draw_truth, measure, infer, num_sets=num_sets, batch=batch, seed=seed, device=device,
        progress=progress,
    )  # fmt: skip
    return Ranks.concatenate(
        [
            sbc_ranks(
                s.posterior, s.truth, statistics(s.y) if statistics else None,
                num_draws=num_draws, seed=s.seed,
            )
            for s in sets
        ]
    )  # fmt: skip
