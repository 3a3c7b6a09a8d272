"""What speaks against trusting a run, worst first, with its evidence and a remedy.

A check looks at one thing and returns a finding or None. The order of `CHECKS` is that of cause and
effect; findings of equal severity keep it. Limits and their reasons are in `verdict.limits`.
"""

from collections.abc import Callable

from smcguide.diagnostics.inputs import require_posterior
from smcguide.diagnostics.verdict.history import bottleneck, moves, one_family, parameters
from smcguide.diagnostics.verdict.limits import FEWEST_FOR_TAIL
from smcguide.diagnostics.verdict.method import claims, coarse_grid, far_proposal
from smcguide.diagnostics.verdict.population import (
    broken_numbers,
    dead_particles,
    few_particles,
    final_weights,
    heavy_tail,
    last_step,
)
from smcguide.diagnostics.verdict.records import (
    DOUBTFUL,
    NOTE,
    SERIOUS,
    SEVERITIES,
    Finding,
    Verdict,
)
from smcguide.diagnostics.verdict.systems import disagreement, evidence
from smcguide.diagnostics.verdict.words import particles
from smcguide.posterior import Posterior

CHECKS: tuple[Callable[[Posterior], Finding | None], ...] = (
    claims,
    broken_numbers,
    few_particles,
    coarse_grid,
    far_proposal,
    bottleneck,
    last_step,
    final_weights,
    dead_particles,
    heavy_tail,
    disagreement,
    evidence,
    one_family,
    moves,
    parameters,
)


def verdict(posterior: Posterior) -> Verdict:
    """Look for what speaks against a run.

    Raises:
        InvalidInput: for anything else than a `Posterior`.
    """
    require_posterior("verdict", posterior)
    found = [finding for check in CHECKS if (finding := check(posterior)) is not None]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Verdict(tuple(found), _unchecked(posterior))


def _unchecked(posterior: Posterior) -> tuple[str, ...]:
    """What this run gives no occasion to look at."""
    out = []
    S, N = posterior.log_w.shape
    if S == 1 and "pooled" not in posterior.settings:
        out.append("agreement between systems; there is one (num_systems=4).")
    if "pooled" in posterior.settings:
        out.append("agreement between systems, bottlenecks; ask the run from before `pooled()`.")
    if not posterior.are_replicates:
        out.append("agreement between systems; each has its own observation.")
    if N < FEWEST_FOR_TAIL:
        out.append(f"the tail of the weights; {particles(N)} {'is' if N == 1 else 'are'} too few.")
    return tuple(out)


__all__ = ["DOUBTFUL", "NOTE", "SERIOUS", "Finding", "Verdict", "verdict"]
