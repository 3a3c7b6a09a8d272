r"""A probabilistic program as inference sees it: diffusion latents x, unknown parameters, observations.

    p(x) p(theta) p(j | x, theta) p(y | x, theta, j)

x are the sites with a diffusion prior, theta in R^p all continuous latents on unconstrained space, j the
discrete latents, which have finitely many joint values. One class per language implements it; what is
done with it is written once, in `inference`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smcguide.priors.base import Prior


@dataclass(frozen=True)
class PriorSite:
    """A site with a diffusion prior.

    Attributes:
        prior: of one event; None where the program has another distribution there as a placeholder.
        batch_shape: of the plates around the site, all independent.
        event_shape: of one event.
    """

    prior: Prior | None
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the site's value."""
        return self.batch_shape + self.event_shape


class LogProbs(NamedTuple):
    """Log-densities of M particles, (M,) float64 each.

    Attributes:
        parameters: log p(theta) on unconstrained space, the Jacobian included; unconditional.
        choice: log p(j | x, theta).
        observed: log p(y | x, theta, j) of all observed sites and factors, constants included.
    """

    parameters: Tensor
    choice: Tensor
    observed: Tensor


class Program(ABC):
    """A model with its data. Functions are batched over M particles, tensors are torch's, on one device:

        x       name of a prior site -> (M, *shape), of the prior's dtype
        theta   (M, p) float64
        choice  (M, q) float64, the values of all discrete latents, flattened and concatenated

    Attributes:
        priors: the sites with a diffusion prior, in the program's order.
        size: p.
        choices: (J, q) float64, every joint value of the discrete latents; (1, 0) without any.
        observed: the data, site -> tensor; without factors.
        example: one value of each prior site.
        loop_reason: why particles are evaluated one after the other; None where they are batched.
    """

    priors: Mapping[str, PriorSite]
    size: int
    choices: Tensor
    observed: Mapping[str, Tensor]
    example: Mapping[str, Tensor]
    loop_reason: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the program is evaluated."""
        return next(iter(self.example.values())).device

    @abstractmethod
    def log_probs(self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor) -> LogProbs:
        """Differentiable in x and theta."""

    @abstractmethod
    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """(num, p) draws of theta from its prior."""

    @abstractmethod
    def constrain(self, theta: Tensor, choice: Tensor) -> dict[str, Tensor]:
        """All latents but x in the program's own space, name -> (M, *shape)."""

    @abstractmethod
    def pointwise(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, Tensor]:
        """Log-likelihood of each entry of each observed site, name -> (M, *batch_shape)."""

    def normals(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Mean and standard deviation of each entry of each observed site, name -> two (M, *shape), where
        all of them are plain normals and there is no factor; None for other programs."""
        return None

    @abstractmethod
    def simulate(
        self,
        x: Mapping[str, Tensor],
        theta: Tensor,
        choice: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """New data for each particle, name of an observed site -> (M, *shape)."""
