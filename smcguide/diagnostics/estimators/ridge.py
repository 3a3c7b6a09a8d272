"""Vector-valued kernel ridge regression in the span of a Stein kernel; see `estimators.stein`."""

import torch
from torch import Tensor

_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the median distance
_RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e4)  # the last means no control variate
_CONSTANT = 100.0  # variance of the intercept, in units of the integrands'


def fit(
    x: Tensor, s: Tensor, f: Tensor, W: Tensor, family: Tensor, index: Tensor, outside: Tensor,
    B: Tensor,
) -> Tensor:  # fmt: skip
    """Control variates (M, T) at the particles `outside`, fitted at the particles `index`."""
    at = x[index], s[index]
    typical = torch.pdist(at[0]).median() if len(index) > 1 else torch.ones(())
    typical = typical.clamp(min=1e-6)
    part = (family[index] // 2) % 2 == 0  # again whole families
    kernels = [stein_kernel(at, at, length * typical) for length in _LENGTHS]
    errors = torch.stack([
        _errors(K, f[index], W[index], part, B) + _errors(K, f[index], W[index], ~part, B)
        for K in kernels
    ])  # fmt: skip
    best = errors.flatten(0, 1).argmin(0)  # of (length, ridge), for each integrand
    out = torch.zeros(int(outside.sum()), len(B), dtype=f.dtype, device=f.device)
    for i in {int(j) // len(_RIDGES) for j in best}:
        there = stein_kernel((x[outside], s[outside]), at, _LENGTHS[i] * typical)
        for j, a in enumerate(_solve(kernels[i], f[index], W[index], B)):
            chosen = best == i * len(_RIDGES) + j
            out[:, chosen] = there @ a @ B[:, chosen]
    return out


def _errors(K: Tensor, f: Tensor, W: Tensor, inner: Tensor, B: Tensor) -> Tensor:
    """Variance (ridges, T) of what a fit at the particles `inner` leaves of f at the others."""
    other = ~inner
    if not bool(inner.any() and other.any()):
        return torch.zeros(len(_RIDGES), len(B), dtype=K.dtype, device=K.device)
    share = W[other] / W[other].sum()
    out = []
    for a in _solve(K[inner][:, inner], f[inner], W[inner], B):
        left = f[other] - K[other][:, inner] @ a @ B
        out.append(share @ (left - share @ left).square() * W[other].sum())
    return torch.stack(out)


def _solve(K: Tensor, f: Tensor, W: Tensor, B: Tensor) -> list[Tensor]:
    """Coefficients a (M, T) of weighted ridge regression with kernel (K + intercept) B, for each ridge.

    In the eigenbases of both kernels the system is diagonal.
    """
    root = (W / W.mean()).sqrt()[:, None]
    size = K.diagonal().mean()
    wide = (K / size + _CONSTANT) * root * root.T
    k, V = torch.linalg.eigh(wide)
    b, U = torch.linalg.eigh(B)
    rotated = V.T @ (root * f) @ U
    k, b = k.clamp(min=0)[:, None], b.clamp(min=0)
    return [root * (V @ (rotated / (k * b + ridge * len(f))) @ U.T) / size for ridge in _RIDGES]


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
