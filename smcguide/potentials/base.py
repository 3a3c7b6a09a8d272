"""A potential is a value log psi_t(x_t): the author's guess of log E[exp(-C(x_0)) | x_t].

Any positive function is legal: the library divides psi_t out again, so a bad guess costs variance and
never exactness. At the last level the library uses -C itself. A value is a differentiable function of
the look (x, x0_hat, t); row i depends on particle i only. A cost may have parameters, another theta for
each particle, None without any. A complete potential:

    >>> from dataclasses import dataclass
    >>> from smcguide.potentials import Potential
    >>> @dataclass(frozen=True)
    ... class Timid(Potential):
    ...     def log_value(self, look):
    ...         return -0.1 * self.cost.at(look.theta)(look.x0_hat)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from smcguide.problem import Problem
from smcguide.records import Level, Look


@dataclass(frozen=True)
class Potential(ABC):
    """Base class of potentials; concrete ones are frozen dataclasses.

    Attributes:
        cost: the terminal cost, filled in by `bind`.
        needs_rehearsal: whether `bind` wants to know the prior's moments or draws.
        uses_cost: how many evaluations of the cost a value takes.
        needs_jacobian: whether a value uses `look.vjp`.
        needs_cost_gradient: whether a value follows the gradient of the cost.
        has_gradient: False if autograd must not be asked for the derivative of a value.
        is_markov: False if a value depends on the particle's past through `look.memory`.
        num_draws: how many standard normal events per particle `look.noise` must hold.
        adaptive_cess: the conditional ESS, as a fraction, at which the library chooses the value's
            strength from the population; None for none of that.
    """

    cost: Any = field(default=None, init=False, repr=False)
    needs_rehearsal = False
    uses_cost = 1
    needs_jacobian = False
    needs_cost_gradient = False
    has_gradient = True
    is_markov = True
    num_draws = 0
    adaptive_cess: ClassVar[float | None] = None

    def check(self, cost: Any) -> None:
        """Raise InvalidInput if this potential cannot value the cost; called before any network call."""

    def bind(self, problem: Problem) -> Self:
        """The potential of this problem; called once, when the model is built."""
        bound = replace(self)
        object.__setattr__(bound, "cost", problem.cost)
        return bound

    @abstractmethod
    def log_value(self, look: Look) -> Tensor:
        """log psi_t, shape (S, N), float64, finite, at a level with sigma > 0."""

    def evaluate(self, look: Look) -> tuple[Tensor, Tensor | None]:
        """`log_value`, and what a path-dependent potential wants back as `look.memory` at the next
        level, (S, N, ...). The library calls this; most potentials write `log_value` only."""
        return self.log_value(look), None


@dataclass(frozen=True)
class SignalFraction:
    """Strength alpha^2 / (alpha^2 + sigma^2): 0 at pure noise, 1 at data."""

    def __call__(self, t: Level) -> float:
        return t.alpha**2 / (t.alpha**2 + t.sigma**2)


SIGNAL_FRACTION = SignalFraction()
Strength = float | Callable[[Level], float]


def strength_at(strength: Strength, t: Level) -> float:
    """A strength that is a number, or a function of the level."""
    return strength(t) if callable(strength) else strength


def tweedie(costs: Iterable[Any], look: Look) -> Tensor | float:
    """Minus the costs at the denoised estimate, with the default strength; 0 for none. What a potential
    makes of summands that it is not made for."""
    values = (c.at(look.theta)(look.x0_hat).double() for c in costs)
    return -SIGNAL_FRACTION(look.t) * sum(values, 0.0)
