"""Where a number becomes a finding, and why there.

Limits are set so that good runs stay silent; a finding is a reason to look, silence is no proof.
"""

import math

# Effective particles. n of them give means an error of n^(-1/2) standard deviations: 0.3 for ten.
FEW_EFFECTIVE = 10.0
FEW_EFFECTIVE_SHARE = 0.25  # of fewer than 40 particles ten cannot be asked for
WASTED = 0.05  # below this share of N nineteen of twenty particles were computed for nothing
LAST_STEP_LOSS = 0.1  # a step that leaves a tenth of the ESS was not prepared by the steps before
MOSTLY_DEAD = 0.5

# Pareto k-hat: errors still fall usefully with N below 0.7, and a fit to N weights can tell that only
# below 1 - 1 / log10 N; above 1 the mean does not exist. Vehtari et al. (arXiv 1507.02646).
LARGEST_K, NO_MEAN_K = 0.7, 1.0
# k-hat tells the shape of the tail, not its share: N / ESS - 1 is the variance of the weights. Below
# one the tail has done little yet; below a tenth it is not worth a word.
TAIL_MATTERS, TAIL_NOTED = 0.5, 0.9
FEWEST_FOR_TAIL = 21  # a fifth of them, five weights, is the smallest tail that can be fitted

# log Z in nats: a factor of two, and one of seven.
LARGE_ERROR, HUGE_ERROR = math.log(2), 2.0
# Systems against their own errors: a spread that one good run in a thousand would have, and one of a
# factor 1.4 at least, since single runs claim too little where rare particles weigh much.
SPREAD_P, SPREAD_MATTERS = 1e-3, 0.35

# R-hat - 1 is about v / 2, v the variance of system means in posterior variances. Chains are asked for
# 1.01 (Vehtari et al., arXiv 1903.08008), v = 1 / 50. Particles in five or ten large families are
# honest up to 1.1; at 1.2 means differ by two thirds of a standard deviation.
LARGE_R_HAT, HUGE_R_HAT = 1.1, 1.2
DIRECTIONS, DRAWS = 10, 1000  # principal directions compared, draws of all systems together
FEWEST_DRAWS = 4  # per system; of fewer particles nothing at all can be told

# A chain of K steps is another prior than the diffusion that it discretises.
COARSE = 10

# Moves are tuned to accept a quarter to a half; below a twentieth they repair next to nothing.
STUCK, UNTESTED = 0.05, 0.99


def few_effective(num_particles: float) -> float:
    """Fewest effective particles of N that a run can be trusted with."""
    return min(FEW_EFFECTIVE, FEW_EFFECTIVE_SHARE * num_particles)


def fewest_effective(num_particles: float) -> float:
    """Fewest effective particles of N that are no reason to look again."""
    return max(few_effective(num_particles), WASTED * num_particles)


def largest_k(num_particles: int) -> float:
    """Largest k-hat of N weights that is still fine."""
    return min(LARGEST_K, 1 - 1 / math.log10(num_particles))
