r"""Restart: noise x_s up a few levels, denoise with the base chain, accept with min(1, psi' / psi).

    x_t | x_s ~ the noising kernel,     x_s' | x_t ~ the base chain

is reversible with respect to p_s where the base chain is the exact reversal of the noising, and leaves
p_s psi_s invariant then. It changes the parent too: unlike the other moves it can correct decisions of
earlier levels. On a finite grid, or with an imperfect network, the reversal is approximate and so is
the invariance: results are exact in the limit of fine grids only. At the noise end, where there is
nothing above, a candidate is drawn anew, and that is exact.

Reference: Xu et al., "Restart sampling for improving generative processes" (arXiv 2306.14878), without
the Metropolis-Hastings step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

from smcguide.errors import InvalidInput
from smcguide.exactness import LIMIT
from smcguide.moves.base import Move
from smcguide.records import Level


@dataclass(frozen=True)
class Restart(Move):
    """Noise up and denoise again; span + 1 network evaluations per candidate.

    Arguments:
        span: how many levels of the grid to go up, at least 1.

    Raises:
        InvalidInput: for a span below 1; in a model with a potential that depends on the path, which
            the move replaces, or on a grid that goes up again.
    """

    span: int = 1
    exactness = LIMIT

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span < 1:
            raise InvalidInput(f"Restart: span must be at least 1, got {self.span}.")

    def coefficients(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 1.0

    def check(self, potential: Any, levels: Sequence[Level]) -> None:
        if not potential.is_markov:
            raise InvalidInput(
                f"{self!r} replaces a particle's past, on which the potential {potential!r} depends. "
                "Use moves.PCN(), which keeps it."
            )
        if any(s.ratio > t.ratio for t, s in pairwise(levels)):
            raise InvalidInput(
                f"{self!r} goes up on its own: use a grid that only goes down, or moves.PCN()."
            )

    def resized(self, factor: float) -> Self:
        return replace(self, span=max(1, round(factor * self.span)))
