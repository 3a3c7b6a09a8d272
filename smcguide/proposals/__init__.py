"""Proposals: what replaces the base kernel."""

from smcguide.proposals.adapted import Adapted
from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.proposals.clean import CleanGradient
from smcguide.proposals.combined import Combined
from smcguide.proposals.ddsmc import DDSMC
from smcguide.proposals.dtm import DTM
from smcguide.proposals.gradient import Gradient
from smcguide.proposals.proximal import Proximal
from smcguide.proposals.published import Published
from smcguide.proposals.scales import Constant, LineSearch, Normalised, PerResidual, Powers, Scale
from smcguide.proposals.spectral import Spectral
from smcguide.proposals.static import StaticControl

__all__ = [
    "DDSMC",
    "DTM",
    "Adapted",
    "Bootstrap",
    "CleanGradient",
    "Combined",
    "Constant",
    "Gradient",
    "LineSearch",
    "Normalised",
    "PerResidual",
    "Powers",
    "Proposal",
    "Proximal",
    "Published",
    "Scale",
    "Spectral",
    "StaticControl",
    "Step",
]
