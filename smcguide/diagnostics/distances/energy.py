"""Energy distance.

    D^2 = 2 E|x - y| - E|x - x'| - E|y - y'|

x, x' independent draws of one law, y, y' of the other: no bandwidth to choose, zero only where the laws
are equal. Pairs i = j are counted (their distance is zero), so this is the distance of the two weighted
point sets: never negative, and above zero for finite samples of equal laws.

Reference: Szekely, Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
Statistical Planning and Inference 143 (2013).
"""

from torch import Tensor

from smcguide.diagnostics.distances.samples import at_least, clouds, distances_between, double_sum


def energy_distance(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    chunk_size: int = 1024,
) -> float:
    """Energy distance D of weighted samples, in the square root of their units (as SciPy's).

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        chunk_size: points at once; memory is proportional to chunk_size max(n, m).

    Raises:
        InvalidInput: for other shapes, no samples, or samples that are not finite.
    """
    at_least("energy_distance", 1, chunk_size=chunk_size)
    a, b = clouds("energy_distance", x, y, log_w, log_v)
    across, in_x, in_y = (
        double_sum(lambda p, c=c, e=e: distances_between(c.x[p], e.x), c.W, e.W, chunk_size)  # type: ignore[misc]
        for c, e in ((a, b), (a, a), (b, b))
    )
    return max(float(2 * across - in_x - in_y), 0.0) ** 0.5
