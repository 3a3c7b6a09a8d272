"""Resampling schemes: log-weights in, ancestors out."""

from smcguide.resamplers.base import Resampler
from smcguide.resamplers.killing import Killing
from smcguide.resamplers.metropolis import Metropolis
from smcguide.resamplers.multinomial import Multinomial
from smcguide.resamplers.rejection import Rejection
from smcguide.resamplers.residual import Residual
from smcguide.resamplers.ssp import SSP
from smcguide.resamplers.stratified import Stratified
from smcguide.resamplers.systematic import Systematic

__all__ = [
    "SSP",
    "Killing",
    "Metropolis",
    "Multinomial",
    "Rejection",
    "Resampler",
    "Residual",
    "Stratified",
    "Systematic",
]
