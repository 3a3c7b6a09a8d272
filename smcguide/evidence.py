r"""Standard error of a log-evidence estimate.

Over replicate systems: the spread of their log Z. From a single run, with E_i the index of particle
i's ancestor at time 0 ("eve"), W the final weights, R the number of resampling events:

    multinomial   rel. var Z = 1 - (N / (N - 1))^(R + 1) (1 - sum_e (sum_{i: E_i = e} W_i)^2)
    otherwise     rel. var Z = sum_e (sum_{i: E_i = e} W_i)^2 - 1 / N        (a usable heuristic)

Neither says anything once all particles share one eve, or where the estimate is negative: NaN.

Reference: Lee, Whiteley, "Variance estimation in the particle filter" (arXiv 1509.00394).
"""

import torch
from torch import Tensor

POOL = "spread over the pooled systems"
REPLICATES = "spread over replicate systems"
LEE_WHITELEY = "Lee-Whiteley, single run"
GENEALOGY = "genealogy heuristic, single run"


def standard_error(
    log_z: Tensor,
    W: Tensor,
    eves: Tensor,
    resamplings: Tensor,
    *,
    multinomial: bool,
    replicates: bool,
) -> tuple[Tensor, str]:
    """Standard error of each system's log Z, (S,), and the name of the estimator.

    Arguments:
        log_z: (S,) log-evidence estimates.
        W: (S, N) normalised final weights.
        eves: (S, N) ancestors at time 0.
        resamplings: (S,) number of resampling events.
        multinomial: whether resampling was multinomial.
        replicates: whether the systems are replicates of one problem.
    """
    if replicates and len(log_z) > 1:
        return log_z.std().expand(len(log_z)), REPLICATES
    N = W.shape[1]
    family = torch.zeros_like(W).scatter_add_(1, eves, W)
    square = family.square().sum(1)
    if multinomial:
        factor = (N / max(N - 1, 1)) ** (resamplings.double() + 1)
        variance, name = 1 - factor * (1 - square), LEE_WHITELEY
    else:
        variance, name = square - 1 / N, GENEALOGY
    silent = ((family > 0).sum(1) < 2) | (variance < 0)
    return variance.clamp(min=0).sqrt().masked_fill(silent, float("nan")), name
