"""Vector-valued kernel ridge regression in the span of a Stein kernel; see `estimators.stein`."""

from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor

_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the median distance
_RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e4)  # the last means no control variate
_SHARED = (0.0, 0.9, 0.99)  # correlation of neighbouring targets; 0: each by itself
_CONSTANT = 100.0  # variance of the intercepts, in units of the integrands'


@dataclass(frozen=True)
class Rows:
    """Particles of one or several targets, all axes M.

    Attributes:
        x: (M, d) places, in common coordinates.
        s: (M, d) the score of each particle's own target.
        f: (M, T) integrands, of mean zero and variance one under each target.
        W: (M,) weights, of sum one in each target.
        family: (M,) families, to be kept together.
        task: (M,) index of the target; neighbours are alike.
    """

    x: Tensor
    s: Tensor
    f: Tensor
    W: Tensor
    family: Tensor
    task: Tensor

    def __getitem__(self, which: Tensor) -> "Rows":
        return Rows(*(getattr(self, one.name)[which] for one in fields(self)))

    @property
    def same(self) -> Tensor:
        """(M, M), one for two particles of one target."""
        return (self.task[:, None] == self.task).to(self.f)


def fit(rows: Rows, outside: Rows, B: Tensor) -> Tensor:
    """Control variates (M', T) at the particles `outside`, fitted at the particles `rows`."""
    many = int(rows.task.max()) > 0
    typical = torch.pdist(rows.x).median() if len(rows.x) > 1 else torch.ones(())
    typical = typical.clamp(min=1e-6)
    choices = list(product(_LENGTHS, _SHARED if many else (0.0,)))
    part = (rows.family // 2) % 2 == 0  # again whole families
    apart = (rows.task[:, None] - rows.task).abs().to(rows.f)
    errors, kernels = [], {length: _kernel(rows, rows, length * typical) for length in _LENGTHS}
    for length, shared in choices:
        K = kernels[length] * shared**apart
        errors.append(_errors(K, rows, part, B) + _errors(K, rows, ~part, B))
    best = torch.stack(errors).flatten(0, 1).argmin(0)  # of (choice, ridge), for each integrand
    out = torch.zeros(len(outside.x), len(B), dtype=rows.f.dtype, device=rows.f.device)
    away = (outside.task[:, None] - rows.task).abs().to(rows.f)
    for i in {int(j) // len(_RIDGES) for j in best}:
        length, shared = choices[i]
        there = _kernel(outside, rows, length * typical) * shared**away
        for j, a in enumerate(_solve(kernels[length] * shared**apart, rows, B)):
            chosen = best == i * len(_RIDGES) + j
            out[:, chosen] = there @ (a @ B[:, chosen])
    return out


def _kernel(here: Rows, there: Rows, length: Tensor) -> Tensor:
    return stein_kernel((here.x, here.s), (there.x, there.s), length)


def _errors(K: Tensor, rows: Rows, inner: Tensor, B: Tensor) -> Tensor:
    """Variance (ridges, T) of what a fit at the particles `inner` leaves of f at the others."""
    if not bool(inner.any() and (~inner).any()):
        return torch.zeros(len(_RIDGES), len(B), dtype=K.dtype, device=K.device)
    other, W = rows[~inner], rows.W[~inner, None]
    same = other.same
    left = other.f - K[~inner][:, inner] @ _solve(K[inner][:, inner], rows[inner], B) @ B
    left = left - same @ (W * left) / (same @ W)
    return (W * left.square()).sum(1)


def _solve(K: Tensor, rows: Rows, B: Tensor) -> Tensor:
    """Coefficients a (ridges, M, T) of weighted ridge regression with kernel (K + intercepts) B.

    In the eigenbases of both kernels the system is diagonal.
    """
    f, W = rows.f, rows.W
    root = (W / W.mean()).sqrt()[:, None]
    size = K.diagonal().mean()
    wide = (K / size + _CONSTANT * rows.same) * root * root.T
    k, V = torch.linalg.eigh(wide)
    b, U = torch.linalg.eigh(B)
    rotated = V.T @ (root * f) @ U
    ridge = torch.tensor(_RIDGES).to(f)[:, None, None] * len(f)
    return root * (V @ (rotated / (k.clamp(min=0)[:, None] * b.clamp(min=0) + ridge)) @ U.T) / size


def stein_kernel(
    here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor], length: Tensor
) -> Tensor:
    """k0 (M, M') between places and scores (M, d) each."""
    (x, s), (y, r) = here, there
    d, dot = x.shape[1], s @ r.T
    sx, sy, rx, ry = (s * x).sum(1)[:, None], s @ y.T, x @ r.T, (r * y).sum(1)
    polynomial = dot + d + sx + ry + (x @ y.T) * dot
    square = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / length**2
    cross = (sx - sy - rx + ry) / length**2
    smooth = torch.exp(-square / 2) * ((d - square) / length**2 + cross + dot)
    return polynomial + smooth
