"""`SMC` for Pyro programs, and their observations as a terminal cost.

>>> import pyro, torch
>>> import pyro.distributions as dist
>>> from smcguide.bridges.pyro import SMC, DiffusionPrior
>>> from smcguide.priors import GaussianMixture
>>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
>>> def program(y):
...     x = pyro.sample("x", DiffusionPrior(prior))
...     sigma = pyro.sample("sigma", dist.LogNormal(0.0, 0.5))
...     pyro.sample("y", dist.Normal(x, sigma).to_event(1), obs=y)
>>> pyro.set_rng_seed(0)
>>> smc = SMC(program, num_particles=64, num_steps=10)
>>> smc.run(torch.tensor([0.3, -1.0]))
>>> {name: tuple(a.shape) for name, a in smc.get_samples(100).items()}
{'x': (100, 2), 'sigma': (100,)}
"""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from smcguide.bridges.inference import Inference
from smcguide.bridges.latents import standalone_cost
from smcguide.bridges.pyro.program import PyroProgram
from smcguide.costs.base import TerminalCost


def cost_from_pyro(model: Callable[..., Any], site: str, *args: Any, **kwargs: Any) -> TerminalCost:
    """Minus the log-likelihood of all observed sites of a Pyro program given one latent, for
    `smcguide.sample` with any prior of the same shape. Other continuous latents become unknown
    parameters of the cost, under their own names, discrete ones are summed out.

    Arguments:
        model: the program.
        site: the latent; its distribution in the program only holds the place.
        args, kwargs: of the program.

    Raises:
        InvalidInput: for programs that a particle method cannot treat, see `PyroProgram`.
    """
    return standalone_cost(PyroProgram(model, args, kwargs, placeholder={site: None}))


class SMC(Inference):
    """Sequential Monte Carlo for a Pyro program with diffusion priors; arguments as `Inference`.

    Random numbers follow torch's global generator, so `pyro.set_rng_seed` governs a run.
    """

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Infer the latents of model(*args, **kwargs).

        Raises:
            InvalidInput: for programs that a particle method cannot treat, see `PyroProgram`.
            DegenerateWeights: as `smcguide.run`.
        """
        seed = int(torch.randint(2**31, (), generator=torch.default_generator))
        self.infer(PyroProgram(self.model, args, kwargs, placeholder=self.placeholder), seed)

    def get_samples(self, num_samples: int | None = None) -> dict[str, Tensor]:
        """Equal-weight draws of all latents jointly, name -> (num_samples, *shape), for
        `Predictive(model, posterior_samples=...)`. By default as many as particles; all draws of PMMH
        and Gibbs."""
        return self.outcome.samples(num_samples)

    def get_empirical(self) -> dict[str, Any]:
        """Each latent's weighted particles as `pyro.distributions.Empirical`."""
        log_W = self.get_normalized_weights(log_scale=True)
        latents = {name: a.flatten(0, 1) for name, a in self.outcome.latents.items()}
        empirical: Any = dist.Empirical
        return {
            name: empirical(a, log_W.to(a.dtype) if a.is_floating_point() else log_W)
            for name, a in latents.items()
        }
