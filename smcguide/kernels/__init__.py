"""Base reverse kernels p(x_s | x_t)."""

from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDIM, DDPM
from smcguide.kernels.matched import MatchedDDPM
from smcguide.kernels.renoise import Renoise

__all__ = ["DDIM", "DDPM", "Kernel", "MatchedDDPM", "Renoise"]
