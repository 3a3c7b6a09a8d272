r"""The Hoeffding-Bentkus bound of a mean of losses in [0, 1].

A mean r of n independent losses with expectation R is as small as it is with probability at most

    p(r, R) = min( exp(-n h(min(r, R), R)),  e P(Bin(n, R) <= ceil(n r)) ),
    h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b));

the upper confidence bound of R at level 1 - delta is the largest R with p(r, R) >= delta.

Reference: Bates et al., "Distribution-Free, Risk-Controlling Prediction Sets" (arXiv 2101.02703).
"""

import math

from smcguide.errors import InvalidInput

_ROUNDING = 1e-9


def tail(risk: float, R: float, num: int) -> float:
    """p(risk, R) for a mean of `num` losses."""
    from scipy.special import rel_entr
    from scipy.stats import binom

    r = min(risk, R)
    hoeffding = math.exp(-num * (rel_entr(r, R) + rel_entr(1 - r, 1 - R)))
    bentkus = math.e * binom.cdf(math.ceil(num * risk - _ROUNDING), num, R)
    return min(hoeffding, float(bentkus))


def upper_bound(risk: float, num: int, delta: float) -> float:
    """Upper confidence bound, at level 1 - delta, of the expectation of losses with mean `risk`."""
    low, high = risk, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(risk, middle, num) >= delta else (low, middle)
    return high


def allowed_misses(num: int, entries: int, epsilon: float, delta: float) -> int:
    """Largest number of entries outside, of num * entries, with an upper bound of the risk of at most
    epsilon.

    Raises:
        InvalidInput: if even none would be too many.
    """
    if not num or tail(0.0, epsilon, num) >= delta:
        needed = math.ceil(math.log(1 / delta) / -math.log1p(-epsilon)) + 1
        raise InvalidInput(
            f"k_rcps: {num} calibration sets cannot promise a risk of {epsilon} at confidence "
            f"{1 - delta:g}; at least {needed} are needed (twice as many with several groups)."
        )
    low, high = 0, num * entries
    while high - low > 1:
        middle = (low + high) // 2
        fits = tail(middle / (num * entries), epsilon, num) < delta
        low, high = (middle, high) if fits else (low, middle)
    return low
