r"""Metropolis-adjusted Langevin: an Euler step of length h^2 for the density N(0, I) psi,

    v' = v + (h^2 / 2) (-v + g(v)) + h z.

Unlike pCNL it does not leave N(0, I) alone, so that h must shrink with the dimension as d^(-1/6): for
small problems, and as the reference that `PCNL` is compared with.

Reference: Roberts, Tweedie, "Exponential convergence of Langevin distributions" (Bernoulli, 1996).
"""

from dataclasses import dataclass, replace
from typing import Self

from smcguide.errors import InvalidInput
from smcguide.moves.base import Move


@dataclass(frozen=True)
class MALA(Move):
    """MALA in white coordinates; wants the gradient of the potential.

    Arguments:
        step_size: h, positive.

    Raises:
        InvalidInput: for a step size that is not positive.
    """

    step_size: float = 0.5
    target_acceptance = 0.574

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_size > 0:
            raise InvalidInput(f"MALA: step_size must be positive, got {self.step_size}.")

    def coefficients(self) -> tuple[float, float, float]:
        h2 = self.step_size**2
        return 1 - h2 / 2, h2 / 2, self.step_size

    def resized(self, factor: float) -> Self:
        return replace(self, step_size=factor * self.step_size)
