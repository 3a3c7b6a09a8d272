"""Weighted samples as every distance sees them: flat, in float64, without what has no weight.

Samples x (n, *E) with log-weights (n,) stand for the measure sum_i W_i delta_{x_i}, W normalised. A dead
particle (log-weight -inf) is no part of it and may hold anything.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput, check_counts


@dataclass(frozen=True, eq=False)
class Cloud:
    """A weighted point set.

    Attributes:
        x: (n, d) float64 points.
        W: (n,) float64 weights, positive, summing to one.
        event_shape: E, whose product is d.
        is_equal: whether all weights are the same.
    """

    x: Tensor
    W: Tensor
    event_shape: torch.Size
    is_equal: bool

    @property
    def num(self) -> int:
        """Number of points n."""
        return len(self.x)

    @property
    def concentration(self) -> Tensor:
        """sum W^2, one over the effective sample size."""
        return self.W.square().sum()

    def mean(self) -> Tensor:
        """Weighted mean (d,)."""
        return self.W @ self.x

    def merged(self) -> "Cloud":
        """Each different point once, with the weight of all its copies."""
        x, of = self.x.unique(dim=0, return_inverse=True)
        W = self.W.new_zeros(len(x)).index_add_(0, of, self.W)
        return Cloud(x, W, self.event_shape, False)


def cloud(who: str, name: str, x: Tensor, log_w: Tensor | None) -> Cloud:
    """The weighted point set of x (n, *E) and log-weights (n,); None: equal weights.

    Raises:
        InvalidInput: for anything but finite numbers of these shapes, with some weight.
    """
    if not isinstance(x, Tensor) or x.ndim == 0 or x.numel() == 0 or x.is_complex():
        given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInput(
            f"{who}: {name} must be a tensor of real samples (n, *E) with n >= 1, got {given}."
        )
    equal = x.new_full((len(x),), 0.0, dtype=torch.float64)
    log_w = equal if log_w is None else log_w
    if not isinstance(log_w, Tensor) or log_w.shape != (len(x),):
        given = tuple(log_w.shape) if isinstance(log_w, Tensor) else type(log_w).__name__
        raise InvalidInput(
            f"{who}: the log-weights of {name} must be a tensor of shape ({len(x)},), one for each "
            f"sample, got {given}. Pass the samples of one system at a time."
        )
    log_w = log_w.detach().to(equal)
    if bool((log_w.isnan() | log_w.isposinf()).any()) or bool(log_w.isneginf().all()):
        raise InvalidInput(
            f"{who}: the log-weights of {name} must be below infinity, none NaN and not all -inf."
        )
    W = weights.normalise(log_w)
    alive = W > 0
    points, W = x.detach().double().reshape(len(x), -1)[alive], W[alive]
    bad = int((~points.isfinite().all(1)).sum())
    if bad:
        raise InvalidInput(
            f"{who}: {bad} of the {len(points)} samples of {name} that have weight are not finite. "
            "Give dead samples the log-weight -inf."
        )
    return Cloud(points, W / W.sum(), x.shape[1:], torch.equal(W, W[:1].expand_as(W)))


def clouds(
    who: str, x: Tensor, y: Tensor, log_w: Tensor | None, log_v: Tensor | None
) -> tuple[Cloud, Cloud]:
    """The two weighted point sets of a comparison.

    Raises:
        InvalidInput: as `cloud`, and where events or devices differ.
    """
    a, b = cloud(who, "x", x, log_w), cloud(who, "y", y, log_v)
    if a.event_shape != b.event_shape or a.x.device != b.x.device:
        raise InvalidInput(
            f"{who}: x and y must hold events of one shape on one device, got "
            f"{tuple(a.event_shape)} on {a.x.device} and {tuple(b.event_shape)} on {b.x.device}."
        )
    return a, b


def at_least(who: str, least: int, **given: int) -> None:
    """Checks whole numbers.

    Raises:
        InvalidInput: for one below `least`, or that is not whole.
    """
    check_counts({f"{who}: {name}": (value, least) for name, value in given.items()})


def pieces(num: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(num)."""
    return (slice(i, i + size) for i in range(0, num, size))


def distances_between(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m) of x (n, d) and y (m, d), as differences: a product of matrices would
    lose half of the digits of small ones."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def double_sum(rows: Callable[[slice], Tensor], W: Tensor, V: Tensor, chunk_size: int) -> Tensor:
    """sum_ij W_i V_j K_ij, with `rows(piece)` making the rows of K (n, m) that are asked for."""
    parts = [W[p] @ (rows(p) @ V) for p in pieces(len(W), chunk_size)]
    return torch.stack(parts).sum()
