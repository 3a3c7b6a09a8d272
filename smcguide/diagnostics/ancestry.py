"""Numbers about the family tree of a run: how many lines survive, and how far back they meet.

Particles with a common ancestor few steps back differ in the last few steps only. Resampling joins
families for good: looking back from the final population, generation k has fewer distinct ancestors
the smaller k is, until all are one. Neutral evolution, multinomial resampling of equal weights at every
step, takes about 2 (N - 1) steps to one ancestor; uneven weights take fewer.

Reference: Jacob, Murray, Rubenthaler, "Path storage in the particle filter" (arXiv 1307.3180).
"""

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


def unique_ancestors(posterior: Posterior) -> Tensor:
    """How many distinct parents the particles of each generation had, (S, K + 1); N where nothing was
    resampled."""
    return posterior._answer(posterior.trace["unique_ancestors"])


def lineages(posterior: Posterior) -> Tensor:
    """How many particles of each generation are ancestors of the final population, (S, K + 1).

    Raises:
        InvalidInput: for a run that did not record "ancestors".
    """
    return posterior._answer(_lineages(_ancestors(posterior, "lineages")))


def coalescence_time(posterior: Posterior) -> Tensor:
    """How many steps back all final particles share one ancestor, (S,) float64.

    0 for a single particle; inf where several ancestors are left in the initial population.

    Raises:
        InvalidInput: for a run that did not record "ancestors".
    """
    alone = _lineages(_ancestors(posterior, "coalescence_time")) == 1
    back = alone.flip(1).double()
    first = back.argmax(1).double()  # of equal numbers argmax finds the first
    return posterior._answer(first.masked_fill(~alone.any(1), torch.inf))


def _ancestors(posterior: Posterior, who: str) -> Tensor:
    if "ancestors" not in posterior.recorded:
        raise InvalidInput(
            f"{who}: this run recorded {sorted(posterior.recorded) or 'nothing'}; the ancestors of its "
            'particles are needed. Run it again with record=("ancestors",).'
        )
    return posterior.recorded["ancestors"]


def _lineages(ancestors: Tensor) -> Tensor:
    """(S, K + 1) from the parents (S, K + 1, N) of each generation; row 0 is not used."""
    S, generations, N = ancestors.shape
    line = torch.arange(N, device=ancestors.device).expand(S, N)
    counts = [torch.full((S,), N, device=ancestors.device)]
    for k in range(generations - 1, 0, -1):
        line = ancestors[:, k].gather(1, line)
        counts.append(torch.zeros_like(line).scatter_(1, line, 1).sum(1))
    return torch.stack(counts[::-1], 1)
