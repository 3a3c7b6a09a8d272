"""The method: what may be claimed of it at all, and how far its proposal is from the posterior."""

import math

from smcguide import weights
from smcguide.diagnostics.control import bound_gap, path_kl
from smcguide.diagnostics.verdict import limits
from smcguide.diagnostics.verdict.records import DOUBTFUL, NOTE, SERIOUS, Finding
from smcguide.diagnostics.verdict.words import steer
from smcguide.exactness import EXACT, LIMIT, SEARCH
from smcguide.posterior import Posterior


def claims(posterior: Posterior) -> Finding | None:
    """The label of the method: weights that were ignored, a search, a limit."""
    label = posterior.exactness
    if label == EXACT:
        return None
    if label == LIMIT:
        return Finding(
            NOTE,
            "The method is exact in the limit only.",
            f"Label {label!r}: log Z is consistent, not unbiased.",
            "For adaptive strengths, freeze(model, posterior) and run again with another seed; else more "
            "particles.",
            "claims",
        )
    search = label == SEARCH
    return Finding(
        SERIOUS,
        "These are candidates that a search found, not samples of the posterior."
        if search
        else "Weights are missing: these are not samples of the posterior.",
        f"Label {label!r}; log Z is withheld.",
        "sample(prior, cost) weights its particles."
        if search
        else "Use the weighted run (before `unweighted()`), or parts whose label is exact.",
        "claims",
    )


def far_proposal(posterior: Posterior) -> Finding | None:
    """A proposal whose paths are more nats from the posterior than N particles can bridge."""
    N = posterior.log_w.shape[1]
    gap = bound_gap(posterior).reshape(-1)
    wasted = weights.ess(posterior.log_w) < limits.fewest_effective(N)
    bad = (gap > math.log(N)) & wasted
    if not bool(bad.any()):
        return None
    s = int(gap.masked_fill(~bad, -math.inf).argmax())
    paid = float(path_kl(posterior).reshape(-1)[s])
    cause = "it is steered too hard" if paid > float(gap[s]) / 2 else "it does not see the cost"
    return Finding(
        SERIOUS,
        f"The proposal is far from the posterior: {cause}.",
        f"log Z {float(posterior.log_z[s]):.4g}, lower bound {float(posterior.bound[s]):.4g}, path KL "
        f"{paid:.3g} nats; {N} particles bridge about {math.log(N):.2g} nats.",
        steer(posterior),
        "far proposal",
    )


def coarse_grid(posterior: Posterior) -> Finding | None:
    """So few steps that the chain's prior is not the diffusion's."""
    steps = len(posterior.times) - 1
    if steps >= limits.COARSE or "prior" not in posterior.settings:
        return None
    return Finding(
        DOUBTFUL,
        "The time grid is coarse: answers are for a chain that may be far from the prior.",
        f"{steps} steps.",
        "num_steps=100, and double it until the answer stops moving.",
        "coarse grid",
    )
