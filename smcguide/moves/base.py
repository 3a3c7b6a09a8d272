r"""A move leaves the law of x_s given its parent x_t invariant, so weights stay as they are:

    pi(x_s) proportional to p(x_s | x_t) psi_s(x_s),     p(x_s | x_t) = N(m, c^2)

In white coordinates v = (x_s - m) / c, with g the gradient of log psi with respect to v, an author
writes the three numbers of a Gaussian candidate

    v' = rho v + b g(v) + s z,     z ~ N(0, I)

and the library forms the Metropolis-Hastings ratio. One network evaluation per candidate. A complete
move, random-walk Metropolis:

    >>> from dataclasses import dataclass
    >>> from smcguide.moves import Move
    >>> @dataclass(frozen=True)
    ... class RandomWalk(Move):
    ...     size: float = 0.1
    ...     def coefficients(self):
    ...         return 1.0, 0.0, self.size
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from smcguide.errors import InvalidInput
from smcguide.records import Level


@dataclass(frozen=True)
class Move(ABC):
    """Base class of moves; concrete ones are frozen dataclasses.

    Arguments:
        num_moves: candidates per visit, at least 1.
        every_step: move before every step of the run, instead of only in systems just resampled.
        waste_free: keep the whole chain: each visit resamples N / (num_moves + 1) ancestors, and the
            chain that starts at each fills the remaining places (Dau, Chopin, arXiv 2011.02328).

    Attributes:
        span: levels that a candidate is noised up and denoised down again; 0 for Gaussian candidates.
        target_acceptance: mean acceptance that `tune_move` aims at.

    Raises:
        InvalidInput: for num_moves below 1; for waste_free with every_step.
    """

    num_moves: int = field(default=1, kw_only=True)
    every_step: bool = field(default=False, kw_only=True)
    waste_free: bool = field(default=False, kw_only=True)
    span = 0
    target_acceptance = 0.3

    def __post_init__(self) -> None:
        if self.num_moves < 1 or (self.waste_free and self.every_step):
            raise InvalidInput(
                f"{self!r}: num_moves must be at least 1, and waste_free moves come after resampling "
                "only (leave every_step out)."
            )

    @property
    def needs_gradient(self) -> bool:
        """Whether b is not zero."""
        return self.coefficients()[1] != 0

    @property
    def chain_length(self) -> int:
        """How many particles one resampled ancestor fills."""
        return self.num_moves + 1 if self.waste_free else 1

    @abstractmethod
    def coefficients(self) -> tuple[float, float, float]:
        """rho, b, s of the candidate; finite, s positive."""

    def check(self, potential: Any, levels: Sequence[Level]) -> None:
        """Raise InvalidInput if this move cannot work with a potential on a grid of noise levels;
        called before any network call."""
        rho, b, s = self.coefficients()
        if not (math.isfinite(rho) and math.isfinite(b) and 0 < s < math.inf):
            raise InvalidInput(
                f"{self!r}: coefficients rho = {rho}, b = {b}, s = {s}; they must be finite and s "
                "positive, or no density ratio exists."
            )

    def resized(self, factor: float) -> Self:
        """The same move, `factor` times as large as far as its range allows; what `tune_move` turns."""
        raise InvalidInput(
            f"{type(self).__name__} does not say what its size is: write `resized(factor)`, e.g. "
            "dataclasses.replace(self, size=factor * self.size)."
        )
