"""smcguide: sequential Monte Carlo with pretrained diffusion priors.

    prior -> kernel -> GuidedDiffusion (cost, potential, proposal) -> run -> Posterior

`sample(prior, cost)` does the whole job; `run(GuidedDiffusion(...))` is its explicit form.
"""

from importlib import import_module
from types import ModuleType

from smcguide import (
    costs,
    grids,
    kernels,
    moves,
    parameter_moves,
    potentials,
    presets,
    priors,
    proposals,
    resamplers,
    schedules,
    starts,
    triggers,
)
from smcguide.candidates import Candidates
from smcguide.chains import Chains, ParameterChains
from smcguide.density import FlowDensity
from smcguide.draws import draw, rehearse
from smcguide.engine import iterate, run
from smcguide.errors import DegenerateWeights, InvalidInput, MissingExtra, SmcguideError
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.freezing import freeze
from smcguide.gibbs import particle_gibbs
from smcguide.guided import GuidedDiffusion
from smcguide.memory import keep_memory
from smcguide.parameter_gibbs import parameter_gibbs
from smcguide.parameters import Independent, Parameters
from smcguide.pilot import tune_move
from smcguide.pmmh import pmmh
from smcguide.posterior import Posterior
from smcguide.priors.check import check_prior
from smcguide.sampling import model, sample
from smcguide.search import rollover

__version__ = "0.1.0"

__all__ = [
    "Candidates",
    "Chains",
    "DegenerateWeights",
    "FeynmanKac",
    "FlowDensity",
    "GuidedDiffusion",
    "Independent",
    "InvalidInput",
    "MissingExtra",
    "ParameterChains",
    "Parameters",
    "Posterior",
    "Propagated",
    "SmcguideError",
    "check_prior",
    "costs",
    "diagnostics",
    "distributed",
    "draw",
    "freeze",
    "grids",
    "iterate",
    "keep_memory",
    "kernels",
    "model",
    "moves",
    "parameter_gibbs",
    "parameter_moves",
    "particle_gibbs",
    "plots",
    "pmmh",
    "potentials",
    "presets",
    "priors",
    "proposals",
    "rehearse",
    "report",
    "resamplers",
    "rollover",
    "run",
    "sample",
    "schedules",
    "starts",
    "triggers",
    "tune_move",
]

_LATE = ("diagnostics", "distributed", "plots", "report")  # rooms that are loaded when they are named


def __getattr__(name: str) -> ModuleType:
    if name in _LATE:
        return import_module(f"smcguide.{name}")
    raise AttributeError(f"module 'smcguide' has no attribute {name!r}")
