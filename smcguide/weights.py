"""Arithmetic of log-weights: the only logsumexp of the package.

A population carries log-weights log w of shape (S, N), float64, unnormalised. With W = w / sum w

    log-mean     log (1/N) sum w                      the evidence increment
    ESS          (sum w)^2 / sum w^2                  between 1 and N
    CESS         N (sum W v)^2 / sum W v^2            one step's discrepancy, v the incremental weights

Everything reduces over the last axis. -inf is a legal log-weight (a dead particle).

References: Kong, Liu, Wong (1994) for ESS; Zhou, Johansen, Aston, "Toward automatic model comparison:
an adaptive sequential Monte Carlo approach" (arXiv 1303.3123) for CESS.
"""

import math

import torch
from torch import Tensor


def log_sum_exp(a: Tensor, dim: int = -1) -> Tensor:
    """log sum exp(a) along `dim`; -inf where every entry is -inf."""
    return torch.logsumexp(a, dim)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log of the mean weight, shape (S,)."""
    return log_sum_exp(log_w) - math.log(log_w.shape[-1])


def normalise(log_w: Tensor) -> Tensor:
    """Normalised weights W, shape (S, N), float64, summing to one."""
    return torch.softmax(log_w.double(), -1)


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size, shape (S,), safe for any scale; NaN where every weight is zero."""
    return summary(log_w)[0]


def summary(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """ESS and log of the mean weight, (S,) each, with one exponential per weight."""
    top = log_w.amax(-1).clamp(min=torch.finfo(log_w.dtype).min)  # all dead: 0 / 0 and log 0
    w = torch.exp(log_w - top[..., None])
    total = w.sum(-1)
    log_mean = torch.log(total / log_w.shape[-1]) + top
    return total.square() / w.square().sum(-1), log_mean


def cess(log_w: Tensor, log_v: Tensor) -> Tensor:
    """Conditional ESS of incremental weights `log_v` given the previous weights `log_w`, shape (S,)."""
    log_W = log_w - log_sum_exp(log_w)[..., None]
    log_ratio = 2 * log_sum_exp(log_W + log_v) - log_sum_exp(log_W + 2 * log_v)
    return log_w.shape[-1] * torch.exp(log_ratio)


def inverse_cdf(log_w: Tensor, points: Tensor) -> Tensor:
    """Ancestors of `points` in [0, 1) under the weights' distribution function.

    Arguments:
        log_w: (S, N) log-weights, any float dtype.
        points: (S, M) points of the unit interval.

    Returns:
        (S, M) indices; point u gets the first i with W_0 + ... + W_i > u, never one of weight zero.
        Points in ascending order are found faster.
    """
    return torch.searchsorted(running(log_w, 1), points.double().contiguous(), right=True)


def counted(ends: Tensor, num: int) -> Tensor:
    """Ancestors (S, num) in ascending order from running numbers of copies: slot n gets the number of
    particles that end at n or before.

    One pass of counting in place of a search for each slot.

    Arguments:
        ends: (S, N) whole numbers from 0 to num, ascending: how many copies particles 0, ..., i have
            together. Slots behind the last end get N.
        num: how many slots.
    """
    ends = ends.long()
    count = torch.zeros(len(ends), num + 1, dtype=torch.long, device=ends.device)
    return count.scatter_add_(1, ends, torch.ones_like(ends)).cumsum(-1)[:, :num]


def running(log_w: Tensor, num: int) -> Tensor:
    """num (W_0 + ... + W_i), (S, N) float64. It is inf from the last positive weight on, so that rounding
    cannot end short of num, and everywhere in a system without legal weights."""
    cdf = normalise(log_w).cumsum(-1)
    if cdf.device.type != "cpu":  # a parallel sum may fall by a rounding where a weight is zero
        cdf = cdf.cummax(-1).values
    end = cdf[..., -1:]
    return torch.where(cdf < end, cdf * (num / end), torch.inf)


def mean(values: Tensor, log_w: Tensor) -> Tensor:
    """Weighted mean (S, *F) of values (S, N, *F), float64; a dead particle may hold anything."""
    W = normalise(log_w).reshape(*log_w.shape, *[1] * (values.ndim - 2))
    return (W * torch.where(W > 0, values.double(), 0.0)).sum(1)


def quantile(values: Tensor, log_w: Tensor, levels: Tensor) -> Tensor:
    """Weighted quantiles (Q, S, *F) of values (S, N, *F): the smallest value whose distribution
    function reaches the level."""
    x, order = values.reshape(*log_w.shape, -1).mT.sort(-1)
    W = normalise(log_w)[:, None].expand(x.shape).gather(-1, order)
    cdf = W.cumsum(-1)
    alive = levels.clamp(min=torch.finfo(cdf.dtype).tiny)  # never a value of weight zero
    points = alive.expand(*x.shape[:2], -1).contiguous()
    index = torch.searchsorted((cdf / cdf[..., -1:]).contiguous(), points)
    out = x.gather(-1, index.clamp(max=x.shape[-1] - 1)).movedim(-1, 0)
    return out.reshape(len(levels), len(values), *values.shape[2:])
