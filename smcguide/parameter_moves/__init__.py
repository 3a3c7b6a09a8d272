"""Markov moves of the particles' parameters."""

from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameter_moves.hmc import HMC
from smcguide.parameter_moves.mala import MALA
from smcguide.parameter_moves.random_walk import RandomWalk

__all__ = ["HMC", "MALA", "ParameterMove", "RandomWalk"]
