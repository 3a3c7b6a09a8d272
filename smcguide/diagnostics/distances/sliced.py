r"""Sliced Wasserstein distance, with control variates over the projections.

    SW^2 = E_theta[W^2(theta)],      theta uniform on the sphere of R^d

and W(theta) the Wasserstein-2 distance of the samples projected on theta. With means m, covariances S,

    (theta . (m_1 - m_2))^2  <=  W^2(theta)  <=  (theta . (m_1 - m_2))^2 + theta^T (S_1 + S_2) theta

The Gaussian bounds follow W^2 closely and their expectations over the sphere are known:
|m_1 - m_2|^2 / d, and tr(S_1 + S_2) / d more. Both are subtracted, with the two coefficients of a
regression of W^2 on them; either bound alone is a special case.

Coefficients fitted to the projections that they correct bias the mean. Each projection here gets the
coefficients of the regression on all others, which are independent of it, so the estimate is unbiased.
One fit gives all of them: without projection i,  beta_{-i} = beta - (Z^T Z)^{-1} z_i e_i / (1 - h_i)
with e_i the residual and h_i the leverage.

Unbiased means over projections. W^2 of finite samples is above that of their laws whatever the
projections; see `beside_floor`.

Reference: Nguyen, Ho, "Sliced Wasserstein Estimation with Control Variates" (arXiv 2305.00402).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from smcguide.diagnostics.distances.one_dimensional import transport_cost
from smcguide.diagnostics.distances.samples import Cloud, at_least, clouds, pieces

FEWEST = 10  # projections for a regression on two controls without each of them in turn


@dataclass(frozen=True, eq=False)
class SlicedWasserstein:
    """What L projections say about SW^2.

    Attributes:
        values: (L,) W^2 of each projection.
        controls: (L, C) control variates, their expectations subtracted: the lower bound, and what the
            upper adds to it.
    """

    values: Tensor
    controls: Tensor

    def __float__(self) -> float:
        return self.distance

    def __str__(self) -> str:
        return f"SW^2 = {self.squared:.4g} +- {self.standard_error:.2g}"

    @cached_property
    def corrected(self) -> Tensor:
        """(L,) values of which the controls are subtracted, each with the others' coefficients."""
        return self.values - (leave_one_out(self.values, self.controls) * self.controls).sum(1)

    @property
    def squared(self) -> float:
        """Estimate of SW^2, unbiased over projections, so that it may fall below 0 where SW is near 0."""
        return float(self.corrected.mean())

    @property
    def distance(self) -> float:
        """SW, in the units of the samples."""
        return max(self.squared, 0.0) ** 0.5

    @property
    def standard_error(self) -> float:
        """Standard error of `squared` over projections."""
        return float(self.corrected.std() / len(self.values) ** 0.5)

    @property
    def plain(self) -> float:
        """Estimate of SW^2 without control variates."""
        return float(self.values.mean())

    @property
    def variance_ratio(self) -> float:
        """Variance with control variates over that without, at equal projections; 1 if there is none."""
        plain = float(self.values.var())
        return float(self.corrected.var()) / plain if plain > 0 else 1.0


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    num_projections: int = 200,
    chunk_size: int = 64,
    seed: int = 0,
) -> SlicedWasserstein:
    """Sliced Wasserstein-2 distance of weighted samples.

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        num_projections: L, at least 10; the same seed gives the same directions.
        chunk_size: projections at once; memory is proportional to chunk_size (n + m).

    Raises:
        InvalidInput: for other shapes, no samples, samples that are not finite, or too few projections.
    """
    at_least("sliced_wasserstein", FEWEST, num_projections=num_projections)
    at_least("sliced_wasserstein", 1, chunk_size=chunk_size)
    a, b = clouds("sliced_wasserstein", x, y, log_w, log_v)
    theta = directions(num_projections, a.x.shape[1], seed).to(a.x)
    found = [_project(a, b, theta[p]) for p in pieces(num_projections, chunk_size)]
    values, lower, spread = (torch.cat(part) for part in zip(*found, strict=True))
    d = a.x.shape[1]
    expected = (a.mean() - b.mean()).square().sum() / d, (_trace(a) + _trace(b)) / d
    controls = torch.stack([lower - expected[0], spread - expected[1]], 1)
    rounding = 1e-12 * (expected[0] + expected[1])  # all there is in one dimension
    controls = controls.where(controls.abs() > rounding, 0.0)
    return SlicedWasserstein(values, controls)


def directions(num: int, d: int, seed: int) -> Tensor:
    """(num, d) uniform directions, float64, on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(num, d, generator=generator, dtype=torch.float64)
    return theta / theta.norm(dim=1, keepdim=True)


def leave_one_out(values: Tensor, controls: Tensor) -> Tensor:
    """Coefficients (L, C) of the regression of values (L,) on controls (L, C), row i without the i-th.

    Controls that do not vary, or that say the same, cost nothing: the shortest coefficients are taken.
    """
    scale = controls.abs().amax(0)
    Z = torch.cat([torch.ones_like(values)[:, None], controls / scale.where(scale > 0, 1.0)], 1)
    inverse = torch.linalg.pinv(Z.mT @ Z, rtol=1e-12, hermitian=True)
    beta, reach = inverse @ (Z.mT @ values), Z @ inverse
    residual, leverage = values - Z @ beta, (reach * Z).sum(1)
    correction = residual / (1 - leverage).clamp(min=1e-12)
    without = beta - reach * correction[:, None]
    return without[:, 1:] / scale.where(scale > 0, 1.0)


def _project(a: Cloud, b: Cloud, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W^2, its lower bound, and what the upper bound adds, each (L,)."""
    x, y = theta @ a.x.mT, theta @ b.x.mT
    (mean_x, var_x), (mean_y, var_y) = _moments(x, a.W), _moments(y, b.W)
    return transport_cost(x, a, y, b), (mean_x - mean_y).square(), var_x + var_y


def _moments(x: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    mean = x @ W
    return mean, (x - mean[:, None]).square() @ W


def _trace(a: Cloud) -> Tensor:
    return a.W @ (a.x - a.mean()).square().sum(1)
