r"""Simultaneous bands and exact p-values for the distribution function of a uniform sample.

Of L independent uniform numbers the count R_i below a level z_i is binomial, and the counts at
z_1 < ... < z_K are a Markov chain: R_{i+1} - R_i given R_i is Bin(L - R_i, (z_{i+1} - z_i) / (1 - z_i)).
The test statistic is the smallest of the K pointwise two-sided tail probabilities,

    gamma = min_i 2 min(P(Bin(L, z_i) <= R_i), P(Bin(L, z_i) >= R_i)),

and the probability that a chain ever leaves the set where gamma_i > g is summed step by step: exact,
without simulation and without cancellation. Below 1e-30 the sum of the pointwise probabilities, an upper
bound, stands for it.

Reference: Saeilynoja, Buerkner, Vehtari, "Graphical test for discrete uniformity and its applications in
goodness of fit evaluation and multiple sample comparison" (arXiv 2103.10522).
"""

import numpy as np
from numpy.typing import NDArray

from smcguide.errors import InvalidInput

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

_TOLERANCE = 1e-9  # equal tail probabilities may differ by rounding
_NEGLIGIBLE = 1e-30  # here the sum over levels is as good
_BISECTIONS = 40
_MOST_LEVELS = 100


def thinned(num: int) -> Counts:
    """At most 100 of the numbers 1, ..., num, evenly spread: indices of levels to test at."""
    return np.unique(np.linspace(1, num, min(num, _MOST_LEVELS)).round().astype(np.int64))


def path_p_value(counts: Counts, num: int, levels: Array) -> float:
    """Probability that uniform numbers give a distribution function as far off as this one.

    Arguments:
        counts: (K,) how many of the numbers are below each level.
        num: L, how many numbers there are.
        levels: (K,) increasing, strictly between 0 and 1.
    """
    from scipy.stats import binom

    below, above = binom.cdf(counts, num, levels), binom.sf(counts - 1, num, levels)
    tail = float(np.minimum(below, above).min())
    if tail < _NEGLIGIBLE:
        return 2 * len(levels) * tail
    return min(1.0, _exit_probability(*_inside(tail, num, levels), num, levels))


def simultaneous_band(num: int, levels: Array, confidence: float) -> tuple[Array, Array]:
    """Lowest and highest distribution function (K,) that L uniform numbers keep between at all levels
    at once with probability `confidence` or a little more.

    Arguments:
        num: L.
        levels: (K,) increasing, strictly between 0 and 1.
        confidence: in (0, 1).

    Raises:
        InvalidInput: for another confidence.
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence must be strictly between 0 and 1, got {confidence}.")
    narrow, wide = 0.0, np.log(1e-12)  # log of the pointwise tail probability
    for _ in range(_BISECTIONS):
        middle = (narrow + wide) / 2
        outside = _exit_probability(*_inside(np.exp(middle), num, levels), num, levels)
        narrow, wide = (narrow, middle) if outside <= 1 - confidence else (middle, wide)
    low, high = _inside(np.exp(wide), num, levels)
    return low / num, high / num


def _inside(tail: float, num: int, levels: Array) -> tuple[Counts, Counts]:
    """Smallest and largest counts (K,) with both tail probabilities above `tail`."""
    from scipy.stats import binom

    if tail >= 1:
        return np.ones(len(levels), np.int64), np.zeros(len(levels), np.int64)
    more = tail * (1 + _TOLERANCE)
    low = binom.ppf(tail, num, levels).astype(np.int64)
    low += binom.cdf(low, num, levels) <= more
    high = binom.isf(tail, num, levels).astype(np.int64)
    high -= binom.sf(high - 1, num, levels) <= more
    return low, high


def _exit_probability(low: Counts, high: Counts, num: int, levels: Array) -> float:
    """Probability that the counts leave [low_i, high_i] at some level."""
    from scipy.special import gammaln
    from scipy.stats import binom

    if (low > high).any():
        return 1.0
    log_factorial = gammaln(np.arange(num + 1) + 1.0)
    here, mass, lost, before = np.zeros(1, np.int64), np.ones(1), 0.0, 0.0
    for l, h, z in zip(low, high, levels, strict=True):  # noqa: E741
        p, rest = (z - before) / (1 - before), num - here
        lost += mass @ (binom.cdf(l - 1 - here, rest, p) + binom.sf(h - here, rest, p))
        there = np.arange(l, h + 1)
        k = there - here[:, None]
        legal, k = k >= 0, np.maximum(k, 0)
        left = rest[:, None] - k
        log_p = log_factorial[rest][:, None] - log_factorial[k] - log_factorial[left]
        log_p = np.where(legal, log_p + k * np.log(p) + left * np.log1p(-p), -np.inf)
        here, mass, before = there, mass @ np.exp(log_p), z
    return float(lost)
