r"""A start makes the first population, at the noisiest level T, closer to p_T(x) psi_T(x).

It is handed draws of p_T and what the library offers at that level, and gives back states with
log-weights that make them properly weighted for p_T psi_T, or says that it does not (`exactness`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.records import Level

Fields = Mapping[str, Tensor]


class Noisiest(Protocol):
    """What a start may do at level T."""

    def move(
        self, move: Any, x: Tensor, fields: Fields, strength: float, generator: Generator
    ) -> tuple[Tensor, Fields, Tensor]:
        """One visit of a move that leaves p_T psi_T^strength invariant: states (S, n, *E), their fields,
        acceptance (S, n). Fields hold log_psi, that of strength 1."""

    def take(self, fields: Fields, ancestors: Tensor) -> Fields:
        """Gather fields (S, n, ...) by ancestors (S, m)."""


@dataclass(frozen=True)
class Begun:
    """What a start gives back.

    Attributes:
        x: (S, N, *E) states.
        fields: what came with them.
        log_w: (S, N) log-weights.
        eve: (S, N) which of the initial draws each descends from.
        acceptance: (S, N) of its moves.
    """

    x: Tensor
    fields: Fields
    log_w: Tensor
    eve: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class Start(ABC):
    """Base class of starts; concrete ones are frozen dataclasses.

    Arguments:
        move: what moves the states, an object of `smcguide.moves`; its `num_moves` count, its
            `every_step` does not matter.

    Raises:
        InvalidInput: for anything else, and for a waste_free move.
    """

    move: Any

    def __post_init__(self) -> None:
        is_move = hasattr(self.move, "coefficients") and not isinstance(self.move, type)
        if not is_move or self.move.waste_free:
            raise InvalidInput(
                f"{type(self).__name__}: move must be one of smcguide.moves without waste_free, e.g. "
                f"PCN(beta=0.5); got {self.move!r}."
            )

    @property
    def needs_gradient(self) -> bool:
        """Whether its moves follow gradients."""
        return bool(self.move.needs_gradient)

    def check(self, potential: Any, levels: Sequence[Level]) -> None:
        """Raise InvalidInput if this start cannot work with a potential; called before any network
        call."""
        if potential.adaptive_cess is not None:
            raise InvalidInput(
                f"{self!r} needs to know psi_T, but the strength of {potential!r} is chosen from the "
                "population that the start makes. Leave the start out, or give the strengths."
            )
        self.move.check(potential, levels)

    @abstractmethod
    def begin(self, x: Tensor, fields: Fields, at: Noisiest, generator: Generator) -> Begun:
        """The first population from draws x (S, N, *E) of p_T with their fields."""
