"""A terminal cost C(x_0): the posterior is p(x_0) exp(-C(x_0)) / Z.

Any plain function on flat batches, (M, *E) -> (M,), is a cost. Objects derive from `TerminalCost`
and see systems and particles, (S, N, *E) -> (S, N). Likelihoods include their normalising constants,
so that Z is the evidence p(y). +inf is allowed (a hard constraint); NaN is not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.parameters import Parameters


class TerminalCost(ABC):
    """Base class of terminal costs.

    Attributes:
        num_systems: S where the cost has one observation per system, else None.
        parameters: unknown parameters of the cost and their prior (`ParametricCost`), else None.
    """

    num_systems: int | None = None
    parameters: Parameters | None = None

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """C(x_0), shape (S, N), for x0 of shape (S, N, *E)."""

    def parts(self) -> tuple["TerminalCost", ...]:
        """The summands, for potentials that treat them differently."""
        return (self,)

    def at(self, theta: Tensor | None) -> "TerminalCost":
        """The cost of particles with parameters theta (S, N, p); itself without parameters."""
        return self

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        """Raise InvalidInput if the cost does not fit events of this shape; `like` has their dtype
        and device. Called once, before the first network call."""

    def to(self, device: torch.device) -> "TerminalCost":
        """The same cost on another device."""
        return self

    def __add__(self, other: "TerminalCost | Callable[[Tensor], Tensor]") -> "SumCost":
        return SumCost(self.parts() + as_cost(other).parts())


class FunctionCost(TerminalCost):
    """A plain function (M, *E) -> (M,) as a cost."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x0: Tensor) -> Tensor:
        return flat_values(self.function, x0, self)

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def flat_values(function: Callable[[Tensor], Tensor], x0: Tensor, who: Any) -> Tensor:
    """The values (S, N) of a function on flat batches, for x0 (S, N, *E).

    Raises:
        InvalidInput: naming `who`, unless the function returns one number per event.
    """
    flat = x0.flatten(0, 1)
    values = function(flat)
    if not isinstance(values, Tensor) or values.shape != (len(flat),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidInput(
            f"The cost function {who!r} was given a batch of shape {tuple(flat.shape)} and returned "
            f"{got}; it must return one number per event, a tensor ({len(flat)},)."
        )
    return values.reshape(x0.shape[:2])


class SumCost(TerminalCost):
    """Sum of costs, e.g. of two likelihoods, or of a likelihood and a penalty."""

    def __init__(self, summands: tuple[TerminalCost, ...]) -> None:
        sizes = {c.num_systems for c in summands if c.num_systems is not None}
        if len(sizes) > 1:
            raise InvalidInput(f"Sum of costs with different numbers of systems: {sorted(sizes)}.")
        unknown = [c.parameters for c in summands if c.parameters is not None]
        if len({id(p) for p in unknown}) > 1:
            raise InvalidInput("Sum of two costs with unknown parameters: write one for both.")
        self.summands = summands
        self.num_systems = sizes.pop() if sizes else None
        self.parameters = unknown[0] if unknown else None

    def __call__(self, x0: Tensor) -> Tensor:
        return torch.stack([c(x0).double() for c in self.summands]).sum(0)

    def parts(self) -> tuple[TerminalCost, ...]:
        return self.summands

    def at(self, theta: Tensor | None) -> "SumCost":
        return SumCost(tuple(c.at(theta) for c in self.summands))

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        for c in self.summands:
            c.check(event_shape, like)

    def to(self, device: torch.device) -> "SumCost":
        return SumCost(tuple(c.to(device) for c in self.summands))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.summands))


def as_cost(cost: TerminalCost | Callable[[Tensor], Tensor]) -> TerminalCost:
    """A `TerminalCost` as it is; a plain function wrapped.

    Raises:
        InvalidInput: for anything that is neither.
    """
    if isinstance(cost, TerminalCost):
        return cost
    if not callable(cost):
        raise InvalidInput(
            f"cost: got {type(cost).__name__}; expected a TerminalCost or a function (M, *E) -> (M,)."
        )
    return FunctionCost(cost)
