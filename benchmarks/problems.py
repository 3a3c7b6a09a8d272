"""Problems whose evidence and posterior are known, for `methods.py`.

    mixture25-d8, -d80     25 Gaussians, 1, 2 or 4 linear measurements; Kalman algebra
    digits-half, -pooled   kernel density of digits, linear measurements; Kalman algebra
    abs                    5 Gaussians in the plane, y = |x| + noise; quadrature
    tilt-1, -10, -100      the same Gaussians, cost strength |x - c|^2 / 2 as a function; Kalman algebra
    rare                   the same Gaussians, a smoothed half-plane of probability 1e-5; sum of Phi's

A builder takes a factor that multiplies its numbers of instances and replicates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from digits_exact import digits, truth
from digits_exact import problem as digits_cost
from mixture25 import instance
from torch import Generator, Tensor

import smcguide as sg

F64 = torch.float64
CENTRE = torch.tensor([0.4, -0.6], dtype=F64)  # of the tilt: off every component
WEIGHTS = torch.tensor([0.3, 0.15, 0.2, 0.1, 0.25], dtype=F64)
MEANS = torch.tensor([[-1.5, -1], [1.4, 1.1], [1, -1.4], [-0.8, 1.2], [0.2, 0.1]], dtype=F64)
STDS = torch.tensor([0.4, 0.3, 0.5, 0.35, 0.25], dtype=F64)
NORMAL = torch.tensor([0.1, 0.99**0.5], dtype=F64)  # of the half-plane, which two components reach
OFFSET, SMOOTHING = 2.515, 0.1


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior, a cost, and the truth about both.

    Attributes:
        name: identifier, also of the figure.
        about: what it is, in words.
        prior, cost: the task; the cost holds one observation for each of I systems, or I = 1.
        log_z: (I,) exact log evidence.
        exact: (n, generator) -> (I, n, *E) draws from the posterior.
        num_particles, num_steps: of the reference, whose evaluations are everybody's budget.
        replicates: independent runs of each system.
    """

    name: str
    about: str
    prior: sg.priors.GaussianMixture
    cost: Any
    log_z: Tensor
    exact: Callable[[int, Generator], Tensor]
    num_particles: int
    num_steps: int
    replicates: int


def _times(count: int, factor: float, least: int = 1) -> int:
    return max(least, round(count * factor))


def _one(law: sg.priors.GaussianMixture) -> Callable[[int, Generator], Tensor]:
    return lambda n, g: law.sample(n, g)[None]


def mixture25(d: int, factor: float) -> list[Problem]:
    """12 instances: four for each number of measurements."""
    problems = []
    for m in (1, 2, 4):
        for seed in range(_times(4, factor)):
            prior, A, y, std = instance(seed, d, m)
            log_z = prior.log_evidence(A, y, std)[None]
            problems.append(
                Problem(
                    f"mixture25-d{d}",
                    f"25 Gaussians in {d} dimensions, 1, 2 or 4 linear measurements",
                    prior, sg.costs.LinearGaussian(A, y, std), log_z,
                    _one(prior.posterior(A, y, std)), 500, 100, _times(4, factor, 2),
                )
            )  # fmt: skip
    return problems


def digit_task(name: str, task: str, factor: float) -> list[Problem]:
    """20 held-out digits as systems of one run."""
    train, held_out = digits()
    prior = sg.priors.EmpiricalPrior(train, 0.3)
    cost = digits_cost(task, held_out[: _times(20, factor)])
    log_z = truth(prior, cost)[0]
    A = cost.matrix(prior.event_shape)
    laws = [prior.posterior(A, y, cost.std) for y in cost.y[:, 0]]

    def exact(n: int, g: Generator) -> Tensor:
        return torch.stack([law.sample(n, g) for law in laws])

    about = f"Digits of 8 x 8 pixels, kernel density of 1500, {task}"
    return [Problem(name, about, prior, cost, log_z, exact, 200, 50, _times(2, factor, 2))]


def plane() -> sg.priors.GaussianMixture:
    """Five Gaussians of different weights and widths."""
    return sg.priors.GaussianMixture(WEIGHTS, MEANS, scale=STDS)


def _in_the_plane(
    name: str, about: str, cost: Any, log_z: Tensor, exact: Any, factor: float
) -> list[Problem]:
    log_z = log_z.reshape(1)
    return [Problem(name, about, plane(), cost, log_z, exact, 512, 100, _times(32, factor, 2))]


