r"""Unknown parameters theta of a cost, with a prior: a noise level, a blur kernel, a calibration.

    p(x_0, theta) proportional to p(x_0) p(theta) exp(-C(x_0; theta))

theta lives on R^p: an author maps every parameter there (its logarithm, a stick-breaking, ...) and gives
the density of the image, the Jacobian included.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, biject_to

from smcguide.errors import InvalidInput
from smcguide.randomness import seeded

_QUARTILES = 1.349  # their distance for a normal law, in standard deviations


class Parameters(ABC):
    """A prior of parameters on R^p.

    Attributes:
        size: p, at least 1.
        num_scale_draws: draws of the prior by which its width is known.
    """

    size: int
    num_scale_draws = 2000

    @abstractmethod
    def draw(self, num: int, generator: Generator) -> Tensor:
        """(num, p) float64 draws."""

    @abstractmethod
    def log_prob(self, theta: Tensor) -> Tensor:
        """Normalised log-density (M,) of theta (M, p), differentiable."""

    def constrain(self, theta: Tensor) -> dict[str, Tensor]:
        """theta (M, p) as users know it, name -> (M, *shape)."""
        return {"theta": theta}

    @cached_property
    def scales(self) -> Tensor:
        """(p,) half the width of the prior; a robust standard deviation, the unit of moves."""
        draws = self.draw(self.num_scale_draws, Generator().manual_seed(0))
        quartiles = torch.quantile(draws, draws.new_tensor([0.25, 0.75]), 0)
        return (quartiles[1] - quartiles[0]) / _QUARTILES


class Independent(Parameters):
    """Independent parameters with a distribution each, unconstrained by torch's own bijections.

    Arguments:
        priors: name -> a continuous `torch.distributions.Distribution`, on the CPU.

    Raises:
        InvalidInput: for none, for anything else, and for discrete distributions.
    """

    def __init__(self, priors: Mapping[str, Distribution]) -> None:
        if not priors:
            raise InvalidInput("Independent: no parameters given.")
        for name, prior in priors.items():
            support = prior.support if isinstance(prior, Distribution) else None
            if support is None or support.is_discrete:
                raise InvalidInput(
                    f"The prior of {name!r} is {prior!r}; expected a continuous torch distribution, e.g. "
                    "torch.distributions.LogNormal(0.0, 1.0). Sum discrete parameters out in the cost."
                )
            try:
                biject_to(support)
            except NotImplementedError as error:
                raise InvalidInput(
                    f"The prior of {name!r} is {prior!r}; torch has no bijection from R^p to its "
                    "support. Take another prior, or write a smcguide.Parameters of your own."
                ) from error
        self.priors = dict(priors)
        with seeded(Generator().manual_seed(0)):
            self._examples = {name: prior.sample() for name, prior in priors.items()}
        self._shapes = {n: self._bijection(n).inv(a).shape for n, a in self._examples.items()}
        self.size = sum(shape.numel() for shape in self._shapes.values())
        if self.size < 1:
            raise InvalidInput(f"Independent: the priors {self.priors!r} have no coordinates.")

    def _bijection(self, name: str) -> torch.distributions.transforms.Transform:
        return biject_to(self.priors[name].support)

    def draw(self, num: int, generator: Generator) -> Tensor:
        with seeded(generator):
            draws = {name: prior.sample((num,)).double() for name, prior in self.priors.items()}
        free = [self._bijection(name).inv(a).reshape(num, -1) for name, a in draws.items()]
        return torch.cat(free, -1).to(generator.device)

    def _parts(self, theta: Tensor) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), theta.split(sizes, -1), strict=True)
        return {name: a.reshape(len(theta), *shape) for (name, shape), a in parts}

    def log_prob(self, theta: Tensor) -> Tensor:
        total = theta.new_zeros(len(theta))
        for name, free in self._parts(theta).items():
            bijection, prior = self._bijection(name), self.priors[name]
            value = bijection(free)
            support: Any = prior.support
            inside = support.check(value)  # but for rounding at an edge
            wide = inside.reshape(*inside.shape, *[1] * (value.ndim - inside.ndim))
            known = prior.log_prob(torch.where(wide, value, self._examples[name].to(value)))
            terms = (
                torch.where(inside, known, -torch.inf),
                bijection.log_abs_det_jacobian(free, value),
            )
            total = total + sum(term.reshape(len(theta), -1).sum(-1) for term in terms)
        return total

    def constrain(self, theta: Tensor) -> dict[str, Tensor]:
        return {name: self._bijection(name)(free) for name, free in self._parts(theta).items()}

    def __repr__(self) -> str:
        return f"Independent({self.priors!r})"
