"""Classifier two-sample test: can a small network tell two samples apart?

A network with two hidden layers is trained to say on which side a point is, and asked about points that
it has not seen (cross-validation). Where the laws are equal its accuracy is about 1/2, where they do not
overlap 1. Each side has half of the mass, in training and in the accuracy, whatever n and m; weights
count in both. Copies of a point, which resampling makes, count as one point of their total weight:
else the network would be asked about points that it has seen. For the same reason a point that both
sides have is in one fold.

The networks of all folds are trained as one, in one batched pass over all points; points of a network's
own fold have weight zero in its loss.

Reference: Lopez-Paz, Oquab, "Revisiting Classifier Two-Sample Tests" (arXiv 1610.06545).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from smcguide.diagnostics.distances.samples import at_least, clouds
from smcguide.errors import InvalidInput

WIDTH, NUM_STEPS, LEARNING_RATE, WEIGHT_DECAY = 32, 100, 1e-2, 1.0


@dataclass(frozen=True)
class C2ST:
    """Accuracy of a classifier.

    Attributes:
        accuracy: share of mass on the right side, between 0 and 1; about 1/2 for equal laws.
        standard_error: of the accuracy for the trained classifiers, from the weights.
    """

    accuracy: float
    standard_error: float

    def __float__(self) -> float:
        return self.accuracy


def c2st(
    x: Tensor,
    y: Tensor,
    log_w: Tensor | None = None,
    log_v: Tensor | None = None,
    *,
    num_folds: int = 5,
    seed: int = 0,
) -> C2ST:
    """Classifier two-sample test of weighted samples.

    Arguments:
        x, y: samples (n, *E) and (m, *E).
        log_w, log_v: their log-weights (n,) and (m,); None: equal weights.
        num_folds: of the cross-validation, at least 2.

    Raises:
        InvalidInput: for other shapes, samples that are not finite, or fewer different points with weight
            than folds.
    """
    at_least("c2st", 2, num_folds=num_folds)
    a, b = (c.merged() for c in clouds("c2st", x, y, log_w, log_v))
    if min(a.num, b.num) < num_folds:
        raise InvalidInput(
            f"c2st: {num_folds} folds need as many different points with weight on each side, got "
            f"{a.num} and {b.num}."
        )
    generator = torch.Generator().manual_seed(seed)
    z, mass = torch.cat([a.x, b.x]), torch.cat([a.W, b.W]) / 2
    mean = mass @ z
    std = (mass @ (z - mean).square()).sqrt()
    z = (z - mean) / std.where(std > 0, 1.0)
    side = torch.ones_like(mass)
    side[a.num :] = -1.0
    fold = _folds(a.x, b.x, num_folds, generator)
    seen = fold != torch.arange(num_folds, device=z.device)[:, None]
    loss_weights = mass * seen  # (K, n + m)
    for of_side in (side > 0, side < 0):
        part = loss_weights[:, of_side]
        loss_weights[:, of_side] = part / part.sum(1, keepdim=True) / 2
    logits = _train(z, side, loss_weights, generator)
    right = logits.gather(0, fold[None])[0] * side > 0
    accuracy = min(float(mass @ right.double()), 1.0)  # but for rounding
    spread = (accuracy * (1 - accuracy)) ** 0.5
    return C2ST(accuracy, spread * float(mass.square().sum()) ** 0.5)


def _folds(x: Tensor, y: Tensor, num_folds: int, generator: torch.Generator) -> Tensor:
    """Folds (n + m,) of different points x (n, d) and y (m, d); a point of both sides has one.

    Points are counted out, those of x alone first and those of y alone last, so that each side is a
    run of consecutive numbers: its folds differ by one point at most.
    """
    points, of = torch.cat([x, y]).unique(dim=0, return_inverse=True)
    in_x, in_y = (torch.zeros(len(points), dtype=torch.bool) for _ in range(2))
    of = of.cpu()
    in_x[of[: len(x)]], in_y[of[len(x) :]] = True, True
    order = torch.randperm(len(points), generator=generator)
    kind = in_y.long() - in_x.long()  # -1, 0 for both, 1
    order = order[kind[order].argsort(stable=True)]
    return (order.argsort() % num_folds)[of].to(x.device)


def _train(z: Tensor, side: Tensor, loss_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Logits (K, n + m) of K networks at points z (n + m, d)."""
    K, sizes = len(loss_weights), (z.shape[1], WIDTH, WIDTH, 1)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        A = torch.randn(1, fan_in, fan_out, generator=generator, dtype=z.dtype).to(z.device)
        layers.append((A * (2 / fan_in) ** 0.5).repeat(K, 1, 1).requires_grad_())
        layers.append(z.new_zeros(K, 1, fan_out).requires_grad_())

    def logits() -> Tensor:
        h = z.expand(K, -1, -1)
        for A, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            h = torch.relu(torch.baddbmm(b, h, A))
        return torch.baddbmm(layers[-1], h, layers[-2])[..., 0]

    with torch.enable_grad():
        optimiser = torch.optim.AdamW(layers, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(NUM_STEPS):
            optimiser.zero_grad()
            (loss_weights * softplus(-side * logits())).sum().backward()
            optimiser.step()
    with torch.no_grad():
        return logits()
