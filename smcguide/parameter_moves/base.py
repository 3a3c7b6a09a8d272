r"""A move of parameters leaves their law given the particle's path alone, so weights stay as they are:

    pi(theta) proportional to p(theta) psi_t(x_t; theta)

Candidates are leapfrog paths in coordinates v in which the prior has width 1. With a momentum
z ~ N(0, I) and a force g (the gradient of log pi, or nothing), L times

    z <- z + (e / 2) g(v),     v <- v + e z,     z <- z + (e / 2) g(v)

is reversible and keeps volumes whatever g is, so the library accepts with probability
min(1, pi' / pi exp((|z|^2 - |z'|^2) / 2)). No network call: the denoised estimate stays as it is. A
complete move:

    >>> from dataclasses import dataclass
    >>> from smcguide.parameter_moves import ParameterMove
    >>> @dataclass(frozen=True)
    ... class SmallStep(ParameterMove):
    ...     def size(self, n, p):
    ...         return 0.1
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from smcguide.errors import InvalidInput


@dataclass(frozen=True)
class ParameterMove(ABC):
    """Base class of moves of parameters; concrete ones are frozen dataclasses.

    Arguments:
        num_moves: candidates per visit, at least 1.
        every_step: move before every step of the run, instead of only in systems just resampled.

    Attributes:
        needs_gradient: whether candidates follow the gradient of log pi.
        num_leapfrog: L.

    Raises:
        InvalidInput: for num_moves below 1.
    """

    num_moves: int = field(default=1, kw_only=True)
    every_step: bool = field(default=False, kw_only=True)
    needs_gradient: ClassVar[bool] = False
    num_leapfrog = 1

    def __post_init__(self) -> None:
        if self.num_moves < 1 or self.num_leapfrog < 1:
            raise InvalidInput(f"{self!r}: num_moves and num_leapfrog must be at least 1.")

    @abstractmethod
    def size(self, n: int, p: int) -> float:
        """e of the n-th candidate of a visit, for p parameters; in widths of the prior, positive."""
