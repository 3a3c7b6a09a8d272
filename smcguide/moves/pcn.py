r"""Preconditioned Crank-Nicolson: v' = sqrt(1 - beta^2) v + beta z leaves N(0, I) alone, so that the
acceptance probability is min(1, psi(x') / psi(x)) in any dimension; no gradient.

Reference: Cotter, Roberts, Stuart, White, "MCMC methods for functions" (arXiv 1202.0709).
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from smcguide.errors import InvalidInput
from smcguide.moves.base import Move


@dataclass(frozen=True)
class PCN(Move):
    """pCN.

    Arguments:
        beta: size of the move in (0, 1]; 1 draws from the base kernel anew.

    Raises:
        InvalidInput: for beta outside its range.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta <= 1:
            raise InvalidInput(f"PCN: beta must be in (0, 1], got {self.beta}.")

    def coefficients(self) -> tuple[float, float, float]:
        return math.sqrt(1 - self.beta**2), 0.0, self.beta

    def resized(self, factor: float) -> Self:
        return replace(self, beta=min(1.0, factor * self.beta))
