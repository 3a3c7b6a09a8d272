"""What a step costs beside the network, over the obvious floor.

The floor is what anybody would write for a step of N particles in d dimensions: in float64 draw the
normals, gather the particles, one fused update, softmax, cumulative sum, searchsorted. The library's step
is measured with a network that costs nothing (x times a number): the time of the bare network calls,
forward or forward and backward as the proposal needs, is measured in the same way and taken off.

Both take turns in one process and one thread; times are of the process, not of the wall. A row gives the
median floor, the median step beside the network, and quartiles of the ratio of neighbours in time.

    python benchmarks/overhead.py [--fast] [--seconds 0.5] [--out FILE.json]
"""

import argparse
import itertools
import json
import platform
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from turns import interleaved

import smcguide as sg

F32, F64 = torch.float32, torch.float64
Case = tuple[int, int, int, str, Any, torch.dtype]  # S, N, d, proposal, resampler, of the states
PROPOSALS: dict[str, Any] = {
    "Bootstrap": sg.proposals.Bootstrap(),
    "Gradient": sg.proposals.Gradient(trust=2.0),
    "DTM": sg.proposals.DTM(),
}
R = sg.resamplers
OTHERS = [
    R.Stratified(), R.Multinomial(), R.Residual(), R.SSP(), R.Killing(), R.Rejection(), R.Metropolis()
]  # fmt: skip
SIZES = [
    (S, N, d)
    for d in (8, 800)
    for S in (1, 64)
    for N in (10**3, 10**4, 10**5, 10**6)
    if S * N * d < 10**7
]
STEPS = 400
SHRINK = 0.5


class Multiple(sg.priors.Prior):
    """A network that costs one multiplication."""

    schedule = sg.schedules.VP()
    device = torch.device("cpu")

    def __init__(self, d: int, dtype: torch.dtype) -> None:
        self.event_shape, self.dtype = (d,), dtype

    def denoise(self, x: Tensor, t: float) -> Tensor:
        return SHRINK * x


def first(x0: Tensor) -> Tensor:
    """A cost that costs nothing."""
    return x0[:, 0]


def floor(S: int, N: int, d: int) -> Callable[[], None]:
    """The same step in plain torch and float64, again and again."""
    g = Generator().manual_seed(0)
    kept = [torch.randn(S, N, d, generator=g, dtype=F64)]
    log_w = torch.randn(S, N, generator=g, dtype=F64)
    comb = ((torch.arange(N, dtype=F64) + 0.5) / N).expand(S, N).contiguous()
    first_of = N * torch.arange(S)[:, None]

    def step() -> None:
        cdf = torch.softmax(log_w, -1).cumsum(-1)
        ancestors = torch.searchsorted(cdf, comb).clamp_(max=N - 1)
        x = kept[0].flatten(0, 1).index_select(0, (ancestors + first_of).flatten())
        z = torch.randn(S, N, d, generator=g, dtype=F64)
        kept[0] = torch.add(x.view(S, N, d), z, alpha=0.1)

    return step


def library(
    S: int, N: int, d: int, proposal: str, resampler: Any, dtype: torch.dtype
) -> Callable[[], None]:
    """The library's step with resampling, run after run."""
    model = sg.GuidedDiffusion(
        Multiple(d, dtype), first, kernel=sg.kernels.DDPM(), times=sg.grids.karras(STEPS),
        potential=sg.potentials.Tweedie(), proposal=PROPOSALS[proposal],
    )  # fmt: skip

    options: Any = {"num_particles": N, "num_systems": S, "resampler": resampler}

    def steps() -> Iterator[Any]:
        while True:
            run = sg.iterate(model, trigger=sg.triggers.always(), **options)
            next(run)
            yield from itertools.islice(run, STEPS // 2)

    iterator = steps()
    return lambda: next(iterator) and None


def network(S: int, N: int, d: int, proposal: str, dtype: torch.dtype) -> Callable[[], None]:
    """The calls of the network and the cost in such a step, alone."""
    prior, x = Multiple(d, dtype), torch.ones(S * N, d, dtype=dtype)

    def forward() -> None:
        first(prior.denoise(x, 0.5))

    def calls() -> None:
        here = x.detach().requires_grad_()
        torch.autograd.grad(first(prior.denoise(here, 0.5)).sum(), here)
        if proposal == "DTM":
            prior.denoise(x, 0.5)

    return forward if proposal == "Bootstrap" else calls


def row(case: Case, budget: float) -> dict[str, Any]:
    """One line of the table."""
    S, N, d, proposal, resampler, dtype = case
    step, calls_only = (
        library(S, N, d, proposal, resampler, dtype),
        network(S, N, d, proposal, dtype),
    )
    fs = [floor(S, N, d), step, calls_only]
    floors, steps, calls = interleaved(fs, budget, 3 if S * N * d > 10**7 else 5)
    call = statistics.median(calls)
    ratios = [(step - call) / low for step, low in zip(steps, floors, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {
        "S": S, "N": N, "d": d, "proposal": proposal, "resampler": type(resampler).__name__,
        "dtype": str(dtype).removeprefix("torch."), "floor": statistics.median(floors),
        "step": statistics.median(steps) - call, "network": call,
        "ratio": ratio, "low": low, "high": high, "turns": len(ratios),
    }  # fmt: skip


def cases(fast: bool) -> Iterator[Case]:
    """Every size with every proposal, and two sizes with every resampler."""
    sizes = [(1, 1000, 8), (64, 1000, 8)] if fast else [*SIZES, (1, 10**5, 800)]
    for S, N, d in sizes:
        large = S * N * d > 10**7
        for dtype in (F32,) if large else (F32, F64):
            for proposal in ("Bootstrap",) if large else PROPOSALS:
                yield S, N, d, proposal, R.Systematic(), dtype
    for S, N, d in sizes[:1] if fast else [(1, 10**4, 8), (64, 10**4, 8)]:
        for resampler in OTHERS:
            yield S, N, d, "Bootstrap", resampler, F32


HEADER = (
    "|  S |       N |   d | states  | proposal  | resampler   "
    "| floor, ms | step, ms | ratio | quartiles   |"
)


def line(r: dict[str, Any]) -> str:
    """The row in the table."""
    return (
        "| {S:2d} | {N:7d} | {d:3d} | {dtype} | {proposal:9s} | {resampler:11s} | {floor_ms:9.3f} "
        "| {step_ms:8.3f} | {ratio:5.2f} | {low:.2f} - {high:.2f} |"
    ).format(**r, floor_ms=1e3 * r["floor"], step_ms=1e3 * r["step"])


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run: small sizes, few turns")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring for each row")
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file, too")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread\n")
    print(HEADER)
    print("|" + "|".join("-" * len(part) for part in HEADER.split("|")[1:-1]) + "|")
    rows = []
    for case in cases(args.fast):
        rows.append(row(case, 0.01 if args.fast else args.seconds))
        print(line(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
