r"""Vector-valued Stein control variates: several expectations of one posterior, with less variance.

With the score s = grad log pi of the target, the Stein kernel of a base kernel k,

    k0(x, y) = div_x div_y k + s(x) . grad_y k + s(y) . grad_x k + k s(x) . s(y),

spans functions of mean zero under pi. T integrands f are fitted together by

    g(x) = B sum_j k0(x, x_j) a_j,

where B = L L^T (T, T), the correlation of the integrands, says how related they are, with a ridge; and

    E f  ~  sum_i W_i (f(x_i) - g(x_i)),

where g comes from the half of the particles that x_i is not in, families undivided: the standard error
is that of an ordinary weighted mean. The base kernel is, in coordinates of unit variance,

    k(x, y) = 1 + x . y + exp(-|x - y|^2 / (2 l^2)).

Its polynomial part makes means and second moments of a Gaussian target exact, up to the ridge, once there
are more particles than the d^2 + d polynomials; the rest helps in few dimensions only: of the variance of
means 400 particles of a mixture leave less than 1 % in the plane and about half in ten dimensions
(benchmarks/estimators.py). Length l and ridge are chosen for each integrand by
cross-validation inside the half that is fitted.

The particles target the law of the discretised chain, the control variates have mean zero under pi: with
a score of the exact target the estimate moves towards it, with a wrong one away from the truth.

References: Sun, Barp, Briol, "Vector-Valued Control Variates" (arXiv 2109.08944), whose B is learned by
gradient descent; Oates, Girolami, Chopin, "Control functionals for Monte Carlo integration" (arXiv
1410.2392); South, Karvonen, Nemeth, Girolami, Oates, "Semi-exact control functionals from Sard's
method" (arXiv 2002.00033) for the polynomial part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.estimators.families import error_of_mean
from smcguide.diagnostics.estimators.remainder import TINY, remainders
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


@dataclass(frozen=True)
class Controlled:
    """Expectations with control variates beside the plain ones; all (S, T), or (T,) without systems.

    Attributes:
        estimates: with control variates.
        standard_errors: of `estimates`, from the families of the run.
        plain: without.
        plain_errors: of `plain`.
        relatedness: (S, T, T) or (T, T), B, of all particles.
    """

    estimates: Tensor
    standard_errors: Tensor
    plain: Tensor
    plain_errors: Tensor
    relatedness: Tensor

    @property
    def variance_ratio(self) -> Tensor:
        """Variance with control variates over the plain one, as estimated; small is good."""
        return (self.standard_errors / self.plain_errors).square()


def scores(posterior: Posterior, log_density: Callable[[Tensor], Tensor]) -> Tensor:
    """grad log pi at all particles, (S, N, *E), by differentiation.

    Arguments:
        posterior: a result.
        log_density: (M, *E) -> (M,), up to a constant, e.g. lambda x: prior.log_prob(x) - cost(x) for a
            `GaussianMixture` and a cost on flat batches.

    Raises:
        InvalidInput: for a density of another shape, or without a gradient.
    """
    x = posterior.x.detach().flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        value = log_density(x)
        if value.shape != x.shape[:1]:
            raise InvalidInput(
                f"scores: log_density gave {tuple(value.shape)} for {len(x)} events; expected one number "
                f"per event, ({len(x)},)."
            )
        if not value.requires_grad:
            raise InvalidInput("scores: log_density has no gradient; give the scores themselves.")
        (slope,) = torch.autograd.grad(value.sum(), x)
    return slope.reshape(posterior.x.shape)


def control_variates(
    posterior: Posterior, f: Callable[[Tensor], Tensor], score: Tensor, *, seed: int = 0
) -> Controlled:
    """Posterior expectations of several functions with Stein control variates.

    Arguments:
        posterior: a result.
        f: (M, *E) -> (M, T), T integrands.
        score: (S, N, *E) grad log pi of the target at the particles, e.g. from `scores`.
        seed: of the choice of 1000 particles for the fit where a half has more.

    Raises:
        InvalidInput: for shapes that do not fit, scores that are not finite where there is weight, fewer
            than two families with weight in a system.
    """
    x = posterior.x
    values = f(x.flatten(0, 1)).detach().double()
    if values.ndim != 2 or score.shape != x.shape:
        raise InvalidInput(
            f"control_variates: f gave {tuple(values.shape)}, expected (M, T) for M = {len(values)}; "
            f"score is {tuple(score.shape)}, expected {tuple(x.shape)}."
        )
    values = values.unflatten(0, x.shape[:2])
    (left,) = remainders([posterior], [values], [score], seed)
    log_w = posterior.log_w
    found = (
        weights.mean(left, log_w),
        error_of_mean(posterior, left),
        weights.mean(values, log_w),
        error_of_mean(posterior, values),
        _correlation(values, weights.normalise(log_w)),
    )
    return Controlled(*(posterior._answer(a) for a in found))


def _correlation(values: Tensor, W: Tensor) -> Tensor:
    """Of integrands (S, N, T) with weights W (S, N); zero where one does not vary; (S, T, T)."""
    share = W[..., None]
    values = torch.where(share > 0, values, 0.0)
    mean = (share * values).sum(1, keepdim=True)
    gap = values - mean
    variance = (share * gap.square()).sum(1, keepdim=True)
    unit = torch.where(variance > TINY * mean.square(), gap / variance.sqrt(), 0.0)
    return unit.mT @ (share * unit)
