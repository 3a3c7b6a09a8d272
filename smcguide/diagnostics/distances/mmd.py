"""Maximum mean discrepancy with Gaussian kernels.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),     k = mean over b of exp(-|x - y|^2 / (2 b^2))

x, x' independent draws of one law, y, y' of the other; zero only where the laws are equal. Over weighted
samples the pairs i = j are left out and the others re-weighted,

    E k(x, x')  ~  sum_{i != j} W_i W_j k(x_i, x_j) / (1 - sum_i W_i^2)

so that the estimate is zero on average for equal laws, whatever the (given) weights. With them it is
the squared distance of the two weighted point sets, never negative and too large on average.

Reference: Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.distances.samples import (
    Cloud,
    at_least,
    clouds,
    distances_between,
    double_sum,
    pieces,
)
from smcguide.errors import InvalidInput

MOST_FOR_MEDIAN = 1000  # points of each side
FACTORS = (0.5, 1.0, 2.0)  # of the median distance


@dataclass(frozen=True)
class MMD:
    """A maximum mean discrepancy.

    Attributes:
        squared: MMD^2, without units; negative by chance where the laws are close.
        bandwidths: of the kernel, in the units of the samples.
        p_value: of equal laws, by permutation; None if not asked for.
    """

    squared: float
    bandwidths: tuple[float, ...]
    p_value: float | None

    def __float__(self) -> float:
        return self.squared


def mmd(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = True,
    num_permutations: int = 0,
    chunk_size: int = 1024,
    seed: int = 0,
) -> MMD:
    """MMD^2 of weighted samples.

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        bandwidths: b; None: the median distance of all points (zeros left out), half and twice of it.
        unbiased: leave the pairs i = j out.
        num_permutations: for a p-value; for equal weights only, since weighted points cannot change
            sides: `beside_floor` is for them.
        chunk_size: points at once; memory is proportional to chunk_size max(n, m).

    Raises:
        InvalidInput: for other shapes, no samples, samples that are not finite, bandwidths that are not
            positive, permutations of weighted samples, or a single point where pairs are needed.
    """
    at_least("mmd", 1, chunk_size=chunk_size)
    at_least("mmd", 0, num_permutations=num_permutations)
    a, b = clouds("mmd", x, y, log_w, log_v)
    if unbiased and min(a.num, b.num) < 2:
        raise InvalidInput(
            f"mmd: an unbiased estimate needs two samples with weight on each side, got {a.num} and "
            f"{b.num}; unbiased=False does not."
        )
    if num_permutations and not (a.is_equal and b.is_equal):
        raise InvalidInput(
            "mmd: permutations need equal weights; compare weighted samples by beside_floor, or pass "
            "about as many equal-weight draws as their effective sample size."
        )
    widths = _around_median(a, b) if bandwidths is None else _given(bandwidths)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        r2 = distances_between(x, y).square()
        return torch.stack([torch.exp(-r2 / (2 * width**2)) for width in widths]).mean(0)

    within = [_within(c, kernel, unbiased, chunk_size) for c in (a, b)]
    across = double_sum(lambda p: kernel(a.x[p], b.x), a.W, b.W, chunk_size)
    squared = float(within[0] + within[1] - 2 * across)
    p_value = None
    if num_permutations:
        p_value = _permute(a, b, kernel, num_permutations, chunk_size, seed)
    return MMD(squared, widths, p_value)


def _within(
    c: Cloud, kernel: Callable[[Tensor, Tensor], Tensor], unbiased: bool, chunk_size: int
) -> Tensor:
    total = double_sum(lambda p: kernel(c.x[p], c.x), c.W, c.W, chunk_size)
    return (total - c.concentration) / (1 - c.concentration) if unbiased else total  # k(x, x) = 1


def _given(bandwidths: Sequence[float]) -> tuple[float, ...]:
    try:
        widths = tuple(float(b) for b in bandwidths)
    except (TypeError, ValueError):  # one number is none of them
        widths = ()
    if not widths or not all(0 < width < float("inf") for width in widths):
        raise InvalidInput(
            f"mmd: bandwidths must be positive numbers, (0.5, 1.0) or (1.0,), got {bandwidths!r}."
        )
    return widths


def _around_median(a: Cloud, b: Cloud) -> tuple[float, ...]:
    """The median distance over points of both sides in proportion to their weights."""
    few = []
    for c in (a, b):
        num = min(c.num, MOST_FOR_MEDIAN)
        points = (torch.arange(num, dtype=torch.float64, device=c.x.device) + 0.5) / num
        few.append(c.x[weights.inverse_cdf(c.W.log()[None], points[None])[0]])
    pooled = torch.cat(few)
    gaps = torch.nn.functional.pdist(pooled)
    gaps = gaps[gaps > 0]
    median = float(gaps.median()) if len(gaps) else 1.0
    return tuple(factor * median for factor in FACTORS)


def _permute(
    a: Cloud, b: Cloud, kernel: Callable[[Tensor, Tensor], Tensor], num: int, size: int, seed: int
) -> float:
    """Share of labellings, the given one among them, whose unbiased MMD^2 is at least as large.

    All labellings share one pass over the kernel matrix: with one column of zeros and ones each, the
    sums within x, and within y, are sums over columns.
    """
    n, m, pooled = a.num, b.num, torch.cat([a.x, b.x])
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n + m, generator=generator) for _ in range(num)], 1)
    given = torch.arange(n + m)[:, None]
    is_x = (torch.cat([given, order], 1) < n).to(pooled)  # (n + m, 1 + num)
    in_x = in_y = in_all = pooled.new_zeros(1 + num)
    for p in pieces(n + m, size):
        K = kernel(pooled[p], pooled)
        from_x, from_all = K @ is_x, K.sum(1, keepdim=True)
        in_x = in_x + (is_x[p] * from_x).sum(0)
        in_y = in_y + ((1 - is_x[p]) * (from_all - from_x)).sum(0)
        in_all = in_all + from_all.sum()
    across = (in_all - in_x - in_y) / 2
    value = (
        (in_x - n) / max(n * (n - 1), 1) + (in_y - m) / max(m * (m - 1), 1) - 2 * across / (n * m)
    )
    as_far = value[1:] >= value[0] - 1e-12 * value.abs().max()
    return (1 + int(as_far.sum())) / (1 + num)
