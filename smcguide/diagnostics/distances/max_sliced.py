"""Max-sliced Wasserstein distance: the direction in which two samples differ most.

    max over |theta| = 1 of W(theta)

by ascent on the sphere from several starts: a step along the gradient of W^2, back to the sphere, kept
where W^2 grew. A step is measured against W^2 itself (half of its gradient over W^2 is a step of the
power iteration), so no step size depends on the units. Local maxima are possible: the answer is a lower
bound. A maximum over directions also finds what is there by chance, more so in high dimension; the
floor of exact samples says how much.

Reference: Deshpande et al., "Max-Sliced Wasserstein Distance and its use for GANs" (arXiv 1904.05877).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.diagnostics.distances.one_dimensional import transport_cost
from smcguide.diagnostics.distances.samples import Cloud, at_least, clouds
from smcguide.diagnostics.distances.sliced import directions


@dataclass(frozen=True, eq=False)
class MaxSlicedWasserstein:
    """The largest distance that was found.

    Attributes:
        distance: W(theta), in the units of the samples.
        direction: (*E) theta, of length one.
    """

    distance: float
    direction: Tensor

    def __float__(self) -> float:
        return self.distance


def max_sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    num_starts: int = 8,
    num_iters: int = 50,
    seed: int = 0,
) -> MaxSlicedWasserstein:
    """Max-sliced Wasserstein-2 distance of weighted samples.

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        num_starts: random directions to start from, beside that of the difference of means.
        num_iters: steps from each start. Memory is proportional to num_starts (n + m).

    Raises:
        InvalidInput: for other shapes, no samples, or samples that are not finite.
    """
    at_least("max_sliced_wasserstein", 1, num_starts=num_starts)
    at_least("max_sliced_wasserstein", 0, num_iters=num_iters)
    a, b = clouds("max_sliced_wasserstein", x, y, log_w, log_v)
    gap = a.mean() - b.mean()
    theta = directions(num_starts, len(gap), seed).to(gap)
    if bool(gap.norm() > 0):
        theta = torch.cat([theta, (gap / gap.norm())[None]])
    value, slope = _rise(theta, a, b)
    step = torch.full_like(value, 0.5)  # a power iteration
    for _ in range(num_iters):
        moved = theta + (step / value.where(value > 0, 1.0))[:, None] * slope
        moved = moved / moved.norm(dim=1, keepdim=True)
        new_value, new_slope = _rise(moved, a, b)
        better = new_value > value
        step = torch.where(better, 1.5 * step, 0.5 * step)
        theta = torch.where(better[:, None], moved, theta)
        slope = torch.where(better[:, None], new_slope, slope)
        value = torch.where(better, new_value, value)
    best = int(value.argmax())
    return MaxSlicedWasserstein(float(value[best].sqrt()), theta[best].reshape(a.event_shape))


def _rise(theta: Tensor, a: Cloud, b: Cloud) -> tuple[Tensor, Tensor]:
    """W^2 (L,) and its gradient along the sphere (L, d)."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        value = transport_cost(theta @ a.x.mT, a, theta @ b.x.mT, b)
        (slope,) = torch.autograd.grad(value.sum(), theta)
    theta = theta.detach()
    return value.detach(), slope - (slope * theta).sum(1, keepdim=True) * theta
