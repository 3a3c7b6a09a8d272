"""Pyro: a diffusion prior as a distribution, and inference of programs with such priors."""

from smcguide.errors import MissingExtra

try:
    import pyro as _pyro  # noqa: F401
except ImportError as error:
    raise MissingExtra("pyro-ppl", "pyro", "smcguide.bridges.pyro") from error

from smcguide.bridges.nuisance import PMMH, Gibbs, Particles
from smcguide.bridges.pyro.prior import DiffusionPrior, NoDensity, diffusion_of
from smcguide.bridges.pyro.program import PyroProgram
from smcguide.bridges.pyro.smc import SMC, cost_from_pyro

__all__ = [
    "PMMH",
    "SMC",
    "DiffusionPrior",
    "Gibbs",
    "NoDensity",
    "Particles",
    "PyroProgram",
    "cost_from_pyro",
    "diffusion_of",
]
