"""A potential is a value log psi_t(x_t): the author's guess of log E[exp(-C(x_0)) | x_t].

Any positive function is legal: the library divides psi_t out again, so a bad guess costs variance and
never exactness. At the last level the library uses -C itself. A value is a differentiable function of
the look (x, x0_hat, t); row i depends on particle i only. A complete potential:

    >>> from dataclasses import dataclass
    >>> from smcguide.potentials import Potential
    >>> @dataclass(frozen=True)
    ... class Timid(Potential):
    ...     def log_value(self, look):
    ...         return -0.1 * self.cost(look.x0_hat)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from smcguide.records import Level, Look
from smcguide.rehearsal import Rehearsal


@dataclass(frozen=True)
class Potential(ABC):
    """Base class of potentials; concrete ones are frozen dataclasses.

    Attributes:
        cost: the terminal cost, filled in by `bind`.
        needs_rehearsal: whether `bind` wants to know the prior's moments or draws.
        uses_cost: whether a value evaluates the cost, for the count of evaluations.
    """

    cost: Any = field(default=None, init=False, repr=False)
    needs_rehearsal = False
    uses_cost = True

    def check(self, cost: Any) -> None:
        """Raise InvalidInput if this potential cannot value the cost; called before any network call."""

    def bind(self, cost: Any, event_shape: tuple[int, ...], rehearsal: Rehearsal | None) -> Self:
        """The potential of this cost; called once, when the model is built.

        Arguments:
            cost: the `TerminalCost`.
            event_shape: shape of one event.
            rehearsal: what is known of the prior, if `needs_rehearsal`.
        """
        bound = replace(self)
        object.__setattr__(bound, "cost", cost)
        return bound

    @abstractmethod
    def log_value(self, look: Look) -> Tensor:
        """log psi_t, shape (S, N), float64, finite, at a level with sigma > 0."""


@dataclass(frozen=True)
class SignalFraction:
    """Strength alpha^2 / (alpha^2 + sigma^2): 0 at pure noise, 1 at data."""

    def __call__(self, t: Level) -> float:
        return t.alpha**2 / (t.alpha**2 + t.sigma**2)


SIGNAL_FRACTION = SignalFraction()
