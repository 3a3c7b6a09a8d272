"""What control variates are worth in the sliced Wasserstein distance, where the posterior is known.

A run of the library's defaults (weighted particles), draws of the prior, and other exact draws are
each compared with exact draws of the posterior. Columns: SW and the spread of SW^2 over repeats with
other directions, without control variates; the variance with them over that without, at equal
projections, with the lower bound alone, the upper alone, both; the standard error that one estimate
reports over the spread of the estimates; the time with control variates over that of projecting and
sorting only; and what is gained at equal time, 1 / (variance ratio x time ratio).

    python benchmarks/distances.py [--projections 100] [--repeats 100] [--particles 500]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from problems import PROBLEMS, Problem
from torch import Tensor

import smcguide as sg
from smcguide.diagnostics.distances import SlicedWasserstein, sliced_wasserstein
from smcguide.diagnostics.distances.one_dimensional import transport_cost
from smcguide.diagnostics.distances.samples import clouds
from smcguide.diagnostics.distances.sliced import directions

NAMES = ("mixture25-d8", "mixture25-d80", "digits-half")
STEPS, ONE, TIMED = 50, 1e-9, 20  # steps of the run, one instance of each, calls that are timed
Pair = tuple[str, Tensor, Tensor, Tensor | None]


def pairs(p: Problem, num: int) -> Iterator[Pair]:
    """What is compared, samples (num, *E), exact samples (num, *E), log-weights (num,) of the samples."""
    g = torch.Generator().manual_seed(0)
    exact = p.exact(num, g)[0]
    post = sg.sample(p.prior, p.cost, num_particles=num, num_steps=STEPS, progress=False)
    yield "run", post.x[0], exact, post.log_w[0]
    yield "prior", p.prior.sample(num, g), exact, None
    yield "exact", p.exact(num, g)[0], exact, None


def estimates_of(result: SlicedWasserstein) -> list[float]:
    """SW^2 without control variates, with the lower bound, with the upper, with both."""
    lower, upper = result.controls[:, :1], result.controls.sum(1, keepdim=True)
    alone = [replace(result, controls=c).squared for c in (lower, upper)]
    return [result.plain, *alone, result.squared]


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(pair: Pair, projections: int, repeats: int) -> list[float]:
    """The numbers of one line."""
    _, x, y, log_w = pair

    def ours(seed: int) -> SlicedWasserstein:
        return sliced_wasserstein(
            x, y, log_w, num_projections=projections, chunk_size=projections, seed=seed
        )

    def plain(seed: int) -> Tensor:
        a, b = clouds("plain", x, y, log_w, None)
        theta = directions(projections, a.x.shape[1], seed)
        return transport_cost(theta @ a.x.mT, a, theta @ b.x.mT, b).mean()

    results = [ours(seed) for seed in range(repeats)]
    estimates = torch.tensor([estimates_of(r) for r in results], dtype=torch.float64)
    spread = estimates.std(0)
    told = sum(r.standard_error for r in results) / repeats
    calls = (partial(ours, 0), partial(plain, 0))
    times = [[seconds(call) for call in calls] for _ in range(TIMED)]
    cost = torch.tensor(times).median(0).values
    cost_ratio = float(cost[0] / cost[1])
    ratios = ((spread[1:] / spread[0]) ** 2).tolist()
    sw = float(estimates[:, 3].mean().clamp(min=0).sqrt())
    noise = float(spread[0] / estimates[:, 0].mean())
    return [sw, noise, *ratios, told / float(spread[3]), cost_ratio, 1 / (ratios[2] * cost_ratio)]


def main() -> None:
    """Print one line per problem and comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--projections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--particles", type=int, default=500)
    args = parser.parse_args()
    print(
        f"{'problem':14} {'samples':8}     SW  noise  lower  upper   both  se/spread  time ratio  gain"
    )
    for name in NAMES:
        for pair in pairs(PROBLEMS[name](ONE)[0], args.particles):
            sw, noise, lower, upper, both, told, cost, gain = row(
                pair, args.projections, args.repeats
            )
            print(
                f"{name:14} {pair[0]:8} {sw:6.3f} {noise:6.1%} {lower:6.3f} {upper:6.3f} {both:6.4f} "
                f"{told:10.2f} {cost:11.2f} {gain:5.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
