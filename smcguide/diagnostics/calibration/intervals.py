"""Coverage of central intervals, one coordinate (or function) at a time.

With u the truth's probability integral transform, the central interval of credibility q holds the truth
if |2 u - 1| <= q. `k_rcps` widens intervals that fail.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from smcguide.diagnostics.calibration.coverage import Coverage
from smcguide.diagnostics.calibration.quantities import Statistic, coordinates, pits
from smcguide.posterior import Posterior


def interval_coverage(
    posterior: Posterior,
    truth: Tensor,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    levels: Sequence[float] | None = None,
    seed: int = 0,
) -> Coverage:
    """Coverage of the central intervals of weighted particles.

    Arguments:
        posterior: of S data sets (systems).
        truth: (S, *E), what each data set was made from.
        statistics: name -> function (S, n, *E) -> (S, n); the coordinates by default.
        levels: credibilities, by default 0.05, ..., 0.95.
        seed: of ties.

    Raises:
        InvalidInput: for truths that do not fit the posterior, and for levels outside (0, 1).
    """
    functions = statistics or coordinates(tuple(posterior.x.shape[2:]))
    u = pits(posterior, truth, functions, seed)
    return Coverage.of((2 * u - 1).abs(), tuple(functions), levels)
