r"""K-RCPS: entrywise intervals whose risk is controlled, as short as K margins allow.

Intervals [l_j, u_j] of the entries j = 1, ..., d of an event (posterior quantiles, say) are widened to
[l_j - lam_j, u_j + lam_j] such that the risk R(lam), the expected share of entries outside, obeys

    P(R(lam) <= epsilon) >= 1 - delta

over the calibration sets, whatever the posterior was worth. Two steps on disjoint halves of them:

1. Entries form K groups of similar need: the (1 - epsilon)-quantile of how far truths lie outside.
   One margin per group minimises the mean length while a convex bound of the empirical risk is at
   most epsilon,

       mean [ (1 + q) |x - c| / (I / 2 + lam) - q ]_+ <= epsilon,    q = g / (1 - g),

   c the centre and I the length, by cutting planes: each a linear programme in K variables with the
   tangents of the bound so far. The better of two g wins.
2. One number b is added to all margins (none falls below 0), as small as the Hoeffding-Bentkus bound
   allows. The risk falls with b, so that no correction for the choice of b is needed.

Step 1 decides how short intervals are, step 2 alone gives the guarantee. K = 1 is RCPS, with all sets
in step 2.

References: Teneggi et al., "How to Trust Your Diffusion Model: A Convex Optimization Approach to
Conformal Risk Control" (arXiv 2302.03791); Bates et al., "Distribution-Free, Risk-Controlling Prediction
Sets" (arXiv 2101.02703).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smcguide.diagnostics.calibration.hoeffding_bentkus import allowed_misses, upper_bound
from smcguide.diagnostics.calibration.quantities import stream
from smcguide.errors import InvalidInput, check_counts

Array = NDArray[np.float64]

_SHARPNESS = (0.5, 0.8)  # g, where the convex bound of the 0-1 loss begins
_MOST_CUTS, _TOLERANCE = 60, 1e-2
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class ControlledIntervals:
    """Margins that make intervals keep their promise.

    Attributes:
        margins: (*E) added on both sides, >= 0.
        groups: (*E) int64, group of each entry.
        risk: share of entries outside, on the sets of step 2.
        risk_bound: its upper confidence bound, at most epsilon.
        epsilon, delta: the promise.
        num_sets: calibration sets of step 2.
    """

    margins: Tensor
    groups: Tensor
    risk: float
    risk_bound: float
    epsilon: float
    delta: float
    num_sets: int

    def __call__(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Intervals (..., *E) of new data sets, widened."""
        margins = self.margins.to(lower)
        return lower - margins, upper + margins


