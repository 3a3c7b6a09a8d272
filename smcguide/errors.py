"""What can go wrong, as types. Every message says what was given, what is expected and what to do."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any


class SmcguideError(Exception):
    """Base class of every error that smcguide raises on purpose."""


class InvalidInput(SmcguideError, ValueError):
    """An argument is wrong. Raised before the first network call."""


class MissingExtra(SmcguideError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'smcguide[{extra}]'"
        )


class DegenerateWeights(SmcguideError, RuntimeError):
    """The weights of a system became unusable during a run.

    Attributes:
        step: index of the engine's step, 0 for the initial population.
        time: schedule time at which it happened, NaN where the model has no times.
        system: index of the first failing system.
        count: number of bad particles in that system.
        particles: the population when it was noticed: on the CPU that of the failing step, on a device
            up to 16 steps later.
        trace: the `StepInfo` records up to and including the failing step.
    """

    def __init__(
        self,
        problem: str,
        *,
        step: int,
        time: float,
        system: int,
        count: int,
        num_particles: int,
        culprit: str,
        remedy: str,
    ) -> None:
        super().__init__(
            f"{problem} at step {step} (time {time:.6g}), system {system}: "
            f"{count} of {num_particles} particles. Culprit: {culprit}. {remedy} "
            "The population and the trace up to this step are in this error's "
            "'particles' and 'trace'."
        )
        self.step, self.time, self.system, self.count = step, time, system, count
        self.particles: Any = None
        self.trace: list[Any] = []


def check_counts(counts: Mapping[str, tuple[Any, int]]) -> None:
    """Raise InvalidInput unless each number (name -> number, least) is whole and large enough."""
    for name, (value, least) in counts.items():
        if not isinstance(value, Integral) or value < least:
            raise InvalidInput(f"{name} must be a whole number of at least {least}, got {value!r}.")
