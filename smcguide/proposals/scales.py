r"""How far a proposal goes along a gradient: the step sizes of published guidance methods.

A step is strength * weight(t, s) * size * gradient, with a size per particle:

    Constant       1
    PerResidual    s / |(y - F(D)) / s|: the gradient of |.|^2 / 2 s^2 becomes that of |y - F(D)|
                   (DPS, Chung et al., arXiv 2209.14687)
    Normalised     1 / rms(gradient) (FreeDoM, arXiv 2303.09833; MPGD, arXiv 2311.16424)
    LineSearch     the minimiser along the gradient g of -value + |u|^2 / 2 r_t^2, from one more
                   gradient: |g|^2 / (g^T H g + |g|^2 / r_t^2); the time factor is what is unknown of
                   x_0 under a standard normal prior, r_t^2 = sigma^2 / (alpha^2 + sigma^2)

The published code takes its norms over the whole batch, which couples particles; these do not.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.proposals.base import Step
from smcguide.records import Level, Look

_SMALLEST = 1e-30


def unknown_variance(t: Level) -> float:
    """r_t^2, the variance of x_0 given x_t under a standard normal prior."""
    return t.sigma**2 / (t.alpha**2 + t.sigma**2)


@dataclass(frozen=True)
class Powers:
    """The weight alpha_t^a alpha_s^b r_t^(2c) of a step t -> s.

    Arguments:
        alpha_t, alpha_s, unknown: the exponents a, b, c.
    """

    alpha_t: float = 0.0
    alpha_s: float = 0.0
    unknown: float = 0.0

    def __call__(self, t: Level, s: Level) -> float:
        signal = t.alpha**self.alpha_t * s.alpha**self.alpha_s
        return signal * unknown_variance(t) ** self.unknown


@dataclass(frozen=True)
class Scale(ABC):
    """Base class of step sizes.

    Arguments:
        strength: nonnegative; 0 switches the guidance off.
        weight: a function of the levels (t, s), e.g. `Powers`; None for 1.

    Raises:
        InvalidInput: for a negative strength.
    """

    strength: float = 1.0
    weight: Callable[[Level, Level], float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise InvalidInput(f"{self!r}: strength must be a nonnegative number.")

    def check(self, cost: Any) -> None:
        """Raise InvalidInput if this size cannot be computed for the cost."""

    def bind(self, cost: Any) -> Self:
        """The size for this cost; called once."""
        return self

    def step(
        self, look: Look, step: Step, slope: Tensor, ahead: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The step (S, N, *E) along `slope`; ahead(u) is the slope after a move by u."""
        weight = self.strength * (1.0 if self.weight is None else self.weight(step.t, step.s))
        size = self.size(look, slope, ahead)
        if isinstance(size, Tensor):
            size = size.to(slope.dtype).reshape(*size.shape, *[1] * (slope.ndim - size.ndim))
        length = weight * size
        return slope if isinstance(length, float) and length == 1 else length * slope

    @abstractmethod
    def size(
        self, look: Look, slope: Tensor, ahead: Callable[[Tensor], Tensor]
    ) -> float | Tensor:
        """A number, or one per particle (S, N)."""


@dataclass(frozen=True)
class Constant(Scale):
    """The gradient as it is."""

    def size(self, look: Look, slope: Tensor, ahead: Callable[[Tensor], Tensor]) -> float:
        return 1.0


@dataclass(frozen=True)
class PerResidual(Scale):
    """For the gradient of a Gaussian log-likelihood: that of the distance |y - F(D)| instead, in the
    units of y. Where the noise differs between entries, of the weighted distance."""

    _likelihoods: tuple[Any, ...] = field(default=(), init=False, repr=False)

    def check(self, cost: Any) -> None:
        if not [c for c in cost.parts() if hasattr(c, "residual")]:
            raise InvalidInput(
                f"{self!r} divides by the distance to y, which the cost {cost!r} does not have. Use a "
                "number as scale, or a LinearGaussian or GaussianLikelihood cost."
            )

    def bind(self, cost: Any) -> Self:
        bound = replace(self)
        likelihoods = tuple(c for c in cost.parts() if hasattr(c, "residual"))
        object.__setattr__(bound, "_likelihoods", likelihoods)
        return bound

    def size(self, look: Look, slope: Tensor, ahead: Callable[[Tensor], Tensor]) -> Tensor:
        residual = torch.cat([c.residual(look.x0_hat) for c in self._likelihoods], -1)
        std = torch.cat([c.std for c in self._likelihoods]).square().mean().sqrt()
        return std / residual.norm(dim=-1).clamp(min=_SMALLEST)


@dataclass(frozen=True)
class Normalised(Scale):
    """A step whose root mean square over the event is the strength."""

    def size(self, look: Look, slope: Tensor, ahead: Callable[[Tensor], Tensor]) -> Tensor:
        return slope.flatten(2).square().mean(-1).sqrt().clamp(min=_SMALLEST).reciprocal()


@dataclass(frozen=True)
class LineSearch(Scale):
    """The minimiser along the gradient; needs no tuning, and one more gradient.

    The curvature is a secant over the distance r_t sqrt(d), the scale of what is still unknown, and
    is taken as 0 where it is negative.
    """

    def size(self, look: Look, slope: Tensor, ahead: Callable[[Tensor], Tensor]) -> Tensor:
        g = slope.flatten(2)
        square = g.square().sum(-1).clamp(min=_SMALLEST)
        unknown = unknown_variance(look.t)
        reach = (unknown * g.shape[-1] / square).sqrt()
        moved = ahead(reach.reshape(*reach.shape, *[1] * (slope.ndim - 2)) * slope).flatten(2)
        curvature = ((g * (g - moved)).sum(-1) / reach).clamp(min=0)
        return square / (curvature + square / unknown)


def as_scale(scale: float | Scale) -> Scale:
    """A number as a `Constant`."""
    return scale if isinstance(scale, Scale) else Constant(float(scale))
