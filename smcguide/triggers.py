"""When to resample. A trigger maps (step, log_w) to a boolean mask over systems, (S,), or to a plain
bool where the answer does not depend on the weights. `step` counts transitions from 0."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput

Trigger = Callable[[int, Tensor], Tensor | bool]


def decide(trigger: Trigger, step: int, log_w: Tensor, ess: Tensor) -> Tensor | bool:
    """What a trigger says where the ESS (S,) of the weights is known: one that has a method
    `knowing(step, log_w, ess)` need not compute it again. A subclass with another `__call__` is asked."""
    for kind in type(trigger).__mro__:
        if "knowing" in vars(kind):
            answer: Tensor | bool = trigger.knowing(step, log_w, ess)  # type: ignore[attr-defined]
            return answer
        if "__call__" in vars(kind):
            break
    return trigger(step, log_w)


@dataclass(frozen=True)
class always:
    """Resample before every step."""

    def __call__(self, step: int, log_w: Tensor) -> bool:
        return True


@dataclass(frozen=True)
class never:
    """Importance sampling: no resampling at all."""

    def __call__(self, step: int, log_w: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class ess_below:
    """Resample the systems whose ESS is below `fraction` of N, fraction in (0, 1]."""

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InvalidInput(f"ess_below: fraction must be in (0, 1], got {self.fraction}.")

    def __call__(self, step: int, log_w: Tensor) -> Tensor:
        return self.knowing(step, log_w, weights.ess(log_w))

    def knowing(self, step: int, log_w: Tensor, ess: Tensor) -> Tensor:
        return ess < self.fraction * log_w.shape[-1]


@dataclass(frozen=True)
class at_steps:
    """Resample before the listed steps."""

    steps: Sequence[int]

    def __call__(self, step: int, log_w: Tensor) -> bool:
        return step in self.steps


@dataclass(frozen=True)
class within:
    """Resample when `trigger` says so, but before the steps first, ..., last only: selection in a window
    of times. Whole numbers, 0 <= first <= last; `last` may lie beyond the end of a run.

    Raises:
        InvalidInput: for other numbers, or for a trigger that cannot be called.
    """

    trigger: Trigger
    first: int
    last: int

    def __post_init__(self) -> None:
        if not callable(self.trigger):
            raise InvalidInput(
                f"within: trigger must be a trigger, got {self.trigger!r}; e.g. "
                "within(ess_below(0.5), 10, 80)."
            )
        if not all(isinstance(k, Integral) for k in (self.first, self.last)) or not (
            0 <= self.first <= self.last
        ):
            raise InvalidInput(
                "within: first and last must be whole numbers with 0 <= first <= last, counting steps; "
                f"got {self.first!r} and {self.last!r}."
            )

    def __call__(self, step: int, log_w: Tensor) -> Tensor | bool:
        return self.trigger(step, log_w) if self._is_open(step) else False

    def knowing(self, step: int, log_w: Tensor, ess: Tensor) -> Tensor | bool:
        return decide(self.trigger, step, log_w, ess) if self._is_open(step) else False

    def _is_open(self, step: int) -> bool:
        return self.first <= step <= self.last
