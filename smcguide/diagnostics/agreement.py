r"""Whether independent systems tell the same story, and what is claimed of log Z.

R-hat compares the variance between systems with that within, on normal scores of the pooled ranks; the
larger of that of the draws and of their distances from the median. Particles of one system share
ancestors, so their effective number n is below N, and R-hat of equal laws is about 1 + 1 / (2 n); a
system's mean is then off by n^(-1/2) standard deviations. Within one system there are no independent
parts to compare.

The spread of log Z between systems is an honest error. If it is far above the error that each run claims
for itself, runs do not see all there is: typically each found another part of the posterior.

Reference: Vehtari, Gelman, Simpson, Carpenter, Buerkner, "Rank-normalization, folding, and localization:
an improved R-hat" (arXiv 1903.08008).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide import evidence, weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput, check_counts
from smcguide.posterior import Posterior

_MOST_DRAWS = 1000
_FEWEST_DRAWS = 4  # two halves of two

_WHY = {
    evidence.REPLICATES: "independent systems need no theory of the sampler: their spread is the error "
    "of each",
    evidence.POOL: "the systems were pooled with their Z as weights; leaving out one at a time tells the "
    "error of the pool",
    evidence.LEE_WHITELEY: "one run with multinomial resampling: the sums of weights of families give an "
    "unbiased estimate",
    evidence.GENEALOGY: "one run without multinomial resampling: the squared sums of weights of families "
    "are a usable heuristic; num_systems=4 would measure it",
    evidence.WITHHELD: "without exact weights there is no evidence to have an error",
}


@dataclass(frozen=True)
class EvidenceError:
    """What is claimed of log Z; a trailing axis of systems as in the posterior's answers.

    Attributes:
        log_evidence: (S,) log Z.
        error: (S,) its standard error; NaN where it cannot be told.
        bound: (S,) lower bound of log Z by DTM; NaN unless the run never resampled.
        method: name of the estimator of the error.
        why: why this one.
    """

    log_evidence: Tensor
    error: Tensor
    bound: Tensor
    method: str
    why: str


@dataclass(frozen=True)
class LogZSpread:
    """The spread of log Z beside the error that single runs claim.

    Attributes:
        spread: standard deviation of log Z between systems.
        claimed: median of the systems' own standard errors; NaN where none has one.
        p_value: probability of such a spread or a larger one if what is claimed were true.
    """

    spread: float
    claimed: float
    p_value: float


def evidence_error(posterior: Posterior) -> EvidenceError:
    """log Z, its standard error, the estimator of that and why it was chosen, and the DTM bound.

    Raises:
        InvalidInput: for anything else than a `Posterior`.
    """
    require_posterior("evidence_error", posterior)
    method = posterior.log_evidence_method
    return EvidenceError(
        posterior.log_evidence, posterior.log_evidence_se, posterior.dtm_bound, method, _WHY[method]
    )


def log_z_spread(posterior: Posterior) -> LogZSpread:
    """Compare the spread of log Z between replicates with their own standard errors (chi-squared).

    Raises:
        InvalidInput: for one system, or systems that are different problems.
    """
    require_replicates(posterior, "log_z_spread")
    own, _ = evidence.standard_error(
        posterior.log_z,
        weights.normalise(posterior.log_w),
        posterior.eves,
        posterior.trace["resampled"].sum(1),
        multinomial=posterior._is_multinomial,
        replicates=False,
    )
    spread, claimed = posterior.log_z.std(), own.nanmedian()
    degrees = torch.as_tensor(len(own) - 1.0, dtype=torch.float64, device=own.device)
    p = torch.special.gammaincc(degrees / 2, degrees / 2 * (spread / claimed).square())
    return LogZSpread(float(spread), float(claimed), float(p))


def r_hat(
    posterior: Posterior,
    f: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    num_draws: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Rank-normalised split R-hat of f between independent systems, on equal-weight draws.

    Arguments:
        posterior: replicates of one problem.
        f: (M, *E) -> (M, *F), by default the coordinates.
        num_draws: per system; default as many as particles, at most 1000.
        seed: of the draws.

    Returns:
        (*F) float64; NaN where f is constant or not finite.

    Raises:
        InvalidInput: for one system, systems that are different problems, fewer than four draws.
    """
    require_replicates(posterior, "r_hat")
    S, N = posterior.log_w.shape
    num = min(N, _MOST_DRAWS) if num_draws is None else num_draws
    check_counts({"r_hat: num_draws": (num, _FEWEST_DRAWS)})
    index = posterior.ancestors_of_draws(num, seed)
    drawn = posterior.x[torch.arange(S, device=index.device)[:, None], index]
    values = f(drawn.flatten(0, 1)).double()
    return rank_r_hat(values.reshape(S, num, -1)).reshape(values.shape[1:])


def rank_r_hat(draws: Tensor) -> Tensor:
    """R-hat (F,) of draws (S, n, F), each system split in two; n at least 4."""
    half = draws.shape[1] // 2
    split = torch.cat([draws[:, :half], draws[:, -half:]]).double()
    sound = torch.where(split.isfinite().all(0).all(0), split, 0.0)  # constants give NaN
    n = sound.shape[0] * half
    ordered = sound.flatten(0, 1).sort(0).values
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    bulk, tail = _classic(_scores(sound)), _classic(_scores((sound - middle).abs()))
    return torch.fmax(bulk, tail)  # of one point each: infinitely far apart, their spread 0 / 0


def _scores(values: Tensor) -> Tensor:
    """Normal scores (S, n, F) of the ranks of all S n values of each of F columns, ties averaged."""
    columns = values.flatten(0, 1).mT.contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns)
    rank = (below + torch.searchsorted(ordered, columns, right=True) + 1).double() / 2
    score = torch.special.ndtri((rank - 0.375) / (columns.shape[1] + 0.25))
    return score.mT.reshape(values.shape)


def _classic(values: Tensor) -> Tensor:
    """Gelman and Rubin's R-hat (F,) of values (S, n, F)."""
    n = values.shape[1]
    within, between = values.var(1).mean(0), values.mean(1).var(0)
    return (between / within + (n - 1) / n).sqrt()


def require_replicates(posterior: Posterior, who: str) -> None:
    """Raise InvalidInput unless it is a posterior with two replicates of one problem at least."""
    require_posterior(who, posterior)
    S = len(posterior.log_z)
    if S < 2:
        pooled = "pooled" in posterior.settings
        raise InvalidInput(
            f"{who}: this posterior has one system, and only independent systems can be compared. "
            + ("Ask the run from before `pooled()`." if pooled else "Run with num_systems=4.")
        )
    if not posterior.are_replicates:
        raise InvalidInput(
            f"{who}: the {S} systems have different observations: they are to differ. Run each "
            "observation by itself with num_systems=4."
        )
