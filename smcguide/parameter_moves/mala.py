"""The Metropolis-adjusted Langevin algorithm: Hamiltonian Monte Carlo with one leapfrog step.

Reference: Roberts, Tweedie, "Exponential convergence of Langevin distributions" (1996).
"""

from dataclasses import dataclass, field

from smcguide.parameter_moves.hmc import HMC


@dataclass(frozen=True)
class MALA(HMC):
    """A Gaussian step along the gradient.

    Arguments:
        step: standard deviation of the noise, in widths of the prior.

    Raises:
        InvalidInput: for a step not positive; with a cost that has no gradient.
    """

    step: float = 0.3
    num_leapfrog: int = field(default=1, init=False, repr=False)
