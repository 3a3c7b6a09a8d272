"""How long a library takes to a given error of the posterior mean, in posterior standard deviations.

Each run of N particles and K steps has a time and an error; over instances and repeats these make a
median time and a root mean square error. The time to an error is read off the straight lines through the
points of growing N in logarithms, for the number of steps that is best at that error.
"""

import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from companions import Process
from problem_tables import Task
from torch import Tensor

import smcguide as sg
from smcguide.grids import Grid


@dataclass(frozen=True)
class Point:
    """N particles, K steps: median seconds, root mean square error."""

    num: int
    steps: int
    seconds: float
    error: float


Curves = dict[str, list[Point]]


def ours(task: Task, num: int, times: Grid, seed: int) -> tuple[float, Tensor]:
    """The defaults of `sample` but for its levels, with states in float32."""
    prior = task.prior.to(dtype=torch.float32)
    cost = sg.costs.LinearGaussian(task.A.float(), task.y, task.std)
    start = time.process_time()
    post = sg.sample(prior, cost, num_particles=num, times=times, seed=seed, progress=False)
    return time.process_time() - start, post.mean()


def measure(
    process: Process | None, cases: Sequence[tuple[int, int]], sizes: Mapping[int, int],
    lengths: Sequence[int], folder: Path,
) -> Curves:  # fmt: skip
    """Points of ours with two grids and, with a process, of azula with the first of them and its own.

    Arguments:
        cases: (seed, number of measurements) of the instances.
        sizes: N, and how many runs of each instance.
    """
    kinds = ["smcguide", "smcguide, uniform"]
    kinds += ["azula, our levels", "azula, its levels"] if process else []
    found: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for steps, (seed, m) in itertools.product(lengths, cases):
        task = Task(seed, 8, m, steps)
        file = task.save(folder / f"{seed}-{m}-{steps}.npz")
        law = task.posterior.moments()
        for num, i in ((n, i) for n in sizes for i in range(-1, sizes[n])):
            grids = (task.grid, sg.grids.uniform(steps))
            runs = [ours(task, num, times, 100 * seed + i + 1) for times in grids]
            for levels in ("grid", "own") if process else ():
                answer = process.ask(
                    task="sample", problem=file, levels=levels, num=num, seed=100 * seed + i + 1
                )
                runs.append((answer["seconds"], torch.tensor(answer["mean"])))
            for kind, (seconds, mean) in zip(kinds, runs, strict=True):
                square = float((mean.double() - law.mean).square().sum() / law.variance.sum())
                if i >= 0:  # the first is a warm-up
                    found[kind, num, steps].append((seconds, square))
    curves: Curves = defaultdict(list)
    for (kind, num, steps), runs in found.items():
        seconds, square = zip(*runs, strict=True)
        error = math.sqrt(sum(square) / len(square))
        curves[kind].append(Point(num, steps, statistics.median(seconds), error))
    return curves


def seconds_to(points: Sequence[Point], error: float) -> float | None:
    """Least time to an error; None if no number of steps gets there. Where the smallest N is better
    than asked, its time."""
    best = math.inf
    for steps in {p.steps for p in points}:
        line = sorted((p for p in points if p.steps == steps), key=lambda p: p.num)
        for a, b in itertools.pairwise([line[0], *line]):
            if b.error <= error:
                share = 1.0
                if a.error > error:
                    share = math.log(a.error / error) / math.log(a.error / b.error)
                best = min(best, a.seconds * (b.seconds / a.seconds) ** share)
                break
    return best if math.isfinite(best) else None


def draw(curves: Curves, file: Path) -> None:
    """Error against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot(
        xscale="log", yscale="log", xlabel="seconds", ylabel="error of the posterior mean, stds",
        title="25 Gaussians in 8 dimensions",
    )  # fmt: skip
    for colour, (kind, points) in enumerate(curves.items()):
        for i, steps in enumerate(sorted({p.steps for p in points})):
            line = sorted((p for p in points if p.steps == steps), key=lambda p: p.num)
            ax.plot(
                [p.seconds for p in line], [p.error for p in line], f"C{colour}", marker="osv^D"[i],
                label=f"{kind}, {steps} steps",
            )  # fmt: skip
    ax.legend(fontsize="x-small")
    figure.savefig(file, dpi=150)
