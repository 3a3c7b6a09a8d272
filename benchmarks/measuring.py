"""One method on one problem at the budget of the reference, measured; for `methods.py`.

NFE counts one forward and one backward pass of the network as one evaluation each (a backward pass
takes about as long as two forward passes). Bootstrap with the problem's N particles and K steps makes
N K forward passes per system: everybody's budget. What one particle of a method costs is measured in
a run with few particles, and its N follows.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from mixture25 import sliced_wasserstein
from problems import F64, Problem
from torch import Generator, Tensor

import smcguide as sg
from smcguide import weights

# prior, cost, number of steps -> arguments of sg.sample, or a function of num_particles, num_systems
# and seed that runs the method itself and returns a Posterior or `unweighted(...)`
Method = Callable[[Any, Any, int], Mapping[str, Any] | Callable[..., Any]]
Row = dict[str, Any]

FEW = 8  # particles that measure a method's cost
SLICES, FLOOR_PAIRS, MOST_COMPARED = 200, 20, 16


@dataclass(frozen=True)
class Runs:
    """R runs of I systems: x (I, R, N, *E), log_w (I, R, N), log_z (I, R), evaluations in all."""

    x: Tensor
    log_w: Tensor
    log_z: Tensor
    evaluations: Mapping[str, int]


def unweighted(x: Tensor, forward: int, backward: int = 0) -> SimpleNamespace:
    """Plain draws x (S, N, *E) of a method that has no evidence, and what they cost in all."""
    return SimpleNamespace(
        x=x, log_w=x.new_zeros(x.shape[:2], dtype=F64), log_z=x.new_full((len(x),), torch.nan),
        evaluations={"network_forward": forward, "network_backward": backward},
    )  # fmt: skip


def run(p: Problem, method: Method, N: int, replicates: int) -> Runs:
    """Replicates are systems of one run where the cost has none of its own, else seeds."""
    parts = method(p.prior, p.cost, p.num_steps)
    batched = getattr(p.cost, "num_systems", None) is not None
    sizes: dict[str, Any] = {"num_particles": N, "num_systems": None if batched else replicates}
    posts = []
    for seed in range(replicates if batched else 1):
        if callable(parts):
            posts.append(parts(**sizes, seed=seed))
        else:
            posts.append(
                sg.sample(
                    p.prior, p.cost, **sizes, seed=seed, progress=False,
                    **({} if "times" in parts else {"num_steps": p.num_steps}), **parts,
                )
            )  # fmt: skip
    evaluations: Counter[str] = Counter()
    for post in posts:
        evaluations.update(post.evaluations)
    if not batched:
        return Runs(posts[0].x[None], posts[0].log_w[None], posts[0].log_z[None], evaluations)
    stacked = (torch.stack([getattr(q, a) for q in posts], 1) for a in ("x", "log_w", "log_z"))
    return Runs(*stacked, evaluations)


def nfe(runs: Runs) -> int:
    """Forward and backward passes."""
    return runs.evaluations["network_forward"] + runs.evaluations["network_backward"]


def particles(p: Problem, method: Method, of_reference: int) -> int:
    """N with which the method makes as many evaluations as the reference; at least 2."""
    few = run(p, method, FEW, 1)
    each = nfe(few) / few.log_w.numel()
    return max(2, round(of_reference * p.num_steps / each))


def reference(p: Problem, scale: float) -> int:
    """Particles of the reference."""
    return max(2, round(scale * p.num_particles))


@cache
def floor(p: Problem) -> Tensor:
    """Sliced Wasserstein distance (I,) between as many exact samples as the reference has particles."""
    g = torch.Generator().manual_seed(1)
    pairs = [(p.exact(p.num_particles, g), p.exact(p.num_particles, g)) for _ in range(FLOOR_PAIRS)]
    return torch.tensor(
        [[_distance(a, b, g) for a, b in zip(*pair, strict=True)] for pair in pairs], dtype=F64
    ).mean(0)


def _distance(a: Tensor, b: Tensor, g: Generator) -> float:
    return sliced_wasserstein(a.flatten(1).double(), b.flatten(1), g, SLICES)


def distances(p: Problem, runs: Runs) -> Tensor:
    """Sliced Wasserstein distance of equal-weight draws to exact ones over the floor, (I, R')."""
    g, n = torch.Generator().manual_seed(2), p.num_particles
    ratios = []
    for r in range(min(runs.log_w.shape[1], MOST_COMPARED)):
        points = (torch.arange(n) + torch.rand(len(runs.x), n, generator=g, dtype=F64)) / n
        index = weights.inverse_cdf(runs.log_w[:, r], points)
        draws = (x[i] for x, i in zip(runs.x[:, r], index, strict=True))
        pairs = zip(draws, p.exact(n, g), strict=True)
        ratios.append([_distance(a, b, g) for a, b in pairs])
    return torch.tensor(ratios, dtype=F64).T / floor(p)[:, None]


def measure(problems: list[Problem], method: Method, scale: float) -> Row:
    """All numbers of one row; problems are instances of one kind.

    Raises:
        InvalidInput: where the method does not apply.
    """
    first = problems[0]
    for p in problems:
        sg.rehearse(p.prior)  # kept: the same for every method, and outside its seconds
    N = particles(first, method, reference(first, scale))
    start = time.perf_counter()
    all_runs = [run(p, method, N, p.replicates) for p in problems]
    seconds = time.perf_counter() - start
    error = torch.cat([r.log_z - p.log_z[:, None] for p, r in zip(problems, all_runs, strict=True)])
    pairs = zip(problems, all_runs, strict=True)
    distance = torch.cat([distances(p, r) for p, r in pairs])
    ess = torch.cat([weights.ess(r.log_w) for r in all_runs]) / N
    steps = error.numel() * N * first.num_steps
    forward, backward = (
        sum(r.evaluations[f"network_{way}"] for r in all_runs) / steps
        for way in ("forward", "backward")
    )
    return {
        "N": N, **statistics(error), "sw": float(distance.mean()), "sw_sd": float(distance.std()),
        "ess": float(ess.mean()) if bool(error.isfinite().all()) else torch.nan,
        "forward": forward, "backward": backward,
        "budget": (forward + backward) * N / reference(first, scale), "seconds": seconds,
    }  # fmt: skip


def statistics(error: Tensor) -> Row:
    """Of errors of log Z, I systems with R runs each (I, R); spreads are within systems, standard errors
    between them if there are several."""
    ratio = error.exp()

    def standard_error(a: Tensor) -> float:
        units = a.mean(1) if len(a) > 1 else a[0]
        return float(units.std() / len(units) ** 0.5)

    return {
        "bias": float(error.mean()), "bias_se": standard_error(error),
        "spread": float(error.var(1).mean().sqrt()), "rms": float(error.square().mean().sqrt()),
        "ratio": float(ratio.mean() - 1), "ratio_se": standard_error(ratio),
        "cv": float(ratio.var(1).mean().sqrt() / ratio.mean()),
    }  # fmt: skip
