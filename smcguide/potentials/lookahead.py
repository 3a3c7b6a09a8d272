r"""T5: the cost at the end of a short deterministic rollout, for any cost:

    log psi_t(x_t) = -l_t C(X_t(x_t)),     X_t: the probability-flow ODE from (x_t, t) to data

by `num_steps` DDIM steps (eta = 0), equal in (sigma / alpha)^(1/7) between t and the schedule's smallest
time. The first network call is the look's own, and with one step the value is `Tweedie`. The rollout
ends at one of the events that x_t may become, where D is their mean: for costs that understand events
only, and over-confident where several outcomes are open, hence the strength.

References: Song et al., DDIM (arXiv 2010.02502); Karras et al. (2206.00364), the grid; Sabour et al.,
"Test-time scaling of diffusions with flow maps" (2511.22688), this value with a distilled flow map.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import SIGNAL_FRACTION, Potential, Strength, strength_at
from smcguide.records import Level, Look
from smcguide.schedules import Schedule

_POWER = 7
_LARGEST_RATIO = 1e3  # stands for pure noise


@dataclass(frozen=True)
class Lookahead(Potential):
    """The cost at the end of a rollout, with a strength.

    Arguments:
        num_steps: network calls per value, the look's own included.
        strength: l_t, a number or a function of the level.

    Raises:
        InvalidInput: for num_steps below 1.
    """

    num_steps: int = 2
    strength: Strength = SIGNAL_FRACTION

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise InvalidInput(f"{self!r}: num_steps must be at least 1.")

    def log_value(self, look: Look) -> Tensor:
        t, x, D = look.t, look.x, look.x0_hat
        for s in self._between(t, look.step.schedule):
            x = s.alpha * D + s.sigma / t.sigma * (x - t.alpha * D)
            t, D = s, look.step.denoise_at(x, s)
        cost: Tensor = self.cost.at(look.theta)(D)
        return -strength_at(self.strength, look.t) * cost.double()

    def _between(self, t: Level, schedule: Schedule) -> list[Level]:
        """The levels on the way from t to data, both left out."""
        first = min(t.ratio, _LARGEST_RATIO)
        last = min(schedule.level(schedule.t_min).ratio, first)
        a, b = first ** (1 / _POWER), last ** (1 / _POWER)
        shares = [i / self.num_steps for i in range(1, self.num_steps)]
        log_snr = [-2 * _POWER * math.log(a + share * (b - a)) for share in shares]
        return [schedule.level(float(schedule.time(value))) for value in log_snr]
