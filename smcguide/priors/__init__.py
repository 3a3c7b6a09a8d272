"""Diffusion priors: a denoiser E[x_0 | x_t] and its schedule."""

from smcguide.priors.base import Prior
from smcguide.priors.check import PriorReport, check_prior
from smcguide.priors.diffusers import from_diffusers
from smcguide.priors.embedded import load
from smcguide.priors.empirical import EmpiricalPrior
from smcguide.priors.joint import JointPrior
from smcguide.priors.mixture import GaussianMixture
from smcguide.priors.network import NetworkPrior
from smcguide.priors.recompute import recompute_blocks

__all__ = [
    "EmpiricalPrior",
    "GaussianMixture",
    "JointPrior",
    "NetworkPrior",
    "Prior",
    "PriorReport",
    "check_prior",
    "from_diffusers",
    "load",
    "recompute_blocks",
]
