r"""Preconditioned Crank-Nicolson Langevin: the semi-implicit Langevin step for N(0, I) psi,

    v' = rho v + s ( (sqrt(delta) / 2) g(v) + z ),   rho = (1 - delta/4) / (1 + delta/4),  rho^2 + s^2 = 1

Without g it leaves N(0, I) alone, as pCN does: its acceptance

    log a = L(v', v) - L(v, v'),   L(v, v') = log psi(v) - (delta/8) |g(v)|^2
                                              + (sqrt(delta) / 2) < (v' - rho v) / s, g(v) >

holds no term that grows with the dimension by itself.

References: Cotter, Roberts, Stuart, White, "MCMC methods for functions" (arXiv 1202.0709), whose delta is
half of this one; "Psi-Sampler" (arXiv 2506.01320).
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from smcguide.errors import InvalidInput
from smcguide.moves.base import Move


@dataclass(frozen=True)
class PCNL(Move):
    """pCNL; wants the gradient of the potential.

    Arguments:
        delta: squared size of the move in (0, 4]; 4 forgets the state but for its gradient.

    Raises:
        InvalidInput: for delta outside its range.
    """

    delta: float = 0.5
    target_acceptance = 0.574

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.delta <= 4:
            raise InvalidInput(f"PCNL: delta must be in (0, 4], got {self.delta}.")

    def coefficients(self) -> tuple[float, float, float]:
        rho = (1 - self.delta / 4) / (1 + self.delta / 4)
        s = math.sqrt(self.delta) / (1 + self.delta / 4)
        return rho, s * math.sqrt(self.delta) / 2, s

    def resized(self, factor: float) -> Self:
        return replace(self, delta=min(4.0, factor**2 * self.delta))
