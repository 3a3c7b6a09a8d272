r"""T4: exp(-C) averaged over a Gaussian around the denoiser's estimate, for any cost:

    psi_t(x_t) = (1/J) sum_j exp(-C(D + r_t xi_j)),     xi_j ~ N(0, I)

where `Tweedie` takes x_0 to be known. r_t^2 is what the denoiser usually leaves unknown, measured on
draws of the prior; variance = 1 is the sigma^2 / (alpha^2 + sigma^2) of LGD-MC. The draws belong to the
particle: psi_t is a function of (x_t, xi), and the number that entered a weight is divided out again, so
any J is exact. But a mean of a few draws is noise where exp(-C) changes much over r_t, worse than
`Tweedie`: take soft costs, or tens of draws.

Reference: Song et al., "Loss-guided diffusion models for plug-and-play controllable generation"
(ICML 2023); its gradient is this value's.
"""

from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential
from smcguide.potentials.widths import unknown
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.rehearsal import Rehearsal


@dataclass(frozen=True)
class MonteCarlo(Potential):
    """The mean of exp(-C) over draws around the denoised estimate.

    Arguments:
        num_draws: J, also the number of evaluations of the cost, and of events kept per particle.
        variance: of the prior's coordinates, which gives r_t^2 = (1 / variance + alpha^2 / sigma^2)^-1;
            None to measure r_t^2.

    Raises:
        InvalidInput: for num_draws below 1, variance not positive; when bound without a rehearsal.
    """

    num_draws: int = 4
    variance: float | None = None
    _rehearsal: Rehearsal | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_draws < 1 or not (self.variance is None or self.variance > 0):
            raise InvalidInput(
                f"{self!r}: num_draws must be at least 1, variance positive or None."
            )

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.variance is None

    @property
    def uses_cost(self) -> int:  # type: ignore[override]
        return self.num_draws

    def bind(self, problem: Problem) -> Self:
        unknown(Level(1.0, 1.0, 1.0), self.variance, problem.rehearsal)
        bound = super().bind(problem)
        object.__setattr__(bound, "_rehearsal", problem.rehearsal)
        return bound

    def log_value(self, look: Look) -> Tensor:
        if look.noise is None:
            raise InvalidInput(f"{self!r} needs a look with random numbers.")
        xi = look.noise[:, :, : self.num_draws]  # a proposal may have asked for more
        r = unknown(look.t, self.variance, self._rehearsal) ** 0.5
        events = (look.x0_hat[:, :, None] + r * xi).flatten(1, 2)
        values = -self.cost.at(look.theta)(events).double()
        return weights.log_mean_exp(values.unflatten(1, xi.shape[1:3]))
