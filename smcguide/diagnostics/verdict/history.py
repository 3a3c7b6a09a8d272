"""The history of a run: bottlenecks, families, steps and moves."""

import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.verdict import limits
from smcguide.diagnostics.verdict.records import DOUBTFUL, NOTE, SERIOUS, Finding
from smcguide.diagnostics.verdict.words import REPLICATES, in_systems, steer
from smcguide.exactness import has_evidence
from smcguide.posterior import Posterior


def bottleneck(posterior: Posterior) -> Finding | None:
    """Weights that collapsed in the middle and were resampled: the final ESS knows nothing of it."""
    if "pooled" in posterior.settings:
        return None
    N = posterior.log_w.shape[1]
    # resampled[k + 1] acted on the weights after step k
    used = posterior.trace["resampled"][:, 1:]
    ess = torch.where(used, posterior.trace["ess"][:, :-1].double(), float(N))
    lowest = ess.amin(1)
    bad = lowest < limits.fewest_effective(N)
    if not bool(bad.any()):
        return None
    s = int(lowest.argmin())
    k = int(ess[s].argmin())
    # particles spread out again afterwards, so the same few are forgiven more readily than at the end
    return Finding(
        SERIOUS if bool((lowest < limits.few_effective(N) / 2).any()) else DOUBTFUL,
        "The population went through a bottleneck; its final weights look better than they are.",
        f"ESS {float(lowest[s]):.3g} of {N} when it was resampled after step {k} (time "
        f"{float(posterior.times[k]):.3g}){in_systems(bad)}.",
        steer(posterior),
        "bottleneck",
    )


def one_family(posterior: Posterior) -> Finding | None:
    """A single run whose particles all descend from one, so that no error can be told."""
    S = len(posterior.log_w)
    if (S > 1 and posterior.are_replicates) or not has_evidence(posterior.exactness):
        return None
    bad = (posterior.eves == posterior.eves[:, :1]).all(1)
    if not bool(bad.any()) or posterior.log_w.shape[1] == 1:
        return None
    return Finding(
        DOUBTFUL,
        "All particles descend from one: this run cannot tell its own error.",
        f"1 surviving family of {posterior.log_w.shape[1]}, "
        f"{int(posterior.trace['resampled'].sum(1).max())} resamplings{in_systems(bad)}.",
        f"{REPLICATES} to see the spread. More particles. " + steer(posterior),
        "one family",
    )


def moves(posterior: Posterior) -> Finding | None:
    """Moves that hardly ever, or always, accept."""
    rate = _mean_rate(posterior.trace.get("acceptance"))
    if rate is None or limits.STUCK <= rate <= limits.UNTESTED:
        return None
    stuck = rate < limits.STUCK
    return Finding(
        DOUBTFUL if stuck else NOTE,
        "The moves are stuck." if stuck else "The moves are always accepted: too short to matter.",
        f"Mean acceptance {rate:.2g}.",
        "tune_move(model) finds the size; smaller steps, moves.PCN(0.1)."
        if stuck
        else "tune_move(model) finds the size; longer steps, moves.PCN(0.9).",
        "moves",
    )


def parameters(posterior: Posterior) -> Finding | None:
    """Unknown parameters of which few values are left, or whose moves are stuck."""
    if not posterior.parameters:
        return None
    N = posterior.log_w.shape[1]
    left = _distinct_values(posterior)
    rate = _mean_rate(posterior.trace.get("parameter_acceptance"))
    poor = left < min(limits.few_effective(N), float(weights.ess(posterior.log_w).min()) / 2)
    stuck = rate is not None and rate < limits.STUCK
    if not poor and not stuck:
        return None
    said = "nothing moved" if rate is None else f"mean acceptance of their moves {rate:.2g}"
    return Finding(
        SERIOUS if poor else DOUBTFUL,
        "Few values of the unknown parameters are left." if poor else "The parameters hardly move.",
        f"{left:.3g} effective distinct values among {N} particles; {said}.",
        "parameter_moves.RandomWalk() has sizes from 1 to 0.03, parameter_moves.HMC(0.4, 3) follows the "
        "gradient; every_step=True moves more often.",
        "parameters",
    )


def _mean_rate(trace: Tensor | None) -> float | None:
    """Mean of an acceptance trace; None where nothing ever moved."""
    if trace is None or not bool(trace.isfinite().any()):
        return None
    return float(trace.double().nanmean())


def _distinct_values(posterior: Posterior) -> float:
    """1 / sum of squares of the weights of distinct parameter values, in the worst system."""
    joint = [a.reshape(*posterior.log_w.shape, -1).double() for a in posterior.parameters.values()]
    counts = []
    for theta, W in zip(torch.cat(joint, -1), weights.normalise(posterior.log_w), strict=True):
        _, index = theta.unique(dim=0, return_inverse=True)
        counts.append(float(1 / torch.zeros_like(W).scatter_add_(0, index, W).square().sum()))
    return min(counts)
