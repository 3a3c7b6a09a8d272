"""Wasserstein distances on the line, between weighted samples, in closed form.

    W_p^p = int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du

F^{-1} and G^{-1} are steps, which change at the cumulative weights of the sorted samples. Between two
neighbours of the merged cumulative weights both are constant, so the integral is a sum of n + m terms:
no resampling, no grid.
"""

import torch
from torch import Tensor

from smcguide.diagnostics.distances.samples import Cloud, clouds
from smcguide.errors import InvalidInput


def wasserstein_1d(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    order: float = 2.0,
) -> Tensor:
    """Wasserstein distance of each coordinate's marginal.

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        order: p, at least 1 and finite.

    Returns:
        W_p (*E), float64, in the units of x.

    Raises:
        InvalidInput: for other shapes, no samples, samples that are not finite, or another order.
    """
    if not 1 <= order < float("inf"):
        raise InvalidInput(f"wasserstein_1d: order must be finite and at least 1, got {order}.")
    a, b = clouds("wasserstein_1d", x, y, log_w, log_v)
    return transport_cost(a.x.mT, a, b.x.mT, b, order).pow(1 / order).reshape(a.event_shape)


def transport_cost(x: Tensor, a: Cloud, y: Tensor, b: Cloud, order: float = 2.0) -> Tensor:
    """W_p^p (L,) of x (L, n) with the weights of a and y (L, m) with those of b; differentiable."""
    x, of_x = x.sort(-1)
    y, of_y = y.sort(-1)
    if a.is_equal and b.is_equal and a.num == b.num:
        return _power(x - y, order).mean(-1)
    levels, by = torch.cat([_cdf(a.W[of_x]), _cdf(b.W[of_y])], -1).sort(-1)
    is_x = by < a.num
    # below level k the quantile functions are at the sample that as many own levels precede
    at_x, at_y = _preceding(is_x, a.num), _preceding(~is_x, b.num)
    width = levels.diff(dim=-1, prepend=torch.zeros_like(levels[:, :1]))
    return (width * _power(x.gather(-1, at_x) - y.gather(-1, at_y), order)).sum(-1)


def _power(gap: Tensor, order: float) -> Tensor:
    return gap.square() if order == 2 else gap.abs().pow(order)


def _cdf(W: Tensor) -> Tensor:
    F = W.cumsum(-1)
    return F / F[..., -1:]  # ends at exactly one


def _preceding(own: Tensor, num: int) -> Tensor:
    return (own.cumsum(-1) - own.long()).clamp(max=num - 1)
