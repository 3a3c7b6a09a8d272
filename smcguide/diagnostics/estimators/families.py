"""The error of a weighted mean from the families of a run, for values that are known already."""

from dataclasses import replace

from torch import Tensor

from smcguide.posterior import Posterior


def error_of_mean(posterior: Posterior, values: Tensor) -> Tensor:
    """Standard error (S, *F) of the weighted mean of values (S, N, *F), by `Posterior.expect_se`."""
    return replace(posterior, has_systems=True).expect_se(lambda x: values.flatten(0, 1))
