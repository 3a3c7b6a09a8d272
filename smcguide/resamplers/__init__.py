"""Resampling schemes: log-weights in, ancestors out."""

from smcguide.resamplers.base import Resampler
from smcguide.resamplers.multinomial import Multinomial
from smcguide.resamplers.stratified import Stratified
from smcguide.resamplers.systematic import Systematic

__all__ = ["Multinomial", "Resampler", "Stratified", "Systematic"]
