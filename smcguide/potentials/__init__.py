"""Potentials log psi_t(x_t)."""

from smcguide.potentials.anticipated import Anticipated
from smcguide.potentials.base import Potential, SignalFraction
from smcguide.potentials.control import ControlValue
from smcguide.potentials.inflated import InflatedGaussian
from smcguide.potentials.krylov_laplace import KrylovLaplace
from smcguide.potentials.laplace import Laplace
from smcguide.potentials.lookahead import Lookahead
from smcguide.potentials.moment_matched import MomentMatched
from smcguide.potentials.monte_carlo import MonteCarlo
from smcguide.potentials.noised import NoisedObservation
from smcguide.potentials.steering import FKSteering
from smcguide.potentials.tempered import Adaptive, Tempered
from smcguide.potentials.terminal import Terminal
from smcguide.potentials.tweedie import Tweedie

__all__ = [
    "Adaptive",
    "Anticipated",
    "ControlValue",
    "FKSteering",
    "InflatedGaussian",
    "KrylovLaplace",
    "Laplace",
    "Lookahead",
    "MomentMatched",
    "MonteCarlo",
    "NoisedObservation",
    "Potential",
    "SignalFraction",
    "Tempered",
    "Terminal",
    "Tweedie",
]
