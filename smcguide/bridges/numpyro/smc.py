"""`SMC` for NumPyro programs, with the names of NumPyro's `NestedSampler`, and their observations as a
terminal cost.

    >>> import jax.numpy as jnp, numpyro, torch
    >>> import numpyro.distributions as dist
    >>> from jax import random
    >>> from smcguide.bridges.numpyro import SMC, DiffusionPrior
    >>> from smcguide.priors import GaussianMixture
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    >>> def program(y):
    ...     x = numpyro.sample("x", DiffusionPrior(prior))
    ...     sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    ...     numpyro.sample("y", dist.Normal(x, sigma).to_event(1), obs=y)
    >>> smc = SMC(program, num_particles=64, num_steps=10)
    >>> smc.run(random.key(0), jnp.array([0.3, -1.0]))
    >>> {name: a.shape for name, a in smc.get_samples(random.key(1), 100).items()}
    {'x': (100, 2), 'sigma': (100,)}
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from torch import Tensor

from smcguide.bridges.inference import Inference
from smcguide.bridges.latents import standalone_cost
from smcguide.bridges.numpyro.program import NumPyroProgram
from smcguide.costs.base import TerminalCost


def cost_from_numpyro(
    model: Callable[..., Any], site: str, *args: Any, **kwargs: Any
) -> TerminalCost:
    """Minus the log-likelihood of all observed sites of a NumPyro program given one latent, for
    `smcguide.sample` with any prior of the same shape. Other continuous latents become unknown
    parameters of the cost, discrete ones are summed out.

    Arguments:
        model: the program.
        site: the latent; its distribution in the program only holds the place.
        args, kwargs: of the program.

    Raises:
        InvalidInput: for programs that a particle method cannot treat, see `NumPyroProgram`.
    """
    return standalone_cost(NumPyroProgram(model, args, kwargs, placeholder={site: None}))


class SMC(Inference):
    """Sequential Monte Carlo for a NumPyro program with diffusion priors; arguments as `Inference`."""

    def run(self, rng_key: jax.Array, *args: Any, **kwargs: Any) -> None:
        """Infer the latents of model(*args, **kwargs).

        Arguments:
            rng_key: of all randomness of the run.
            args, kwargs: of the program.

        Raises:
            InvalidInput: for programs that a particle method cannot treat, see `NumPyroProgram`.
            DegenerateWeights: as `smcguide.run`.
        """
        program = NumPyroProgram(self.model, args, kwargs, placeholder=self.placeholder)
        self.infer(program, _seed(rng_key))

    def get_samples(self, rng_key: jax.Array, num_samples: int) -> dict[str, jax.Array]:
        """Equal-weight draws of all latents jointly, name -> (num_samples, *shape), for
        `Predictive(model, posterior_samples=...)`."""
        return _arrays(self.outcome.samples(num_samples, _seed(rng_key)))

    def get_weighted_samples(self) -> tuple[dict[str, jax.Array], jax.Array]:
        """All particles, name -> (num_chains num_particles, *shape), and their log-weights; draws of
        PMMH and Gibbs have equal ones."""
        latents = {name: a.flatten(0, 1) for name, a in self.outcome.latents.items()}
        return _arrays(latents), jnp.asarray(self.get_normalized_weights(log_scale=True).numpy())

    def print_summary(self) -> None:
        """Print `summary()`."""
        sys.stdout.write(self.summary() + "\n")


def _arrays(tensors: dict[str, Tensor]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(a.cpu().numpy()) for name, a in tensors.items()}


def _seed(rng_key: jax.Array) -> int:
    return int(jax.random.randint(rng_key, (), 0, 2**31 - 1))
