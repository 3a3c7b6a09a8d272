"""A diffusion prior as a NumPyro distribution over one event.

It is drawn from by the prior's own reverse chain. Its log-density is that of the prior where the prior
has one; inference with smcguide never asks for it, and `DiffusionPrior(prior).mask(False)` tells other
algorithms not to. Both are torch code called back from JAX, under jit and vmap like any other
distribution; the gradient of the log-density is torch's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import torch
from numpyro.distributions import constraints

from smcguide.bridges.numpyro.callbacks import Density, Draw, Source, log_density, struct
from smcguide.errors import InvalidInput
from smcguide.grids import karras
from smcguide.priors.base import Prior


class DiffusionPrior(dist.Distribution):  # type: ignore[misc, unused-ignore]
    """A diffusion prior as a distribution over one event, for `numpyro.sample`.

    Draw many events in one call (a sample_shape, a plate): they go through the network together, while
    vmap over keys draws one after the other so that it gives what the keys give one by one.

    Arguments:
        prior: any prior of smcguide, on any device.
        num_steps: steps of the chain that draws.
        density: called as density(prior, x) with x (M, *E), the log-density (M,) in torch, used
            instead of the prior's own; for NUTS and other algorithms that ask for `log_prob`.
        validate_args: as for every NumPyro distribution.

    Attributes:
        diffusion: the prior.

    Raises:
        InvalidInput: for something that is no prior, for fewer than 2 steps.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    pytree_aux_fields = ("source",)
    has_rsample = False

    def __init__(
        self,
        prior: Prior,
        *,
        num_steps: int = 100,
        density: Density | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(prior, Prior):
            raise InvalidInput(
                f"DiffusionPrior: expected a smcguide prior, got {type(prior).__name__}."
            )
        self.source = Source(prior, karras(num_steps), density)
        super().__init__((), tuple(prior.event_shape), validate_args=validate_args)

    @property
    def diffusion(self) -> Prior:
        return self.source.prior

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """(*sample_shape, *E) draws, of the prior's dtype where JAX allows it.

        Raises:
            InvalidInput: without a key.
        """
        if key is None:
            raise InvalidInput(
                "DiffusionPrior: a draw needs a key; run the model inside numpyro.handlers.seed."
            )
        wide = self.diffusion.dtype == torch.float64
        dtype = jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)
        words = jax.random.bits(key, (2,), jnp.uint32)
        shape = struct((*sample_shape, *self.event_shape), dtype)
        call = Draw(self.source, tuple(sample_shape), dtype)
        return jax.pure_callback(call, shape, words, vmap_method="sequential")

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log-density (...) of events (..., *E), differentiable once.

        Raises:
            InvalidInput: for a prior without density, for events of another shape.
        """
        source, k = self.source, len(self.event_shape)
        if source.density is None and not hasattr(source.prior, "log_prob"):
            raise InvalidInput(
                f"DiffusionPrior: {type(source.prior).__name__} has no log-density. Inference that does "
                "not need it, with smcguide above all, is told so by "
                "numpyro.sample(name, DiffusionPrior(prior).mask(False)); otherwise give one: "
                "DiffusionPrior(prior, density=...)."
            )
        x = jnp.asarray(value)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        if x.shape[x.ndim - k :] != self.event_shape:
            raise InvalidInput(
                f"DiffusionPrior: a value of shape {x.shape}; events have shape {self.event_shape}."
            )
        return log_density(source, x)


def diffusion_of(fn: dist.Distribution) -> Prior | None:
    """The prior of a DiffusionPrior, also of an expanded, masked or `to_event` one; None of others."""
    wrappers = (dist.ExpandedDistribution, dist.MaskedDistribution, dist.Independent)
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn.diffusion if isinstance(fn, DiffusionPrior) else None