def k_rcps(
    lower: Tensor,
    upper: Tensor,
    truth: Tensor,
    *,
    num_groups: int = 4,
    epsilon: float = 0.1,
    delta: float = 0.1,
    seed: int = 0,
) -> ControlledIntervals:
    """Calibrate entrywise intervals on data sets with known truth.

    Arguments:
        lower, upper: (L, *E) ends of the intervals, e.g. posterior.quantile([0.05, 0.95]) with L systems.
        truth: (L, *E).
        num_groups: K; 1 for RCPS.
        epsilon: largest expected share of entries outside.
        delta: probability, over calibration sets, that the promise is broken.
        seed: of the split into halves.

    Raises:
        InvalidInput: for shapes that differ, numbers not finite, intervals upside down, epsilon or delta
            outside (0, 1), and too few sets for the promise.
    """
    _check(lower, upper, truth, num_groups, epsilon, delta)
    event, num_groups = tuple(truth.shape[1:]), min(num_groups, truth[0].numel())
    l, u, x = (a.detach().double().cpu().reshape(len(a), -1).numpy() for a in (lower, upper, truth))  # noqa: E741
    order = torch.randperm(len(x), generator=stream(seed, "halves")).numpy()
    first = order[: len(x) // 2] if num_groups > 1 else order[:0]
    second = order[len(first) :]
    misses = allowed_misses(len(second), x.shape[1], epsilon, delta)
    offset, half = np.abs(x - (l + u) / 2), (u - l) / 2
    groups, margins = np.zeros(x.shape[1], np.int64), np.zeros(x.shape[1])
    if num_groups > 1:
        need = np.quantile(offset[first] - half[first], 1 - epsilon, axis=0)
        groups = np.argsort(np.argsort(need, kind="stable")) * num_groups // len(need)
        margins = _shortest(offset[first], half[first], groups, num_groups, epsilon)[groups]
    margins = np.maximum(margins + _shift(offset[second] - half[second], margins, misses), 0.0)
    risk = float((offset[second] > half[second] + margins).mean())
    return ControlledIntervals(
        torch.from_numpy(margins).reshape(event), torch.from_numpy(groups).reshape(event), risk,
        upper_bound(risk, len(second), delta), epsilon, delta, len(second),
    )  # fmt: skip


def _check(
    lower: Tensor, upper: Tensor, truth: Tensor, num_groups: int, epsilon: float, delta: float
) -> None:
    if (
        lower.shape != truth.shape
        or upper.shape != truth.shape
        or not truth.ndim
        or not truth.numel()
    ):
        raise InvalidInput(
            f"k_rcps: lower {tuple(lower.shape)}, upper {tuple(upper.shape)} and truth "
            f"{tuple(truth.shape)} must have one shape (L, *E), none of them empty."
        )
    finite = all(bool(torch.isfinite(a).all()) for a in (lower, upper, truth))
    if not finite or bool((lower > upper).any()):
        raise InvalidInput(
            "k_rcps: intervals must be finite, lower <= upper, and the truth finite."
        )
    check_counts({"num_groups": (num_groups, 1), "calibration sets": (len(truth), 2)})
    if not 0 < epsilon < 1 or not 0 < delta < 1:
        raise InvalidInput(
            f"k_rcps: epsilon={epsilon} and delta={delta} must be strictly between 0 and 1."
        )


def _shift(excess: Array, margins: Array, misses: int) -> float:
    """Smallest b with at most `misses` entries outside; excess (n, d) is how far they lie outside."""
    critical = np.sort((excess - margins)[excess > 0])[::-1]  # outside for b below it
    if len(critical) <= misses:
        return -math.inf
    return float(critical[misses]) + _ROUNDING * float(np.abs(excess).max())


def _shortest(
    offset: Array, half: Array, groups: NDArray[np.int64], K: int, epsilon: float
) -> Array:
    """Margins (K,) of step 1."""
    sizes = np.bincount(groups, minlength=K)
    each = [_cutting_planes(offset, half, groups, sizes, epsilon, g) for g in _SHARPNESS]
    return min(each, key=lambda margins: float(sizes @ margins))


def _cutting_planes(
    offset: Array, half: Array, groups: NDArray[np.int64], sizes: NDArray[np.int64],
    epsilon: float, sharpness: float,
) -> Array:  # fmt: skip
    """Shortest margins (K,) whose convex bound of the empirical risk is at most epsilon (Kelley)."""
    from scipy.optimize import linprog

    q, total = sharpness / (1 - sharpness), offset.size
    smallest = 1e-9 * max(float(offset.max()), 1e-300)  # of a half length: intervals may be points
    most = np.zeros(len(sizes))
    np.maximum.at(most, groups, (offset / sharpness - half).max(0))  # no loss there
    margins, rows, sides = np.zeros(len(sizes)), [], []
    for _ in range(_MOST_CUTS):
        width = np.maximum(half + margins[groups], smallest)
        loss = (1 + q) * offset / width - q
        slope = np.where(loss > 0, -(1 + q) * offset / width**2, 0.0)
        gradient = np.bincount(groups, slope.sum(0), len(sizes)) / total
        value = float(np.maximum(loss, 0).sum()) / total
        if value <= epsilon * (1 + _TOLERANCE):
            break
        scale = np.abs(gradient).max()
        rows.append(gradient / scale)
        sides.append((epsilon - value + gradient @ margins) / scale)
        found = linprog(sizes, np.array(rows), sides, bounds=np.stack([0 * most, most], 1))
        if found.x is None:  # rounding left no room: the last margins serve as well, step 2 decides
            break
        margins = found.x
    return margins
