"""Markov moves of particles at a fixed noise level."""

from smcguide.moves.base import Move
from smcguide.moves.pcn import PCN

__all__ = ["PCN", "Move"]
