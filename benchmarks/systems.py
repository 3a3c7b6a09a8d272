"""Systems in one run, and how time and error grow.

*systems*: S = 64 independent systems of N = 64 particles in one run against 64 runs, for an analytic
prior; both take turns. *growth*: seconds per step beside the network (as in `overhead.py`, states in
float32, resampling at each step) against N, d and S, less those of a step of 2 particles, which are all
fixed costs; seconds per run against the number of steps; and the error of log Z against N. Each with the
slope of a line through the logarithms; 1 is linear.

    python benchmarks/systems.py [--fast]
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from overhead import F32, F64, library
from turns import interleaved

import smcguide as sg

SYSTEMS = 64
STEPS = 50


def model(num_steps: int) -> sg.GuidedDiffusion:
    """N(0, I) on R^8, its first coordinate measured."""
    prior = sg.priors.GaussianMixture(
        torch.ones(1, dtype=F64), torch.zeros(1, 8, dtype=F64), scale=1.0
    )
    cost = sg.costs.LinearGaussian(torch.eye(1, 8, dtype=F64), torch.tensor([1.0], dtype=F64), 0.5)
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=sg.grids.karras(num_steps),
        potential=sg.potentials.Tweedie(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip


LOG_Z = -0.5 * (1 / 1.25 + math.log(2 * math.pi * 1.25))  # N(1; 0, 1 + 0.5^2)


def run(m: sg.GuidedDiffusion, N: int, S: int, seed: int = 0) -> Any:
    return sg.run(m, num_particles=N, num_systems=S, seed=seed, progress=False)


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Of the line of least squares through the logarithms."""
    x, y = ([math.log(a) for a in c] for c in (sizes, values))
    return statistics.linear_regression(x, y).slope


def systems(budget: float) -> float:
    """How many times faster one run is."""
    m = model(STEPS)

    def apart() -> None:
        for seed in range(SYSTEMS):
            run(m, 64, 1, seed)

    together, one_by_one = interleaved([lambda: run(m, 64, SYSTEMS), apart], budget, 3)
    ratios = [b / a for a, b in zip(together, one_by_one, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"systems: {SYSTEMS} of N = 64, {STEPS} steps: one run {statistics.median(together):.3f} s, "
        f"{SYSTEMS} runs {statistics.median(one_by_one):.3f} s, "
        f"ratio {middle:.1f} ({low:.1f} - {high:.1f})"
    )
    return middle


def show(what: str, sizes: Sequence[int], values: Sequence[float], unit: str = "s") -> float:
    found = slope(sizes, values)
    points = ", ".join(f"{n}: {v:.3g}" for n, v in zip(sizes, values, strict=True))
    print(f"growth with {what}: slope {found:.2f} ({points} {unit})", flush=True)
    return found


def growth(fast: bool, budget: float) -> dict[str, float]:
    """Slopes."""
    little = 10 if fast else 1
    shapes: dict[str, list[tuple[int, int, int]]] = {
        "N": [(1, n // little, 8) for n in (10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6)],
        "d": [(1, 10**4 // little, d) for d in (8, 32, 128, 512)],
        "S": [(s, 10**4 // little, 8) for s in (1, 4, 16, 64)],
    }
    found = {}
    for axis, (name, cases) in zip((1, 2, 0), shapes.items(), strict=True):
        smallest = (1, 2, 8)
        steps = [
            library(*c, "Bootstrap", sg.resamplers.Systematic(), F32) for c in (smallest, *cases)
        ]
        fixed, *medians = [statistics.median(t) for t in interleaved(steps, budget, 3)]
        beyond = [t - fixed for t in medians]
        unit = f"s a step beyond {fixed:.2g}"
        found[name] = show(name, [c[axis] for c in cases], beyond, unit)
    lengths = (10, 20, 40) if fast else (25, 50, 100, 200)
    models = [model(k) for k in lengths]
    runs = [partial(run, m, 1000, 1) for m in models]
    found["steps"] = show(
        "steps", lengths, [statistics.median(t) for t in interleaved(runs, budget, 3)]
    )
    m, sizes = model(STEPS), (16, 64, 256) if fast else (64, 256, 1024, 4096)
    errors = [(run(m, n, 256).log_evidence - LOG_Z).square().mean().sqrt().item() for n in sizes]
    found["error"] = show("N, of the error", sizes, errors, "rms of log Z, 256 systems")
    return found


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    budget = 0.1 if args.fast else 5.0
    return {"systems": systems(budget), **growth(args.fast, budget)}


if __name__ == "__main__":
    main()
