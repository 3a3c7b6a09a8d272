"""Markov moves of particles at a fixed noise level."""

from smcguide.moves.base import Move
from smcguide.moves.mala import MALA
from smcguide.moves.pcn import PCN
from smcguide.moves.pcnl import PCNL
from smcguide.moves.restart import Restart

__all__ = ["MALA", "PCN", "PCNL", "Move", "Restart"]
