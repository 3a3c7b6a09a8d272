"""Hamiltonian Monte Carlo: leapfrog paths along the gradient of the cost with respect to the parameters.

Reference: Neal, "MCMC using Hamiltonian dynamics" (arXiv 1206.1901).
"""

from dataclasses import dataclass
from typing import ClassVar

from smcguide.errors import InvalidInput
from smcguide.parameter_moves.base import ParameterMove


@dataclass(frozen=True)
class HMC(ParameterMove):
    """Leapfrog paths of a fixed length.

    Arguments:
        step: e, in widths of the prior.
        num_leapfrog: L.

    Raises:
        InvalidInput: for a step not positive, num_leapfrog below 1; with a cost that has no gradient.
    """

    step: float = 0.1
    num_leapfrog: int = 5
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise InvalidInput(f"{self!r}: step must be positive.")

    def size(self, n: int, p: int) -> float:
        return self.step
