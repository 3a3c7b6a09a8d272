r"""Numbers about weights alone: how many particles they are worth, and how heavy their tail is.

    perplexity        exp(-sum W log W) / N             in (0, 1], 1 for equal weights
    largest weight    max W                             in [1 / N, 1]
    k-hat             shape of a generalized Pareto law fitted to the M = min(N / 5, 3 sqrt N) largest

Averages with weights of tail shape k have moments up to order 1 / k: a finite variance below 1/2, an
error that still falls usefully with N below 0.7, no mean above 1. ESS and conditional ESS are in
`smcguide.weights`.

References: Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling" (arXiv
1507.02646); Zhang, Stephens, "A new and efficient estimation method for the generalized Pareto
distribution" (Technometrics, 2009).
"""

import math

import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.inputs import require_log_weights

_PRIOR_K, _PRIOR_N = 0.5, 10  # a weak prior of the fit: ten exceedances that say 1/2
_FEWEST = 5  # exceedances that can be fitted
_FLAT = 1e-9  # relative height of a tail that is rounding


def perplexity(log_w: Tensor) -> Tensor:
    """exp(entropy) / N of the weights of each system, in (0, 1].

    Arguments:
        log_w: (S, N) log-weights, or (N,).

    Returns:
        (S,), or a scalar.

    Raises:
        InvalidInput: for anything else than a tensor.
    """
    require_log_weights("perplexity", log_w)
    W = weights.normalise(log_w)
    return torch.exp(torch.special.entr(W).sum(-1)) / W.shape[-1]


def largest_weight(log_w: Tensor) -> Tensor:
    """The largest normalised weight of each system, (S,); a scalar for log_w (N,).

    Raises:
        InvalidInput: for anything else than a tensor.
    """
    require_log_weights("largest_weight", log_w)
    return weights.normalise(log_w).amax(-1)


def pareto_k(log_w: Tensor) -> Tensor:
    """k-hat of each system, as ArviZ and loo compute it.

    Arguments:
        log_w: (S, N) log-weights, or (N,).

    Returns:
        (S,) float64, or a scalar. inf where fewer than five weights make up the tail: always so for
        N <= 20, and where nearly all particles are dead. -inf where there is no tail, the largest
        weights being equal. NaN where a weight is.

    Raises:
        InvalidInput: for anything else than a tensor.
    """
    require_log_weights("pareto_k", log_w)
    flat = log_w.double().reshape(-1, log_w.shape[-1])
    k = torch.stack([_k_hat(row) for row in flat])
    return k.reshape(log_w.shape[:-1])


def _k_hat(log_w: Tensor) -> Tensor:
    """k-hat of one system, (N,)."""
    N = len(log_w)
    if bool(log_w.isnan().any()):
        return log_w.new_tensor(math.nan)
    a = (log_w - log_w.max()).sort().values
    size = math.ceil(min(N / 5, 3 * math.sqrt(N)))
    smallest = math.log(torch.finfo(torch.float64).tiny)
    cutoff = a[max(0, N - 1 - size)].clamp(min=smallest)
    if float(cutoff) > -_FLAT:
        return a.new_tensor(-math.inf)
    tail = a[a > cutoff]
    if len(tail) < _FEWEST:
        return a.new_tensor(math.inf)
    return _pareto_shape(tail.exp() - cutoff.exp())


def _pareto_shape(y: Tensor) -> Tensor:
    """Zhang and Stephens' shape of sorted exceedances y (n,), shrunk towards 1/2.

    With the likelihood written in b = -k / sigma, k(b) = mean log(1 - b y), the estimate is k at the
    posterior mean of b, on a grid of b that the data's first quartile and maximum scale.
    """
    n = len(y)
    grid = 30 + int(math.sqrt(n))
    place = torch.arange(1, grid + 1, dtype=torch.float64, device=y.device) - 0.5
    b = 1 / y[-1] + (1 - (grid / place).sqrt()) / (3 * y[int(n / 4 + 0.5) - 1])
    k = torch.log1p(-b[:, None] * y).mean(1)
    posterior = torch.softmax(n * (torch.log(-b / k) - k - 1), 0)
    kept = posterior >= 10 * torch.finfo(torch.float64).eps
    b_mean = (b * posterior)[kept].sum() / posterior[kept].sum()
    k_mean = torch.log1p(-b_mean * y).mean()
    return (n * k_mean + _PRIOR_N * _PRIOR_K) / (n + _PRIOR_N)
