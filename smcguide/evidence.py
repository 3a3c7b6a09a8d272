r"""Errors of Monte Carlo answers: of a log-evidence, and of a weighted mean from a single run.

Let W be the final weights and E_i the index of particle i's ancestor at time 0 (its "eve"). The
particles of one eve are a family; families are nearly independent of each other. With the family
sums F_e = sum_{i: E_i = e} W_i, N particles, R resampling events, eta = sum_i W_i phi_i:

    log Z, multinomial   rel. var Z = 1 - (N / (N - 1))^(R + 1) (1 - sum_e F_e^2)   (`lee_whiteley`)
    log Z, otherwise     rel. var Z = sum_e F_e^2 - 1 / N                           (a usable heuristic)
    log Z, replicates    the spread of their log Z; for their mean the jackknife    (`islands`)
    eta                  var = sum_e (sum_{i: E_i = e} W_i (phi_i - eta))^2         (`chan_lai`)

The first is exact for every N >= 2: times Z^2 it is an unbiased estimate of the variance of the
estimated Z, if R is not random. Without its correction sum_e F_e^2 is about (R + 1) / N too large,
often more than the answer. The last is about R / N of itself too small. Nothing can be told once all
particles share one eve, or where an estimate is negative: NaN. Families of a shorter memory
(`olsson_douc`) live on in long runs.

References: Lee, Whiteley, "Variance estimation in the particle filter" (arXiv 1509.00394); Chan, Lai,
"A general theory of particle filters in hidden Markov models and some applications" (arXiv 1312.5114);
Olsson, Douc, "Numerically stable online estimation of variance in particle filters" (arXiv
1701.01001); Verge, Dubarry, Del Moral, Moulines, "On parallel implementation of sequential Monte
Carlo methods: the island particle model" (arXiv 1306.3911).
"""

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput

POOL = "jackknife over the pooled systems"
REPLICATES = "spread over replicate systems"
LEE_WHITELEY = "Lee-Whiteley, single run"
GENEALOGY = "genealogy heuristic, single run"
WITHHELD = "withheld: no evidence without exact weights"

_FAMILIES = 20  # distinct Enoch indices wanted by an automatic lag


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
    if multinomial:
        variance, name = lee_whiteley(W, eves, resamplings), LEE_WHITELEY
    else:
        variance, name = _families(W, eves).square().sum(1) - 1 / W.shape[1], GENEALOGY
    silent = (_survivors(W, eves) < 2) | (variance < 0)
    return variance.clamp(min=0).sqrt().masked_fill(silent, torch.nan), name


def lee_whiteley(W: Tensor, eves: Tensor, resamplings: Tensor) -> Tensor:
    """Relative variance (S,) of the Z of multinomial resampling from a single run,

        1 - (N / (N - 1))^(R + 1) (1 - sum_e F_e^2).

    Below zero at times, since it is unbiased; 1 once all particles share one eve. Not valid for
    any other resampling scheme.

    Arguments:
        W: (S, N) normalised final weights.
        eves: (S, N) ancestors at time 0.
        resamplings: (S,) number of resampling events R.
    """
    N = W.shape[1]
    factor = (N / max(N - 1, 1)) ** (resamplings.double() + 1)
    return 1 - factor * (1 - _families(W, eves).square().sum(1))


def islands(log_z: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean Z of independent replicates (islands), and its standard error by the jackknife.

    With l_s = log mean_{r != s} Z_r the variance is (S - 1) / S sum_s (l_s - mean l)^2. It equals the
    relative variance of the mean of Z where that is small, and grows without bound, as it should,
    where one island outweighs all the others.

    Arguments:
        log_z: (S,) log-evidence estimates of replicates of one problem.

    Returns:
        Two scalars; the error is NaN for a single island, or where only one has Z > 0.
    """
    S = len(log_z)
    share, best = weights.normalise(log_z), log_z.argmax()
    others = torch.arange(S, device=log_z.device) != best
    left = torch.log1p(-share)  # log of what is left of the sum without s
    rest = log_z.masked_fill(~others, -torch.inf)  # 1 - share cancels for the best, and only there
    left = torch.where(others, left, weights.log_sum_exp(rest) - weights.log_sum_exp(log_z))
    variance = (left - left.mean()).square().sum() * (S - 1) / S
    return weights.log_mean_exp(log_z), variance.sqrt()


def chan_lai(values: Tensor, W: Tensor, eves: Tensor) -> Tensor:
    """Variance of the weighted mean eta = sum_i W_i phi_i from the families of a single run,

        sum_e ( sum_{i: E_i = e} W_i (phi_i - eta) )^2.

    Arguments:
        values: (S, N, *F) values phi of the final particles; a dead one may hold anything.
        W: (S, N) normalised final weights.
        eves: (S, N) ancestors at time 0.

    Returns:
        (S, *F) float64; NaN where fewer than two families have weight.
    """
    weight = W.double()
    phi = values.double().reshape(*W.shape, -1)
    phi = torch.where(weight[..., None] > 0, phi, 0.0)
    gap = phi - (weight[..., None] * phi).sum(1, keepdim=True)
    total = _families(weight[..., None] * gap, eves)
    silent = _survivors(weight, eves) < 2
    variance = total.square().sum(1).masked_fill(silent[:, None], torch.nan)
    return variance.reshape(len(W), *values.shape[2:])


def olsson_douc(
    values: Tensor, W: Tensor, ancestors: Tensor, lag: int | None = None
) -> tuple[Tensor, Tensor]:
    """`chan_lai` with families of a common ancestor `lag` generations back ("Enoch indices").

    A short lag forgets the errors made before it, a long one loses the families; both make the estimate
    too small. Hundreds of particles leave a wide range of lags between the two, 30 hardly any.

    Arguments:
        values: (S, N, *F) values of the final particles.
        W: (S, N) normalised final weights.
        ancestors: (S, K + 1, N); row k holds the parents, in generation k - 1, of generation k, its own
            places where nothing was resampled. Row 0 is not used.
        lag: generations, at least 0; beyond K it means K, the eves. None for the largest lag at which a
            system still has 20 families of positive weight (N / 4 where that is fewer, never below 2).

    Returns:
        (S, *F) variances as in `chan_lai`, and the lags used (S,).

    Raises:
        InvalidInput: for a negative lag.
    """
    if lag is not None and lag < 0:
        raise InvalidInput(f"olsson_douc: lag must be at least 0, got {lag}; None chooses one.")
    S, generations, N = ancestors.shape
    wanted = max(2, min(_FAMILIES, N // 4)) if lag is None else 0
    steps = generations - 1 if lag is None else min(lag, generations - 1)
    enoch = torch.arange(N, device=ancestors.device).expand(S, N)
    goes, used = torch.ones_like(enoch[:, 0], dtype=torch.bool), torch.zeros_like(enoch[:, 0])
    for k in range(generations - 1, generations - 1 - steps, -1):
        further = ancestors[:, k].gather(1, enoch)
        goes = goes & (_survivors(W, further) >= wanted)
        enoch, used = torch.where(goes[:, None], further, enoch), used + goes
    return chan_lai(values, W, enoch), used


def _survivors(W: Tensor, index: Tensor) -> Tensor:
    """Number (S,) of families with positive weight."""
    return (_families(W, index) > 0).sum(1)


def _families(a: Tensor, index: Tensor) -> Tensor:
    """Sums of a (S, N, ...) over the particles of equal index (S, N), in the place of that index."""
    index = index.reshape(*index.shape, *[1] * (a.ndim - 2)).expand_as(a)
    return torch.zeros_like(a).scatter_add_(1, index, a)
