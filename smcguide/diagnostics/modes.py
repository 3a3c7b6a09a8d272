r"""Modes: where the weight lies, how sure a run is of it, and whether replicate systems agree.

Each particle belongs to the nearest of K centres (Euclidean distance over flat events, so coordinates
should be on one scale). The occupancy of mode k is the weight of its particles. Mean and variance do
not show a mode that was lost; the occupancies p_sk of S replicate systems do. Their spread

    D = sum_s sum_k (p_sk - m_k)^2 / m_k,      m_k = mean_s p_sk,

is chi^2 with (S - 1)(K - 1) degrees of freedom over n, if each system's occupancies are worth n
independent draws. So `observed_draws` = (S - 1)(K - 1) / D is what the systems' occupancies are worth
as they scatter, and `claimed_draws` what their own standard errors say, or their ESS where that is
smaller or nothing else can be told. Systems that each fall into a mode of their own claim hundreds and
show about one.

Centres come from the user or from `find_modes`: weighted k-means++ (Arthur, Vassilvitskii, "k-means++:
the advantages of careful seeding", SODA 2007) and Lloyd's iteration.
"""

from dataclasses import dataclass

import torch
from scipy.stats import chi2
from torch import Generator, Tensor

from smcguide import weights
from smcguide.diagnostics.agreement import require_replicates
from smcguide.errors import InvalidInput, check_counts
from smcguide.posterior import Posterior

_STARTS, _ITERATIONS = 10, 100
_EXPECTED = 5.0  # draws that a mode should have got before its absence is a loss
_SHARE = 0.1  # of its mean occupancy, below which a mode counts as lost


@dataclass(frozen=True)
class Occupancy:
    """Weights of modes.

    Attributes:
        weights: (S, K) or (K,), summing to one.
        standard_error: of the same shape, from the families of the run; NaN where they cannot tell.
    """

    weights: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class Agreement:
    """How far replicate systems agree on the weights of modes, see the module docstring.

    Attributes:
        occupancy: (S, K).
        mean: (K,) over systems.
        observed_draws: independent draws that scatter as much as the systems do.
        claimed_draws: independent draws that the systems say they are worth.
        statistic: claimed_draws * D.
        p_value: of the statistic; small where the systems disagree by more than they claim.
        lost: (S, K) bool, systems with less than a tenth of a mode's mean occupancy where at least five
            of the claimed draws were due.
    """

    occupancy: Tensor
    mean: Tensor
    observed_draws: float
    claimed_draws: float
    statistic: float
    p_value: float
    lost: Tensor


def mode_occupancy(posterior: Posterior, centres: Tensor) -> Occupancy:
    """Weight of each mode.

    Arguments:
        posterior: a result.
        centres: (K, *E), K >= 1.

    Raises:
        InvalidInput: for centres of another shape, centres or events with weight that are not finite.
    """
    event = tuple(posterior.x.shape[2:])
    if centres.ndim < 1 or len(centres) < 1 or tuple(centres.shape[1:]) != event:
        raise InvalidInput(
            f"mode_occupancy: centres of shape {tuple(centres.shape)}; expected (K, *E) with events E = "
            f"{event}, e.g. from find_modes(posterior, 2)."
        )
    if not bool(centres.isfinite().all()):
        raise InvalidInput("mode_occupancy: centres must be finite; no particle is near to others.")
    _check_events(posterior, "mode_occupancy")
    places = centres.to(posterior.x.device).reshape(len(centres), -1).double()

    def belongs(x: Tensor) -> Tensor:
        nearest = _squares(x.double().reshape(len(x), -1), places).argmin(1)
        return torch.nn.functional.one_hot(nearest, len(places)).double()

    return Occupancy(posterior.expect(belongs), posterior.expect_se(belongs))


