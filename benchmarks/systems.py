"""Systems in one run, and how time and error grow.

*systems*: S = 64 independent systems of N = 64 particles in one run against 64 runs, for an analytic
prior; both take turns. *growth*: slopes of lines through the logarithms; 1 is linear. N(0, I), measured.

    time    of a step beside the network (as in `overhead.py`: Bootstrap, states in float32, resampling
            at each step) against N, d and S: as it is, and less a step of two particles, all fixed
            costs, at those sizes where they are less than a fifth and states have at most 24 MB (beyond,
            caches and page faults matter); of a run against the number of steps.
    error   of log Z against N; against d, every coordinate measured; of the mean of S estimates of Z
            against S. The kernel is exact here, the number of particles the only cause. Last against the
            number of steps of a kernel that is not, with so many particles that it is the only cause.

Slopes of times are medians over turns, those of (root mean square) errors over eight groups of systems.

    python benchmarks/systems.py [--fast] [--figure FILE.png]
"""

import argparse
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from growth import Growth, figure
from page import spread, table
from step import F32, F64, library
from torch import Tensor
from turns import interleaved

import smcguide as sg

STEPS = 50
LITTLE = 0.2  # largest share of fixed costs where a slope should be 1
GROUPS = 8
EXACT = sg.kernels.MatchedDDPM()  # for a Gaussian prior, in any number of steps
MOST = 6 * 10**6  # numbers in the states there
STD = 0.5
PARTICLES = {"d": 10**4, "S": 10**4, "steps": 1000}  # where N is not what grows
SIZES = {
    "N": [10**3, 10**4, 10**5, 2 * 10**5, 5 * 10**5, 10**6],
    "d": [8, 32, 128, 256, 512],
    "S": [1, 4, 16, 32, 64],
    "steps": [25, 50, 100, 200],
}


def model(num_steps: int, d: int = 8, kernel: Any = EXACT, num_seen: int = 1) -> Any:
    """N(0, I) on R^d, some coordinates measured as zero."""
    prior = sg.priors.GaussianMixture(
        torch.ones(1, dtype=F64), torch.zeros(1, d, dtype=F64), scale=1.0
    )
    A, y = torch.eye(num_seen, d, dtype=F64), torch.zeros(num_seen, dtype=F64)
    return sg.GuidedDiffusion(
        prior, sg.costs.LinearGaussian(A, y, STD), kernel=kernel, times=sg.grids.karras(num_steps),
        potential=sg.potentials.Tweedie(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip


def run(m: Any, N: int, S: int, seed: int = 0) -> Any:
    return sg.run(m, num_particles=N, num_systems=S, seed=seed, progress=False)


def systems(num: int, budget: float) -> list[str]:
    """One run against many: the cells of its row."""
    m = model(STEPS, kernel=sg.kernels.DDPM())

    def apart() -> None:
        for seed in range(num):
            run(m, 64, 1, seed)

    together, one_by_one = interleaved([lambda: run(m, 64, num), apart], budget)
    ratios = [b / a for a, b in zip(together, one_by_one, strict=True)]
    return [str(num), spread(together, ".3f"), spread(one_by_one, ".3f"), spread(ratios, ".1f")]


def times(fast: bool, budget: float) -> tuple[list[float], list[Growth]]:
    """Of a step of two particles; of a step against N, d and S, of a run against the number of steps."""
    N = {name: n // (100 if fast else 1) for name, n in PARTICLES.items()}
    sizes = {axis: s[:3] if fast else s for axis, s in SIZES.items()}
    shapes = {
        "N": [(1, n, 8) for n in sizes["N"]],
        "d": [(1, N["d"], d) for d in sizes["d"]],
        "S": [(s, N["S"], 8) for s in sizes["S"]],
    }
    fixed, found = [], []
    for axis, those in shapes.items():
        two = (1, 2, 8)
        steps = [library(*s, "Bootstrap", sg.resamplers.Systematic(), F32) for s in (two, *those)]
        little, *columns = interleaved(steps, budget)
        fixed += little
        found.append(Growth("step", "seconds", axis, sizes[axis], list(zip(*columns, strict=True))))
        fix = statistics.median(little)
        far = [
            i for i, (shape, ts) in enumerate(zip(those, columns, strict=True))
            if fix < LITTLE * min(ts) and math.prod(shape) <= MOST
        ]  # fmt: skip
        if len(far) > 2:
            beyond = [[columns[i][j] - fix for i in far] for j in range(len(little))]
            those_sizes = [sizes[axis][i] for i in far]
            found.append(Growth("step less fixed costs", "seconds", axis, those_sizes, beyond))
    models = [model(k, kernel=sg.kernels.DDPM()) for k in sizes["steps"]]
    turns = zip(*interleaved([partial(run, m, N["steps"], 1) for m in models], budget), strict=True)
    return fixed, [*found, Growth("run", "seconds", "steps", sizes["steps"], list(turns))]


def errors(fast: bool) -> list[Growth]:
    """Of log Z against N, d, S and the number of steps."""
    S, N, factors = (64, 64, (1, 2, 4)) if fast else (512, 256, (1, 2, 4, 8))
    log_z = -0.5 * math.log(2 * math.pi * (1 + STD**2))  # of N(0; 0, 1 + std^2), each measurement

    def of(m: Any, num: int = N, num_seen: int = 1) -> Tensor:
        return run(m, num, S).log_evidence - num_seen * log_z

    few, exact = of(model(10), N // 8), model(10)
    cases = {
        "N": {n * N // 2: of(exact, n * N // 2) for n in factors},
        "d": {d: of(model(10, d, num_seen=d), N, d) for d in factors},
        "S": {s: pooled(few, s) for s in factors},
        "steps": {
            k * 10: pooled(of(model(10 * k, kernel=sg.kernels.DDPM())), S // GROUPS)
            for k in factors
        },
    }
    what = {"N": "one run", "d": "one run", "S": "mean of S runs", "steps": "mean of many runs"}
    return [
        Growth(what[axis], "error of log Z", axis, list(case),
               list(zip(*map(rms, case.values()), strict=True)))
        for axis, case in cases.items()
    ]  # fmt: skip


def pooled(error: Tensor, num: int) -> Tensor:
    """Error of the log of the mean of `num` estimates of Z, from the errors (S,) of their logs."""
    return error.reshape(-1, num).logsumexp(1) - math.log(num)


def rms(error: Tensor) -> list[float]:
    """Of each of eight groups of errors (n,)."""
    return error.reshape(GROUPS, -1).square().mean(1).sqrt().tolist()


def main(arguments: list[str] | None = None) -> list[Growth]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument("--figure", type=Path, help="draw the growth into this file, too")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sg.keep_memory()
    budget = 0.05 if args.fast else 20.0
    columns = ["systems of N = 64", "one run, s", "as many runs, s", "ratio"]
    print(table(columns, [systems(4 if args.fast else 64, budget)]), flush=True)
    fixed, found = times(args.fast, budget)
    found += errors(args.fast)
    print(f"\nA step of two particles, all fixed costs: {spread([1e3 * t for t in fixed])} ms.\n")
    print(table(["what", "against", "slope", "values"], [g.row() for g in found]))
    if args.figure:
        figure(found, args.figure)
    return found


if __name__ == "__main__":
    main()
