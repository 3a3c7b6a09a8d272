"""Random-walk Metropolis with several sizes in turn: the posterior narrows as the run goes on, and one of
them fits. Sizes are of the optimal step 2.4 / sqrt(p) of a Gaussian law of width 1.

Reference: Roberts, Gelman, Gilks, "Weak convergence and optimal scaling of random walk Metropolis
algorithms" (1997).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from smcguide.errors import InvalidInput
from smcguide.parameter_moves.base import ParameterMove


@dataclass(frozen=True)
class RandomWalk(ParameterMove):
    """Gaussian steps; values only.

    Arguments:
        sizes: tried in turn, positive; 1 fits the prior, smaller ones a narrow posterior.

    Raises:
        InvalidInput: for no size, or one that is not positive.
    """

    sizes: Sequence[float] = (1.0, 0.3, 0.1, 0.03)
    num_moves: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes or min(self.sizes) <= 0:
            raise InvalidInput(f"{self!r}: sizes must be positive numbers.")

    def size(self, n: int, p: int) -> float:
        return 2.4 / math.sqrt(p) * self.sizes[n % len(self.sizes)]
