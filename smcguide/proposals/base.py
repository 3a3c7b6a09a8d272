"""A proposal replaces the base kernel of one step by another Gaussian.

It may use the base kernel, what the last network call taught (`look`), and the `step`, which answers
noise-free questions about other states. It never samples and never weighs: the library draws the
noise and divides the densities, so any proposal leaves the answer exact. It must be a function of
each particle's own past: sums over particles in a loss are fine, means and shared norms are not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

from torch import Tensor

from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.schedules import Schedule

Linearised = tuple[Tensor, Callable[[Tensor], Tensor]]


class Step(Protocol):
    """What a proposal may ask about the step t -> s for a chunk of particles."""

    @property
    def t(self) -> Level:
        """The level left."""

    @property
    def s(self) -> Level:
        """The level entered."""

    @property
    def memory(self) -> Tensor | None:
        """The `memory` of this proposal's previous Gaussian for these particles, or None."""

    @property
    def progress(self) -> float:
        """Fraction of the run's steps already taken, in [0, 1)."""

    @property
    def schedule(self) -> Schedule:
        """The prior's noise schedule."""

    @property
    def potential(self) -> Any:
        """The model's potential."""

    def denoise(self, x: Tensor) -> Tensor:
        """One network call at (x, t): E[x_0 | x_t = x]."""

    def denoise_at(self, x: Tensor, t: Level) -> Tensor:
        """One network call at another level."""

    def look_at(self, x: Tensor, guide: Any = None) -> Look:
        """One network call at (x, t): the look, with the potential's value (or the guide's)."""

    def base_of(self, x: Tensor, x0_hat: Tensor) -> Gaussian:
        """The base kernel for states x whose denoised estimate is x0_hat; no network call."""

    def base_at(self, x: Tensor) -> Gaussian:
        """The base kernel at x, one network call."""

    def cost(self, x0: Tensor) -> Tensor:
        """The terminal cost (S, N) of events x0."""

    def gradient(self, f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """Gradient of the sum over particles of f(u), f: (S, N, *E) -> (S, N)."""

    def linearise(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Linearised:
        """f(x) and the map v -> (df/dx)^T v."""


class Proposal(ABC):
    """Base class of proposals; concrete ones are frozen dataclasses.

    Attributes:
        is_guided: False only if the proposal always returns the base kernel.
        needs_gradient: whether `look.grad` is wanted.
        shared_guide: a potential besides the model's own whose gradient the look-ahead takes in passing,
            as `look.guide_grad`, where it can; None for none.
        needs_cost_gradient: whether the cost must be one that autograd can follow.
        needs_rehearsal: whether `bind` wants to know the prior's moments or draws.
        num_draws: how many standard normal events per particle `look.noise` must hold.
        remembers: whether its Gaussians carry a memory for the next step.
    """

    is_guided: bool = True
    needs_gradient: bool = False
    shared_guide: Any = None
    needs_cost_gradient: bool = True
    needs_rehearsal: bool = False
    num_draws: int = 0
    remembers: bool = False

    def check(self, cost: Any, potential: Any) -> None:
        """Raise InvalidInput if this proposal cannot work with them; called before any network call."""

    def bind(self, problem: Problem) -> Self:
        """The proposal for this problem; called once. Proposals with a potential of their own bind it."""
        return self

    @abstractmethod
    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        """q(x_s | x_t), a Gaussian with the base's event shape."""
