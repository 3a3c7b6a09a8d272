"""Several proposals after each other: each begins with the Gaussian that the one before it left.

Shifts add up (forward and backward Universal Guidance), and a last part may replace what the others did
(MCG: a gradient step, then the measured coordinates). All of it happens before the noise is drawn.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal, Step
from smcguide.records import Look


@dataclass(frozen=True)
class Combined(Proposal):
    """One proposal after the other.

    Arguments:
        parts: at least two proposals; at most one of them may keep memory.

    Raises:
        InvalidInput: for fewer than two parts, what is no proposal, two parts that keep memory.
    """

    parts: tuple[Proposal, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or not all(isinstance(p, Proposal) for p in self.parts):
            raise InvalidInput(f"{self!r}: parts must be a tuple of at least two proposals.")
        if sum(p.remembers for p in self.parts) > 1:
            raise InvalidInput(f"{self!r}: only one part may keep memory from step to step.")

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return any(p.remembers for p in self.parts)

    @property
    def is_guided(self) -> bool:  # type: ignore[override]
        return any(p.is_guided for p in self.parts)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return any(p.needs_gradient for p in self.parts)

    @property
    def shared_guide(self) -> Any:
        """The first part's that has one; the others ask for their own gradients."""
        return next((p.shared_guide for p in self.parts if p.shared_guide is not None), None)

    @property
    def needs_cost_gradient(self) -> bool:  # type: ignore[override]
        return any(p.needs_cost_gradient for p in self.parts)

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return any(p.needs_rehearsal for p in self.parts)

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return max(p.num_draws for p in self.parts)

    def check(self, cost: Any, potential: Any) -> None:
        for part in self.parts:
            part.check(cost, potential)

    def bind(self, problem: Problem) -> Self:
        return replace(self, parts=tuple(p.bind(problem) for p in self.parts))

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        q, memories = replace(base, memory=None), []
        for part in self.parts:
            shares = part.shared_guide is self.shared_guide
            here = look if shares else replace(look, guide_grad=None)
            q = part.propose(replace(q, memory=None), here, step)
            memories += [] if q.memory is None else [q.memory]
        return replace(q, memory=memories[0] if memories else None)
