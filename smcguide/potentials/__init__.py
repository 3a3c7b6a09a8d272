"""Potentials log psi_t(x_t)."""

from smcguide.potentials.base import Potential, SignalFraction
from smcguide.potentials.inflated import InflatedGaussian
from smcguide.potentials.terminal import Terminal
from smcguide.potentials.tweedie import Tweedie

__all__ = ["InflatedGaussian", "Potential", "SignalFraction", "Terminal", "Tweedie"]
