r"""A potential to a power, psi_t = inner_t^l_t: a guess is trusted less where it is over-confident.

The strength l_t is a number, a function of the level, or chosen during the run by the library so that a
step's conditional ESS stays at a given fraction: as fast as the population can follow. An adaptive choice
looks at all particles: Z is consistent, no longer unbiased. `freeze` makes a schedule of it.

References: Jasra et al. (2011); Zhou, Johansen, Aston (arXiv 1303.3123).
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import EXACT, LIMIT, worst
from smcguide.potentials.base import Potential, Strength, strength_at
from smcguide.problem import Problem
from smcguide.records import Look


@dataclass(frozen=True)
class Adaptive:
    """The largest strength up to 1 for which the conditional ESS stays at `cess` N, cess in (0, 1).

    Meant for unguided proposals: a guided one evens out the weights of a step, and an over-confident
    value passes unnoticed.
    """

    cess: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.cess < 1:
            raise InvalidInput(f"{self!r}: cess must be in (0, 1).")


@dataclass(frozen=True)
class Tempered(Potential):
    """Another potential with a strength.

    Arguments:
        inner: the potential.
        strength: l, a number, a function of the level, or Adaptive(cess).

    Raises:
        InvalidInput: for a strength that is none, for an inner that is no potential, or adaptive.
    """

    inner: Potential
    strength: Strength | Adaptive = Adaptive()

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Potential) or self.inner.adaptive_cess is not None:
            raise InvalidInput(
                f"{self!r}: inner must be a potential that is not adaptively tempered itself."
            )
        known = isinstance(self.strength, Adaptive) or callable(self.strength)
        if not known and not 0 <= self.strength < math.inf:  # type: ignore[operator]
            raise InvalidInput(
                f"{self!r}: strength must be a number of at least 0, a function of the level, or "
                "potentials.Adaptive(cess)."
            )

    @property
    def adaptive_cess(self) -> float | None:  # type: ignore[override]
        return self.strength.cess if isinstance(self.strength, Adaptive) else None

    @property
    def exactness(self) -> str:
        own = EXACT if self.adaptive_cess is None else LIMIT
        return worst([own, getattr(self.inner, "exactness", EXACT)])

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.inner.needs_rehearsal

    @property
    def uses_cost(self) -> int:  # type: ignore[override]
        return self.inner.uses_cost

    @property
    def needs_jacobian(self) -> bool:  # type: ignore[override]
        return self.inner.needs_jacobian

    @property
    def needs_cost_gradient(self) -> bool:  # type: ignore[override]
        return self.inner.needs_cost_gradient

    @property
    def has_gradient(self) -> bool:  # type: ignore[override]
        return self.inner.has_gradient

    @property
    def is_markov(self) -> bool:  # type: ignore[override]
        return self.inner.is_markov

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return self.inner.num_draws

    def check(self, cost: Any) -> None:
        self.inner.check(cost)

    def bind(self, problem: Problem) -> Self:
        bound = super().bind(problem)
        object.__setattr__(bound, "inner", self.inner.bind(problem))
        return bound

    def log_value(self, look: Look) -> Tensor:
        return self.evaluate(look)[0]

    def evaluate(self, look: Look) -> tuple[Tensor, Tensor | None]:
        """l log inner, at unit strength where the library has yet to choose; the inner's memory."""
        value, memory = self.inner.evaluate(look)
        if isinstance(self.strength, Adaptive):
            return value if look.strength is None else look.strength * value, memory
        strength = strength_at(self.strength, look.t)
        # a strength of 0 says nothing, of impossible events too
        return torch.zeros_like(value) if strength == 0 else strength * value, memory
