"""The variance of a weighted mean from the families of a run, for values that are known already."""

from torch import Tensor

from smcguide import weights
from smcguide.evidence import chan_lai, olsson_douc
from smcguide.posterior import Posterior


def variance_of_mean(posterior: Posterior, values: Tensor) -> Tensor:
    """Variance (S, *F) of the weighted mean of values (S, N, *F), as in `Posterior.expect_se`."""
    W = weights.normalise(posterior.log_w)
    if "ancestors" in posterior.recorded:
        return olsson_douc(values, W, posterior.recorded["ancestors"])[0]
    return chan_lai(values, W, posterior.eves)
