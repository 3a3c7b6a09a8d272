"""The sites of a Pyro program, sorted into x, theta, j and y of `bridges.program`.

Continuous latents become theta through torch's `biject_to`, as in Pyro's own HMC; discrete latents
become a table of all their joint values.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.distributions import Transform

from smcguide.bridges.program import PriorSite

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Latent(ABC):
    """A latent other than x, with the shape and dtype of its values.

    Attributes:
        size: length of its block of theta or of the choice.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def is_like(self, other: "Latent") -> bool:
        """Same values are possible."""


@dataclass(frozen=True)
class Parameter(Latent):
    """A continuous latent; `transform` leads to its values from unconstrained ones, shape `free`."""

    transform: Transform
    free: torch.Size

    @property
    def size(self) -> int:
        return self.free.numel()

    def is_like(self, other: Latent) -> bool:
        if not isinstance(other, Parameter) or other.free != self.free:
            return False
        u = torch.linspace(-1, 1, self.size, dtype=self.dtype).reshape(self.free)
        return torch.allclose(self.transform(u), other.transform(u))

    def constrain(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (M, *shape) of u (M, size), and log |det J| (M,) float64."""
        u = u.to(self.dtype).reshape(-1, *self.free)
        value = self.transform(u)
        log_det = self.transform.log_abs_det_jacobian(u, value)
        return value, log_det.double().reshape(len(u), -1).sum(1)

    def unconstrain(self, value: Tensor) -> Tensor:
        """(M, size) float64 of values (M, *shape)."""
        return self.transform.inv(value).reshape(len(value), -1).double()


@dataclass(frozen=True)
class Choice(Latent):
    """A discrete latent; each of its elements takes one of the values `support` (n, *event)."""

    support: Tensor

    @property
    def size(self) -> int:
        return self.shape.numel()

    def is_like(self, other: Latent) -> bool:
        if not isinstance(other, Choice) or other.shape != self.shape:
            return False
        return torch.equal(self.support, other.support)

    @property
    def elements(self) -> int:
        return self.size // self.support[0].numel()

    @property
    def num_values(self) -> int:
        return int(len(self.support) ** self.elements)

    def table(self) -> Tensor:
        """(num_values, size) float64, every value of all elements."""
        index = torch.tensor(list(product(range(len(self.support)), repeat=self.elements)))
        return self.support.double()[index].reshape(self.num_values, -1)


@dataclass(frozen=True)
class Sites:
    """What a program consists of; `observed` is without factors."""

    priors: dict[str, PriorSite]
    parameters: tuple[Parameter, ...]
    choices: tuple[Choice, ...]
    observed: Values

    @property
    def others(self) -> tuple[Latent, ...]:
        """All latents but x."""
        return (*self.parameters, *self.choices)

    @property
    def size(self) -> int:
        """Dimension of theta."""
        return sum(p.size for p in self.parameters)

    def table(self) -> Tensor:
        """(J, q) float64, every joint value of the discrete latents; (1, 0) without any."""
        start = torch.zeros(0, dtype=torch.float64)
        rows = product(*(c.table() for c in self.choices))
        return torch.stack([torch.cat([start, *row]) for row in rows])

    def constrain(self, theta: Tensor, choice: Tensor) -> tuple[Values, Tensor]:
        """Values of all latents but x, (M, *shape) each, and log |det J| (M,) of theta's."""
        values: Values = {}
        log_det = torch.zeros(len(theta), dtype=torch.float64)
        blocks = theta.split([p.size for p in self.parameters] or [0], 1)
        for p, u in zip(self.parameters, blocks, strict=False):
            values[p.name], term = p.constrain(u)
            log_det = log_det + term
        blocks = choice.split([c.size for c in self.choices] or [0], 1)
        for c, v in zip(self.choices, blocks, strict=False):
            values[c.name] = v.to(c.dtype).reshape(-1, *c.shape)
        return values, log_det
