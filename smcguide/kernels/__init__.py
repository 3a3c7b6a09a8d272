"""Base reverse kernels p(x_s | x_t)."""

from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDIM, DDPM
from smcguide.kernels.matched import MatchedDDPM

__all__ = ["DDIM", "DDPM", "Kernel", "MatchedDDPM"]
