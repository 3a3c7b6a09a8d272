"""Time grids: which noise levels a run visits. A grid maps a schedule to K + 1 decreasing times.

Every grid begins at (almost) pure noise and ends at time 0, data. With lam = sigma / alpha:

    uniform     equal steps in the schedule's time
    karras      equal steps in lam^(1/rho) (Karras et al., arXiv 2206.00364)
    log_snr     equal steps in log-SNR (Lu et al., DPM-Solver, arXiv 2206.00927)
    trailing    integer times T, T - T/K, ... of a DDPM table (Lin et al., arXiv 2305.08891)

The last step of `karras` and `log_snr` goes from the schedule's `t_min` to 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.schedules import DDPMTable, Schedule

_LARGEST_RATIO = 1e3  # noise end of a grid in lam where the schedule has alpha = 0 there


@dataclass(frozen=True)
class Grid(ABC):
    """Base class: holds the number of steps K >= 2; `grid(schedule)` gives (K + 1,) float64 times."""

    num_steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.num_steps, int) or self.num_steps < 2:
            raise InvalidInput(
                f"A grid needs a whole number of at least 2 steps, got num_steps={self.num_steps}."
            )

    @abstractmethod
    def __call__(self, schedule: Schedule) -> Tensor:
        """(K + 1,) decreasing times."""

    def _from_log_snr(self, schedule: Schedule, log_snr: Tensor) -> Tensor:
        times = torch.cat([schedule.time(log_snr), torch.zeros(1, dtype=torch.float64)])
        times[-2] = schedule.t_min
        return times.clamp(max=schedule.t_max)  # rounding of the inverse


def _ends(schedule: Schedule) -> tuple[float, float]:
    """log-SNR at the noise end (finite) and at t_min."""
    noisiest = max(float(schedule.log_snr(schedule.t_max)), -2 * math.log(_LARGEST_RATIO))
    return noisiest, float(schedule.log_snr(schedule.t_min))


@dataclass(frozen=True)
class uniform(Grid):
    """Equal steps in time from t_max to 0."""

    def __call__(self, schedule: Schedule) -> Tensor:
        return torch.linspace(schedule.t_max, 0.0, self.num_steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class karras(Grid):
    """Equal steps in lam^(1/rho) from the noise end to t_min, then 0."""

    rho: float = 7.0

    def __call__(self, schedule: Schedule) -> Tensor:
        a, b = (math.exp(-e / 2 / self.rho) for e in _ends(schedule))
        ratios = torch.linspace(a, b, self.num_steps, dtype=torch.float64) ** self.rho
        return self._from_log_snr(schedule, -2 * ratios.log())


@dataclass(frozen=True)
class log_snr(Grid):
    """Equal steps in log-SNR from the noise end to t_min, then 0."""

    def __call__(self, schedule: Schedule) -> Tensor:
        ends = torch.linspace(*_ends(schedule), self.num_steps, dtype=torch.float64)
        return self._from_log_snr(schedule, ends)


@dataclass(frozen=True)
class trailing(Grid):
    """Integer times of a `DDPMTable`, from its last entry down, then 0."""

    def __call__(self, schedule: Schedule) -> Tensor:
        if not isinstance(schedule, DDPMTable) or self.num_steps > schedule.t_max:
            raise InvalidInput(
                f"trailing({self.num_steps}) needs a DDPMTable with at least that many entries, "
                f"got {schedule!r}; use grids.uniform or grids.karras."
            )
        return torch.linspace(schedule.t_max, 0, self.num_steps + 1, dtype=torch.float64).round()


@dataclass(frozen=True)
class recurrent:
    """A grid that travels each stretch of `span` steps `repeats` times, going back to more noise in
    between (self-recurrence, time travel, restarts). Results are exact for the chain with the detours.

    Arguments:
        grid: any grid.
        repeats: how often each stretch is travelled, at least 1.
        span: steps of a stretch.
        first, last: the stretches that begin in this part of the run, as fractions in [0, 1].

    References: Bansal et al., "Universal guidance" (arXiv 2302.07121); Yu et al., "FreeDoM"
    (arXiv 2303.09833); Lugmayr et al., "RePaint" (arXiv 2201.09865).
    """

    grid: Grid
    repeats: int = 2
    span: int = 1
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.span < 1 or not 0 <= self.first <= self.last <= 1:
            raise InvalidInput(
                f"{self!r}: repeats and span must be at least 1, 0 <= first <= last <= 1."
            )

    def __call__(self, schedule: Schedule) -> Tensor:
        times = self.grid(schedule).tolist()
        out, last = [times[0]], len(times) - 1
        for k in range(0, last, self.span):
            stretch = times[k : k + self.span + 1]
            here = self.first <= k / last <= self.last and stretch[-1] != 0
            for i in range(self.repeats if here else 1):
                out += stretch if i else stretch[1:]
        return torch.tensor(out, dtype=torch.float64)
