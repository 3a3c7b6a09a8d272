"""A diffusion prior as a Pyro distribution: draws come from its reverse chain.

A denoiser has no density of its own, so a program that only wants to be sampled or conditioned takes
`DiffusionPrior(prior).mask(False)`, whose log-density Pyro never asks for. Priors with a density
(Gaussian mixtures, data sets) are ordinary Pyro distributions without the mask.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from smcguide.priors import GaussianMixture
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    >>> def program(y):
    ...     x = pyro.sample("x", DiffusionPrior(prior).mask(False))
    ...     return pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)
    >>> pyro.poutine.trace(program).get_trace(torch.tensor(1.0)).nodes["x"]["value"].shape
    torch.Size([2])
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution, TorchDistribution, constraints
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor

from smcguide.draws import draw, rehearse
from smcguide.errors import InvalidInput, SmcguideError
from smcguide.grids import karras
from smcguide.kernels import MatchedDDPM
from smcguide.priors.base import Prior

Density = Callable[[Prior, Tensor], Tensor]


class NoDensity(SmcguideError, NotImplementedError):
    """The log-density of a diffusion prior was asked for and there is none.

    Not an `InvalidInput`: Pyro turns every ValueError of a log-density into one of its own.
    """


class DiffusionPrior(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """One event of a diffusion prior; plates around it hold independent events.

    Draws follow torch's global generator, so `pyro.set_rng_seed` governs them.

    Arguments:
        prior: any prior; it is kept in `diffusion`.
        num_steps: steps of the reverse chain of a draw.
        density: (prior, x (M, *E)) -> (M,) log-density; default the prior's own `log_prob`.
        validate_args: as in every Pyro distribution.

    Raises:
        InvalidInput: for fewer than 2 steps.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        prior: Prior,
        *,
        num_steps: int = 100,
        density: Density | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.diffusion = prior
        self._grid, self._density = karras(num_steps), density
        event = torch.Size(prior.event_shape)
        super().__init__(torch.Size(), event, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiffusionPrior":
        """The same law with `batch_shape` independent events."""
        new = copy.copy(self)
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, *E) draws from the prior's own discretised chain."""
        prior, shape = self.diffusion, self._extended_shape(torch.Size(sample_shape))
        num = shape[: len(shape) - self.event_dim].numel()
        seed = torch.randint(2**62, (), generator=torch.default_generator)
        generator = torch.Generator(prior.device).manual_seed(int(seed))
        levels = [prior.schedule.level(float(t)) for t in self._grid(prior.schedule)]
        kernel = MatchedDDPM().bind(rehearse(prior))
        return draw(prior, kernel, levels, num, generator).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of values (..., *E), differentiable where the prior's is.

        Raises:
            NoDensity: if neither the prior has one nor `density` was given.
        """
        if self._validate_args:
            self._validate_sample(value)
        events = value.reshape(-1, *self.event_shape)
        flat = self._flat_log_prob(events)
        batch = value.shape[: value.dim() - self.event_dim]
        return flat.reshape(batch).expand(torch.broadcast_shapes(batch, self.batch_shape))

    def _flat_log_prob(self, events: Tensor) -> Tensor:
        if self._density is not None:
            return self._density(self.diffusion, events)
        own, reason = getattr(self.diffusion, "log_prob", None), "it has a denoiser only."
        if own is not None:
            try:
                flat: Tensor = own(events)
                return flat
            except InvalidInput as error:  # a joint prior some of whose members have none
                reason = str(error)
        raise NoDensity(
            f"{type(self.diffusion).__name__} has no log-density: {reason} Write "
            "DiffusionPrior(prior).mask(False) at its site, so that none is asked for, or give "
            "one: DiffusionPrior(prior, density=...)."
        )


def diffusion_of(fn: object) -> Prior | None:
    """The prior inside a distribution, however masked, expanded or made an event; else None."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn.diffusion if isinstance(fn, DiffusionPrior) else None
