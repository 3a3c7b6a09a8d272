r"""A start makes the first population, at the noisiest level T, closer to p_T(x) psi_T(x).

It is handed draws of p_T and what the library offers at that level, and gives back states with
log-weights that make them properly weighted for p_T psi_T, or says that it does not (`exactness`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor

Fields = Mapping[str, Tensor]


class Noisiest(Protocol):
    """What a start may do at level T."""

    def move(
        self, move: Any, x: Tensor, fields: Fields, strength: float, generator: Generator
    ) -> tuple[Tensor, Fields, Tensor]:
        """One visit of a move that leaves p_T psi_T^strength invariant: states (S, n, *E), their fields,
        acceptance (S, n). Fields hold log_psi."""

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


class Start(ABC):
    """Base class of starts; concrete ones are frozen dataclasses.

    Attributes:
        needs_gradient: whether its moves follow gradients.
    """

    needs_gradient: bool = False

    @abstractmethod
    def begin(self, x: Tensor, fields: Fields, at: Noisiest, generator: Generator) -> Begun:
        """The first population from draws x (S, N, *E) of p_T with their fields."""
