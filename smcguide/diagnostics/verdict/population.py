"""The final population: is it one, and how are its weights spread?"""

import math

import torch

from smcguide import weights
from smcguide.diagnostics.tails import largest_weight, pareto_k
from smcguide.diagnostics.verdict import limits
from smcguide.diagnostics.verdict.records import DOUBTFUL, NOTE, SERIOUS, Finding
from smcguide.diagnostics.verdict.words import (
    REPLICATES,
    SOFTEN,
    in_systems,
    part,
    particles,
    steer,
)
from smcguide.posterior import Posterior


def broken_numbers(posterior: Posterior) -> Finding | None:
    """Weights that cannot be normalised, and particles that are not numbers; a cost that ignores their
    bad entries does not notice."""
    lost = ~posterior.log_w.amax(1).isfinite()  # NaN where a weight is
    if bool(lost.any()):
        return Finding(
            SERIOUS,
            "The weights cannot be normalised: there is no answer.",
            f"Log-weights are NaN, infinite or all -inf{in_systems(lost)}.",
            "Run again; sample() stops where that happens, and says at which step.",
            "broken numbers",
        )
    counted = posterior.log_w.isfinite()
    bad = ~posterior.x.reshape(*posterior.log_w.shape, -1).isfinite().all(-1) & counted
    if not bool(bad.any()):
        return None
    return Finding(
        SERIOUS,
        "Particles with weight hold NaN or infinite entries.",
        f"{int(bad.sum())} of {bad.numel()} particles; the cost did not see it.",
        "check_prior(prior) looks for such levels; float64 (dtype) where a network overflows.",
        "broken numbers",
    )


def final_weights(posterior: Posterior) -> Finding | None:
    """Too few effective particles at the end."""
    N = posterior.log_w.shape[1]
    ess = weights.ess(posterior.log_w)
    bad = ess < limits.fewest_effective(N)
    if not bool(bad.any()):
        return None
    s = int(ess.argmin())
    serious = bool((ess < limits.few_effective(N)).any())
    return Finding(
        SERIOUS if serious else DOUBTFUL,
        "The final weights have collapsed."
        if serious
        else "Most particles count for next to nothing.",
        f"Final ESS {float(ess[s]):.3g} of {N}, largest weight "
        f"{float(largest_weight(posterior.log_w)[s]):.2g}{in_systems(bad)}.",
        steer(posterior),
        "final weights",
    )


def last_step(posterior: Posterior) -> Finding | None:
    """The last step took the ESS that all others had kept."""
    N = posterior.log_w.shape[1]
    ess = posterior.trace["ess"].double()
    if ess.shape[1] < 2 or "pooled" in posterior.settings:
        return None
    before = torch.where(posterior.trace["resampled"][:, -1], float(N), ess[:, -2])
    left = ess[:, -1] / before
    bad = left < limits.LAST_STEP_LOSS
    if not bool(bad.any()):
        return None
    s = int(left.argmin())
    value = "" if part(posterior, "potential") != "Terminal" else " The value is Terminal()."
    return Finding(
        DOUBTFUL,
        "The last step came as a surprise: the values before it did not tell what the cost would say.",
        f"ESS {float(before[s]):.5g} before, {float(ess[s, -1]):.4g} after it{in_systems(bad)}."
        + value,
        steer(posterior),
        "last step",
    )


def heavy_tail(posterior: Posterior) -> Finding | None:
    """A Pareto tail that no number of particles of this size can average."""
    N = posterior.log_w.shape[1]
    if N < limits.FEWEST_FOR_TAIL:
        return None
    k = pareto_k(posterior.log_w)
    # the largest of S noisy numbers is allowed S looks
    tail = math.ceil(min(N / 5, 3 * math.sqrt(N)))
    slack = math.sqrt(2 * math.log(len(k))) * (1 + limits.LARGEST_K) / math.sqrt(tail)
    limit = limits.largest_k(N) + slack
    share = weights.ess(posterior.log_w) / N
    bad = (k > limit) & (share < limits.TAIL_NOTED)
    if not bool(bad.any()):
        return None
    s = int(k.masked_fill(~bad, -math.inf).argmax())
    severity = SERIOUS if float(k[s]) > limits.NO_MEAN_K + slack else DOUBTFUL
    if not bool((bad & (share < limits.TAIL_MATTERS)).any()):
        severity = NOTE
    return Finding(
        severity,
        "The weights have a heavy tail: the next run may find one particle that outweighs these.",
        f"Pareto k-hat {float(k[s]):.2f}, limit {limit:.2f} for {N} particles{in_systems(bad)}.",
        steer(posterior) + (f" Check with {REPLICATES}." if len(k) == 1 else ""),
        "heavy tail",
    )


def dead_particles(posterior: Posterior) -> Finding | None:
    """Most of the particles have weight zero."""
    N = posterior.log_w.shape[1]
    dead = posterior.log_w.isneginf().double().mean(1)
    bad = dead > limits.MOSTLY_DEAD
    if not bool(bad.any()):
        return None
    return Finding(
        DOUBTFUL,
        "Most particles are dead: the cost forbids where they went.",
        f"{float(dead.max()):.0%} of {N} particles have weight zero{in_systems(bad)}.",
        SOFTEN,
        "dead particles",
    )


def few_particles(posterior: Posterior) -> Finding | None:
    """Fewer particles than diagnostics can speak about."""
    N = posterior.log_w.shape[1]
    if N >= limits.FEWEST_FOR_TAIL:
        return None
    untold = N < limits.FEWEST_DRAWS
    return Finding(
        SERIOUS if untold else DOUBTFUL,
        "There are so few particles that nobody can tell whether the run is right."
        if untold
        else "There are too few particles to judge the run by.",
        f"{particles(N)} per system; with fewer than {limits.FEWEST_FOR_TAIL} neither the tail of the "
        "weights nor the error of a single run can be told.",
        f"num_particles=512; where that is too dear, several systems ({REPLICATES}) and their spread.",
        "few particles",
    )
