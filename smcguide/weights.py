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

import numpy as np
import torch
from torch import Tensor

_BELOW_ONE = math.nextafter(1, 0)


def looking_is_free(device: torch.device) -> bool:
    """Whether a number on `device` can be looked at without waiting for it."""
    return device.type == "cpu"


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
    lowest = torch.finfo(log_w.dtype).min  # all dead: 0 / 0 and log 0
    top = log_w.amax(-1, keepdim=True).clamp_(min=lowest)
    w = torch.sub(log_w, top).exp_()
    total = w.sum(-1)
    log_mean = torch.log(total / log_w.shape[-1]).add_(top.squeeze(-1))
    return total.square_().div_(w.square_().sum(-1)), log_mean


def cess(log_w: Tensor, log_v: Tensor) -> Tensor:
    """Conditional ESS of incremental weights `log_v` given the previous weights `log_w`, shape (S,)."""
    log_W = log_w - log_sum_exp(log_w)[..., None]
    log_ratio = 2 * log_sum_exp(log_W + log_v) - log_sum_exp(log_W + 2 * log_v)
    return log_w.shape[-1] * torch.exp(log_ratio)


def legal(log_w: Tensor) -> Tensor:
    """Normalised weights as `normalise` has them, and even ones in a system that has no legal ones: a run
    says so in its next look at them."""
    return normalise(log_w).nan_to_num_(1 / log_w.shape[-1])


def inverse_cdf(log_w: Tensor, points: Tensor) -> Tensor:
    """Ancestors of `points` in [0, 1) under the weights' distribution function.

    Arguments:
        log_w: (S, N) log-weights, any float dtype.
        points: (S, M) points of the unit interval.

    Returns:
        (S, M) indices; point u gets the first i with W_0 + ... + W_i > u, never one of weight zero.
        Points in ascending order are found faster.
    """
    points = points.double().clamp(max=_BELOW_ONE).contiguous()  # (N - 1 + u) / N may be 1
    return torch.searchsorted(running(log_w, 1), points, right=True)


def running(log_w: Tensor, num: int) -> Tensor:
    """num (W_0 + ... + W_i), (S, N) float64, exactly num from the last positive weight on."""
    return accumulated_(legal(log_w), num)


def accumulated_(a: Tensor, to: Tensor | int) -> Tensor:
    """Running sums of nonnegative numbers (S, N), whose place they take, in proportion so that the last
    is exactly `to`, a number or (S, 1); all 0 where all numbers are 0. They never fall."""
    ends = a.cumsum_(-1)
    if not looking_is_free(ends.device):  # a parallel sum may fall by a rounding, where a number is 0
        ends = ends.cummax(-1).values
    end = ends[:, -1:].clamp(min=torch.finfo(ends.dtype).tiny)
    return ends.div_(end).mul_(to)  # x / x is 1, x (1 / x) may not be


def rank(points: Tensor, values: Tensor) -> Tensor:
    """(S, N) float64, how many of the points (S, M) lie at or below each of the values (S, N), both in
    [0, 1] and ascending, float64. Points that differ by rounding errors may be taken for equal.

    On the CPU this is a linear interpolation of counts, whose search begins where the last one ended.
    """
    if not looking_is_free(points.device):
        return torch.searchsorted(points.contiguous(), values, right=True).double()
    (S, M), N = points.shape, values.shape[1]
    if S > 1:  # one after the other on one line
        first = torch.arange(S, dtype=torch.float64)[:, None]
        points, values = points + first, values + first
    counts = np.arange(1.0, S * M + 1)
    found = np.interp(values.flatten().numpy(), points.flatten().numpy(), counts, left=0.0)
    below = torch.from_numpy(found).floor_().view(S, N)
    if S == 1:
        return below
    nothing = values == first  # a value of 0: a point of almost 0 is not below it
    return below.sub_(M * first).clamp_(0, M).masked_fill_(nothing, 0)


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
    return count.scatter_add_(1, ends, torch.ones_like(ends)).cumsum_(-1)[:, :num]


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
