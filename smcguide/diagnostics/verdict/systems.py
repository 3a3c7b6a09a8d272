"""Systems against each other, and the error of log Z."""

import math

import torch
from torch import Tensor

from smcguide.diagnostics.agreement import log_z_spread, rank_r_hat
from smcguide.diagnostics.verdict import limits
from smcguide.diagnostics.verdict.records import DOUBTFUL, SERIOUS, Finding
from smcguide.diagnostics.verdict.words import REPLICATES, in_systems, steer
from smcguide.evidence import REPLICATES as SPREAD
from smcguide.exactness import has_evidence
from smcguide.posterior import Posterior


def evidence(posterior: Posterior) -> Finding | None:
    """log Z: systems that disagree by more than they claim, and errors that are large."""
    if not has_evidence(posterior.exactness):
        return None
    if len(posterior.log_z) > 1 and posterior.are_replicates:
        return _beyond_claims(posterior) or _large_error(posterior)
    return _large_error(posterior)


def _beyond_claims(posterior: Posterior) -> Finding | None:
    found = log_z_spread(posterior)
    beyond = found.p_value < limits.SPREAD_P  # not where nobody claims anything, p is NaN
    if not beyond or found.spread < limits.SPREAD_MATTERS:
        return None
    return Finding(
        SERIOUS if found.spread > limits.LARGE_ERROR else DOUBTFUL,
        "Systems disagree about log Z by more than their own errors: some missed something.",
        f"Spread {found.spread:.3g} nats, single runs claim {found.claimed:.2g} "
        f"(p {found.p_value:.1g}).",
        "More particles. " + steer(posterior),
        "evidence",
    )


def _large_error(posterior: Posterior) -> Finding | None:
    error, method = posterior.standard_error()
    bad = error > limits.LARGE_ERROR  # NaN is none of it
    if not bool(bad.any()):
        return None
    worst = float(error[bad].max())
    where = "" if method == SPREAD else in_systems(bad)
    return Finding(
        SERIOUS if worst > limits.HUGE_ERROR else DOUBTFUL,
        "log Z is hardly known.",
        f"Standard error {worst:.3g} nats ({method}){where}.",
        f"More particles. More systems ({REPLICATES}) and `pooled()`. " + steer(posterior),
        "evidence",
    )


def disagreement(posterior: Posterior) -> Finding | None:
    """R-hat between systems along the principal directions of all draws."""
    S, N = posterior.log_w.shape
    if S < 2 or not posterior.are_replicates or N < limits.FEWEST_DRAWS:
        return None
    worst = float(rank_r_hat(_directions(posterior)).nan_to_num(nan=1.0, posinf=math.inf).max())
    if worst <= limits.LARGE_R_HAT:
        return None
    apart = math.isinf(worst)  # each system is one point of its own
    return Finding(
        SERIOUS if worst > limits.HUGE_R_HAT else DOUBTFUL,
        "Systems found different parts of the posterior.",
        f"R-hat {'infinite' if apart else f'{worst:.3g}'} between {S} systems.",
        "More particles. " + steer(posterior) + " `pooled()` weighs the systems by their Z.",
        "disagreement",
    )


def _directions(posterior: Posterior) -> Tensor:
    """(S, n, F) coordinates of equal-weight draws in their principal directions, F <= 10."""
    S, N = posterior.log_w.shape
    num = max(limits.FEWEST_DRAWS, min(N, limits.DRAWS // S))
    index = posterior.ancestors_of_draws(num)
    x = posterior.x[torch.arange(S, device=index.device)[:, None], index].flatten(0, 1)
    x = x.reshape(len(x), -1).double()
    x = torch.where(x.isfinite(), x, 0.0)
    x = x - x.mean(0)
    # eigenvectors of the smaller of the two Gram matrices
    if x.shape[1] <= len(x):
        scores = x @ torch.linalg.eigh(x.mT @ x).eigenvectors[:, -limits.DIRECTIONS :]
    else:
        scores = torch.linalg.eigh(x @ x.mT).eigenvectors[:, -limits.DIRECTIONS :]
    return scores.reshape(S, num, -1)
