"""Published particle methods without gradients, as keyword arguments of `sg.sample`."""

from typing import Literal

from smcguide.grids import uniform
from smcguide.kernels import DDPM
from smcguide.potentials import Anticipated, FKSteering, NoisedObservation
from smcguide.presets.baseline import Preset
from smcguide.proposals import Adapted, Bootstrap
from smcguide.resamplers import Multinomial, Stratified
from smcguide.triggers import always, at_steps, ess_below


def fk_steering(
    mode: Literal["difference", "max", "sum"] = "max",
    strength: float = 1.0,
    every: int | None = None,
    num_steps: int = 100,
) -> Preset:
    """A General Framework for Inference-time Scaling and Steering of Diffusion Models (arXiv 2501.06848).

    Rewards -strength C(D) after each `every` steps, a fifth of them all by default, with selection there.
    The published code leaves the running maximum or sum in the last weight, and drops weights where it
    does not resample; here the target is exp(-C). Any cost, values only.
    """
    every = every or max(1, num_steps // 5)
    return {
        "proposal": Bootstrap(),
        "potential": FKSteering(mode, every, first=every, strength=strength),
        "kernel": DDPM(),
        "times": uniform(num_steps),
        "resampler": Multinomial(),
        "trigger": at_steps(tuple(range(every, num_steps, every))),
    }


def mcgdiff(kappa: float = 1e-4, num_steps: int = 100) -> Preset:
    """Monte Carlo Guided Diffusion for Bayesian Linear Inverse Problems (arXiv 2308.07983).

    The noised observation as value, the fully adapted proposal, selection before each step. Made for
    small measurement noise: with more of it log Z comes out low. Linear measurements.
    """
    return {
        "proposal": Adapted(),
        "potential": Anticipated(NoisedObservation("mcgdiff", kappa)),
        "kernel": DDPM(),
        "times": uniform(num_steps),
        "resampler": Multinomial(),
        "trigger": always(),
    }


def zhao(num_steps: int = 100) -> Preset:
    """Generative Diffusion Posterior Sampling for Informative Likelihoods (arXiv 2506.01083).

    An observation path pushed through the chain as value, the fully adapted proposal. The reverse step's
    own coefficient is in the recursion, which the published one takes as 1. Linear measurements.
    """
    return {
        "proposal": Adapted(),
        "potential": Anticipated(NoisedObservation("zhao")),
        "kernel": DDPM(),
        "times": uniform(num_steps),
        "resampler": Stratified(),
        "trigger": ess_below(0.7),
    }
