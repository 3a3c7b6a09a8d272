"""The Metropolis-adjusted Langevin algorithm: Hamiltonian Monte Carlo with one leapfrog step.

Reference: Roberts, Tweedie, "Exponential convergence of Langevin distributions" (1996).
"""

from dataclasses import dataclass
from typing import ClassVar

from smcguide.errors import InvalidInput
from smcguide.parameter_moves.base import ParameterMove


@dataclass(frozen=True)
class MALA(ParameterMove):
    """A Gaussian step along the gradient.

    Arguments:
        step: standard deviation of the noise, in widths of the prior.

    Raises:
        InvalidInput: for a step not positive; with a cost that has no gradient.
    """

    step: float = 0.3
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise InvalidInput(f"{self!r}: step must be positive.")

    def size(self, n: int, p: int) -> float:
        return self.step
