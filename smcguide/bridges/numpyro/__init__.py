"""NumPyro models with diffusion priors, and JAX functions for torch.

The bridge shares arrays between torch and JAX on the CPU. Worker processes must be spawned, not forked.
"""

from smcguide.errors import MissingExtra

try:
    import numpyro  # noqa: F401
except ImportError as error:
    raise MissingExtra("numpyro", "numpyro", "smcguide.bridges.numpyro") from error

from smcguide.bridges.nuisance import PMMH, Gibbs, Particles
from smcguide.bridges.numpyro.jax_function import JaxFunction
from smcguide.bridges.numpyro.prior import DiffusionPrior, diffusion_of
from smcguide.bridges.numpyro.program import NumPyroProgram
from smcguide.bridges.numpyro.smc import SMC, cost_from_numpyro

__all__ = [
    "PMMH",
    "SMC",
    "DiffusionPrior",
    "Gibbs",
    "JaxFunction",
    "NumPyroProgram",
    "Particles",
    "cost_from_numpyro",
    "diffusion_of",
]