def absolute(factor: float) -> list[Problem]:
    """Both signs of both coordinates are possible: four modes, whose weights the prior decides."""
    y = torch.tensor([1.2, 0.9], dtype=F64)
    cost = sg.costs.GaussianLikelihood(torch.abs, y, 0.1)
    log_z, exact = quadrature(plane(), cost, half_width=4.0, cells=800)
    about = "Five Gaussians in the plane, y = |x| + 0.1 n"
    return _in_the_plane("abs", about, cost, log_z, exact, factor)


def quadrature(
    prior: sg.priors.GaussianMixture, cost: Any, half_width: float, cells: int
) -> tuple[Tensor, Callable[[int, Generator], Tensor]]:
    """log Z of a cost in the plane by the midpoint rule, and draws: a cell, then a point in it.

    With an even number of cells no cell straddles an axis, where |x| has its kink.
    """
    h = 2 * half_width / cells
    centre = (torch.arange(cells, dtype=F64) + 0.5) * h - half_width
    x = torch.cartesian_prod(centre, centre)
    log_p = prior.log_prob(x) - cost(x[None])[0]
    cdf = torch.softmax(log_p, 0).cumsum(0)

    def exact(n: int, g: Generator) -> Tensor:
        u = cdf[-1] * torch.rand(n, generator=g, dtype=F64)
        cell = torch.searchsorted(cdf, u, right=True)
        return (x[cell] + h * (torch.rand(n, 2, generator=g, dtype=F64) - 0.5))[None]

    return torch.logsumexp(log_p, 0) + 2 * math.log(h), exact


def tilt(strength: float, factor: float) -> list[Problem]:
    """A reward -strength |x - c|^2 / 2, as a plain function: methods do not see that it is Gaussian."""

    def cost(x: Tensor) -> Tensor:
        return strength / 2 * (x - CENTRE).square().sum(-1)

    prior, eye, std = plane(), torch.eye(2, dtype=F64), strength**-0.5
    log_z = prior.log_evidence(eye, CENTRE, std) + math.log(2 * math.pi * std**2)
    exact = _one(prior.posterior(eye, CENTRE, std))
    about = f"Five Gaussians in the plane, quadratic reward of strength {strength:g} as a function"
    return _in_the_plane(f"tilt-{strength:g}", about, cost, log_z, exact, factor)


def rare(factor: float) -> list[Problem]:
    """exp(-C) = Phi((a.x - b) / eps), the probability that a.x + eps n is above b."""

    def cost(x: Tensor) -> Tensor:
        return -torch.special.log_ndtr((x @ NORMAL - OFFSET) / SMOOTHING)

    mean, std = MEANS @ NORMAL, (STDS**2 + SMOOTHING**2).sqrt()  # of v = a.x + eps n; |a| = 1
    log_w = WEIGHTS.log() + torch.special.log_ndtr((mean - OFFSET) / std)

    def exact(n: int, g: Generator) -> Tensor:
        """A component; v above b by inversion of the tail; an unconditional (x, v), corrected."""
        k = torch.multinomial(torch.softmax(log_w, 0), n, replacement=True, generator=g)
        tail = torch.special.ndtr((mean - OFFSET) / std)[k] * torch.rand(n, generator=g, dtype=F64)
        v = mean[k] - std[k] * torch.special.ndtri(tail)
        x = MEANS[k] + STDS[k, None] * torch.randn(n, 2, generator=g, dtype=F64)
        miss = v - x @ NORMAL - SMOOTHING * torch.randn(n, generator=g, dtype=F64)
        return (x + ((STDS / std)[k] ** 2 * miss)[:, None] * NORMAL)[None]

    about = "Five Gaussians in the plane, a smoothed half-plane of probability 1e-5 as a function"
    return _in_the_plane("rare", about, cost, torch.logsumexp(log_w, 0), exact, factor)


PROBLEMS: dict[str, Callable[[float], list[Problem]]] = {
    "mixture25-d8": partial(mixture25, 8),
    "mixture25-d80": partial(mixture25, 80),
    "digits-half": partial(digit_task, "digits-half", "lower half missing"),
    "digits-pooled": partial(digit_task, "digits-pooled", "downsampled"),
    "abs": absolute,
    "tilt-1": partial(tilt, 1.0),
    "tilt-10": partial(tilt, 10.0),
    "tilt-100": partial(tilt, 100.0),
    "rare": rare,
}
