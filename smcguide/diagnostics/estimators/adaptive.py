r"""Several expectations under p from one weighted sample: adaptive importance sampling, control variates.

With draws x from q, weights w = p / q, and functions h of mean zero under p (if the user knows some),
each E_p f_j is estimated by the mean of

    w f_j - b_j . (w - 1, w h),

unbiased for any q and any fixed b. The q that is best for the sum of the relative variances is

    q ~ p sqrt( sum_j (f_j - b_j . (1, h))^2 / v_j ),

v_j the variance of f_j under p: nobody knows it, so q is a defensive mixture (`Defensive`) fitted in
rounds to the draws so far, weighted by the right-hand side over their mixture law, with b from a
regression on them. Each round costs draws. Adapting stops when the fitted q no longer promises to
earn back what the next round would cost: when

    V_new / (left - round)  >=  V_now / left,

V the sum over j of the predicted variance of one draw in units of v_j, `left` the budget. All that is
left is then spent on independent draws from the best q so far, each with a b from the four fifths of
them that it is not in: the estimates are unbiased.

Measured (benchmarks/estimators.py): four peaked integrands under a Gaussian gain factors of 4 to 30 at
once; smooth ones under a uniform law gain nothing but what the user's control variates bring, and pay
a tenth of the budget for finding out.

Reference: Demange-Chryst, Bachoc, Morio, "Efficient estimation of multiple expectations with the same
sample by adaptive importance sampling and control variates" (arXiv 2212.00568). Here w - 1 stands beside
control variates of the user's, and q is a mixture with a share of p.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.diagnostics.estimators.proposal import Defensive, fitted
from smcguide.diagnostics.estimators.sample import Sample, evaluated, mixed
from smcguide.errors import check_counts

_RIDGE = 1e-8
_DEFENCE = 0.2  # share of p in every q
_LEAST = 100
_FOLDS = 5


@dataclass(frozen=True)
class Expectations:
    """Estimates of several expectations from one sample.

    Attributes:
        estimates: (J,).
        covariance: (J, J) of the estimates.
        variance_ratio: (J,) estimated variance over that of plain draws from p at the whole budget.
        rounds: how many rounds of adaptation were made.
        final_draws: independent draws behind the estimates.
    """

    estimates: Tensor
    covariance: Tensor
    variance_ratio: Tensor
    rounds: int
    final_draws: int

    @property
    def standard_errors(self) -> Tensor:
        """(J,)."""
        return self.covariance.diagonal().sqrt()


def expectations(
    f: Callable[[Tensor], Tensor],
    draw: Callable[[int, Generator], Tensor],
    log_p: Callable[[Tensor], Tensor],
    budget: int,
    *,
    controls: Callable[[Tensor], Tensor] | None = None,
    num_components: int = 3,
    seed: int = 0,
) -> Expectations:
    """E_p f for several functions at once.

    Arguments:
        f: (M, *E) -> (M, J).
        draw: (num, generator) -> (num, *E) independent draws from p.
        log_p: (M, *E) -> (M,) normalised log-density; -inf outside the support.
        budget: evaluations of f in all, at least 100. Each round takes a tenth of it.
        controls: (M, *E) -> (M, C) functions of mean zero under p, or None.
        num_components: Gaussians in the fitted mixture.
        seed: of all randomness.

    Raises:
        InvalidInput: for sizes that do not fit, values that are not finite.
    """
    check_counts({"budget": (budget, _LEAST), "num_components": (num_components, 1)})
    batch = budget // 10
    generator = torch.Generator().manual_seed(seed)
    laws = [Defensive(draw, log_p, _DEFENCE)]
    left, batches = budget, []
    while True:
        batches.append(evaluated(laws[-1], batch, f, controls, generator))
        left -= batch
        sample = mixed(batches, laws)
        b = _coefficients(sample, laws[-1])
        promise = [_variance(sample, b, law) for law in laws]
        wanted = sample.log_p - sample.log_q + _rest(sample, b).square().sum(1).log() / 2
        if not bool((wanted > -torch.inf).any()):  # f is b . (1, h) at every draw: nothing to fit
            break
        mixture = fitted(
            sample.x.reshape(len(sample.x), -1).double(), wanted, num_components, generator
        )
        law = Defensive(draw, log_p, _DEFENCE, mixture)
        if left <= 2 * batch or _variance(sample, b, law) / (left - batch) >= min(promise) / left:
            break
        laws.append(law)
    best = laws[promise.index(min(promise))]
    return _answer(evaluated(best, left, f, controls, generator), best, budget, len(laws) - 1)


def _answer(last: Sample, law: Defensive, budget: int, rounds: int) -> Expectations:
    """The estimate from the last draws, each with a b from the others: unbiased."""
    terms = torch.empty_like(last.f)
    fold = torch.arange(len(terms), device=terms.device) % _FOLDS
    for k in range(_FOLDS):
        here, others = last.take(fold == k), last.take(fold != k)
        w = here.w[:, None]
        b = _coefficients(others, law)
        terms[fold == k] = w * here.f - torch.cat([w - 1, w * here.h], 1) @ b.T
    centred = terms - terms.mean(0)
    covariance = centred.T @ centred / (len(terms) - 1) / len(terms)
    ratio = covariance.diagonal() / (_spread(last).square() / budget)
    return Expectations(terms.mean(0), covariance, ratio, rounds, len(terms))


def _spread(sample: Sample) -> Tensor:
    """Standard deviation (J,) of each f under p."""
    w = sample.w / sample.w.sum()
    return (w @ (sample.f - w @ sample.f).square()).sqrt().clamp(min=1e-150)


def _coefficients(sample: Sample, law: Defensive) -> Tensor:
    """b (J, 1 + C) that minimises the variance under `law`, by a regression on the draws so far."""
    log_q = law.log_q(sample.x, sample.log_p)
    share = torch.exp(log_q - sample.log_q)[:, None]  # law over the law of the draws
    w = torch.exp(sample.log_p - log_q)[:, None]
    c, g = w * torch.cat([torch.ones_like(w), sample.h], 1), w * sample.f
    share = share / share.sum()
    c, g = c - (share * c).sum(0), g - (share * g).sum(0)
    gram = c.T @ (share * c)
    size = gram.diagonal().clamp(min=1e-12)  # w - 1 is nothing while q is p
    return torch.linalg.solve(
        gram + _RIDGE * torch.diag(size) + 1e-12 * torch.eye(len(gram), dtype=gram.dtype),
        c.T @ (share * g),
    ).T


def _rest(sample: Sample, b: Tensor) -> Tensor:
    """(f_j - b_j . (1, h)) / sqrt(v_j), (M, J)."""
    rest = sample.f - b[:, 0] - sample.h @ b[:, 1:].T
    return rest / _spread(sample)


def _variance(sample: Sample, b: Tensor, law: Defensive) -> float:
    """Predicted sum over j of the variance of one draw from `law`, in units of v_j."""
    rest, w = _rest(sample, b), sample.w[:, None]
    ratio = torch.exp(sample.log_p - law.log_q(sample.x, sample.log_p))[:, None]
    second = (w * ratio * rest.square()).mean(0)
    return float((second - (w * rest).mean(0).square()).clamp(min=0).sum())