def find_modes(posterior: Posterior, num: int, *, seed: int = 0) -> Tensor:
    """Centres (num, *E) of clusters of all weighted particles, the heaviest first.

    Every system counts alike. The best of ten starts; a cluster is no more than a region of particles,
    so plot them before calling it a mode.

    Raises:
        InvalidInput: for a num that is no whole number, below 1, or above the number of different
            particles with weight; events with weight that are not finite.
    """
    check_counts({"num": (num, 1)})
    _check_events(posterior, "find_modes")
    x = posterior.x.double().reshape(posterior.log_w.numel(), -1)
    W = weights.normalise(posterior.log_w).flatten() / len(posterior.log_w)
    x, W = x[W > 0], W[W > 0]
    different = len(x.unique(dim=0))
    if num > different:
        raise InvalidInput(
            f"find_modes: num={num}; give at most {different}, the number of different "
            "particles with weight."
        )
    generator = torch.Generator(x.device).manual_seed(seed)
    found = [_lloyd(x, W, _spread_out(x, W, num, generator)) for _ in range(_STARTS)]
    centres, mass, _ = min(found, key=lambda one: one[2])
    return centres[mass.argsort(descending=True)].reshape(num, *posterior.x.shape[2:])


def modes_agree(posterior: Posterior, centres: Tensor) -> Agreement:
    """Whether the replicate systems of a run agree on the weights of modes.

    Arguments:
        posterior: with at least two systems, replicates of one problem.
        centres: (K, *E), e.g. from `find_modes`.

    Raises:
        InvalidInput: for a single system, different observations, or centres of another shape.
    """
    require_replicates(posterior, "modes_agree")
    S, found = len(posterior.log_w), mode_occupancy(posterior, centres)
    p = found.weights.reshape(S, -1)
    mean = p.mean(0)
    used = mean > 0
    D = float(((p - mean).square() / mean)[:, used].sum())
    degrees = (S - 1) * (int(used.sum()) - 1)
    variance = float(found.standard_error.reshape(S, -1).square().nanmean(0).sum())
    own = float((mean * (1 - mean)).sum()) / variance if variance > 0 else torch.inf
    ess = float(weights.ess(posterior.log_w).mean())
    claimed = min(own, ess)
    statistic = claimed * D
    lost = (p < _SHARE * mean) & (claimed * mean >= _EXPECTED)
    observed = degrees / D if D > 0 else torch.inf
    p_value = float(chi2.sf(statistic, degrees)) if degrees else 1.0
    return Agreement(p, mean, observed, claimed, statistic, p_value, lost)


def _check_events(posterior: Posterior, who: str) -> None:
    """Raise InvalidInput unless all events with weight are finite."""
    broken = ~posterior.x.reshape(*posterior.log_w.shape, -1).isfinite().all(-1)
    num = int((broken & (weights.normalise(posterior.log_w) > 0)).sum())
    if num:
        raise InvalidInput(
            f"{who}: {num} particles with weight are not finite; they are near to no centre."
        )


def _squares(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (M, K)."""
    return torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


def _spread_out(x: Tensor, W: Tensor, num: int, generator: Generator) -> Tensor:
    """k-means++: each further centre is a particle drawn with weight times squared distance."""
    centres = x[torch.multinomial(W, 1, generator=generator)]
    for _ in range(num - 1):
        chance = W * _squares(x, centres).min(1).values
        centres = torch.cat([centres, x[torch.multinomial(chance, 1, generator=generator)]])
    return centres


def _lloyd(x: Tensor, W: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, float]:
    """Centres (K, d), their weights (K,) and the weighted mean squared distance, once it is still."""
    before = torch.full_like(W, -1, dtype=torch.long)
    mass, inertia = torch.zeros_like(centres[:, 0]), torch.inf
    for _ in range(_ITERATIONS):
        least, nearest = _squares(x, centres).min(1)
        inertia = float((W * least).sum())
        mass = torch.zeros_like(mass).index_add_(0, nearest, W)
        if torch.equal(nearest, before):
            break
        before = nearest
        total = torch.zeros_like(centres).index_add_(0, nearest, W[:, None] * x)
        centres = torch.where(mass[:, None] > 0, total / mass[:, None], centres)
    return centres, mass, inertia
