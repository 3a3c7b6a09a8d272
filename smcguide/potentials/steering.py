r"""Potentials from rewards along the way, for any cost and without gradients: FK steering.

At scheduled levels the reward of the denoised estimate, r_j = -strength C(D(x_j)), makes a factor G_j;
between them nothing is asked. With the value psi_t = prod_{j <= t} G_j of a path,

    difference   log G_j = r_j - r_(last)            log psi_t = r_(last),  the latest reward
    max          log G_j = max_{i <= j} r_i          log psi_t = the sum of the running maxima
    sum          log G_j = sum_{i <= j} r_i          log psi_t = the sum of the running sums

The library's last weight is exp(-C(x_0)) / psi, so whatever was gained on the way is given back and the
target is exp(-C) for every mode. Selection in intervals: `triggers.at_steps`.

Reference: Singhal et al., "A general framework for inference-time scaling and steering of diffusion
models" (arXiv 2501.06848).
"""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Look


@dataclass(frozen=True)
class FKSteering(Potential):
    """Rewards at scheduled levels, and what a particle remembers of them.

    Arguments:
        mode: how rewards make the factors (above).
        every: levels from one reward to the next.
        first, last: levels, counted in transitions made, of the first reward and beyond which there is
            none; `last` None for the last level with noise.
        strength: positive factor of the rewards on the way; the target stays exp(-C).

    Raises:
        InvalidInput: for another mode, numbers out of range, and when bound to a run in which no level
            is scheduled.
    """

    mode: Literal["difference", "max", "sum"] = "difference"
    every: int = 5
    first: int = 5
    last: int | None = None
    strength: float = 1.0
    _times: frozenset[float] = field(default=frozenset(), init=False, repr=False)
    is_markov = False
    uses_cost = 0  # asked where it is scheduled

    def __post_init__(self) -> None:
        last = self.first if self.last is None else self.last
        whole = all(isinstance(k, Integral) for k in (self.every, self.first, last))
        whole = whole and self.every >= 1 and 0 <= self.first <= last
        if self.mode not in ("difference", "max", "sum") or not whole or not self.strength > 0:
            raise InvalidInput(
                f"{self!r}: mode must be 'difference', 'max' or 'sum', every at least 1, "
                "0 <= first <= last whole numbers, strength positive."
            )

    def bind(self, problem: Problem) -> Self:
        last = len(problem.levels) - 2 if self.last is None else self.last
        levels = problem.levels[self.first : last + 1 : self.every]
        times = frozenset(t.time for t in levels if t.sigma > 0)
        if not times:
            raise InvalidInput(
                f"{self!r}: no reward in a run of {len(problem.levels) - 1} steps; lower first."
            )
        bound = super().bind(problem)
        object.__setattr__(bound, "_times", times)
        return bound

    def log_value(self, look: Look) -> Tensor:
        return self.evaluate(look)[0]

    def evaluate(self, look: Look) -> tuple[Tensor, Tensor]:
        """log psi (S, N), and with the running maximum or sum of the rewards as (S, N, 2)."""
        if look.memory is not None:
            value, running = look.memory.unbind(-1)
        else:
            value = torch.zeros(look.x.shape[:2], dtype=torch.float64, device=look.x.device)
            running = torch.full_like(value, -torch.inf) if self.mode == "max" else value
        if look.t.time in self._times:
            cost = self.cost if look.step is None else look.step.cost
            reward = -self.strength * cost(look.x0_hat).double()
            if self.mode == "difference":
                value = reward
            else:
                running = torch.maximum(running, reward) if self.mode == "max" else running + reward
                value = value + running
        return value, torch.stack([value, running], -1)
