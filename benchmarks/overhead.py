"""What a step costs beside the network, over the obvious floor.

The floor is what anybody would write for a step of N particles in d dimensions: in float64 draw the
normals, gather the particles, one fused update, softmax, cumulative sum, searchsorted. The library's step
is measured with a network that costs nothing (x times a number): the time of the bare network calls,
forward or forward and backward as the proposal needs, is measured in the same way and taken off.

Freed memory is kept by the process (`smcguide.keep_memory`), which is as good for the floor.
Both take turns in one process and one thread; times are of the process, not of the wall (on a GPU: by the
clock, waiting for the device). Ratios are of neighbours in time.

    python benchmarks/overhead.py [--fast] [--device cuda] [--give-back] [--figure FILE.png]
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from page import spread, table
from step import F32, F64, OTHERS, PROPOSALS, Floor, library, network
from tqdm import tqdm
from turns import interleaved

import smcguide as sg
from smcguide.plots.panels import COLOURS, MARKERS, STYLES, TEXT, legend, new_figure, plain

GOALS = {F32: 0.6, F64: 1.0}  # largest ratio from N = 10^4 on
R = sg.resamplers
RESAMPLERS = [
    R.Systematic(), R.Stratified(), R.Multinomial(), R.Residual(), R.SSP(), R.Killing(), R.Rejection(),
    R.Metropolis(),
]  # fmt: skip
LARGE = 10**7  # numbers: beyond, only the cheapest row
SIZES = [
    *[(S, N, d) for d in (8, 800) for S in (1, 64) for N in (10**3, 10**4, 10**5, 10**6)
      if S * N * d < LARGE],
    (1, 10**5, 800), (64, 10**3, 800),
]  # fmt: skip


class Case(NamedTuple):
    """A row: systems, particles, dimensions, proposal, resampler, dtype of the states, device."""

    S: int
    N: int
    d: int
    proposal: str
    resampler: Any
    dtype: torch.dtype
    device: str = "cpu"


def measure(case: Case, budget: float) -> tuple[list[float], list[float]]:
    """Seconds of the floor, and the ratios of the step beside the network to it."""
    S, N, d, *_, device = case
    fs = [
        Floor(S, N, d, device),
        library(*case),
        network(S, N, d, case.proposal, case.dtype, device),
    ]
    least = 3 if S * N * d > LARGE else 5
    floors, steps, calls = interleaved(fs, budget, least, device)
    call = statistics.median(calls)
    return floors, [(step - call) / low for step, low in zip(steps, floors, strict=True)]


def cases(fast: bool, device: str) -> Iterator[Case]:
    """Every size with three proposals, and two sizes with all others and every resampler."""
    sizes = [(1, 100, 8), (64, 100, 8)] if fast else SIZES
    for S, N, d in sizes:
        large = S * N * d > LARGE
        for dtype in (F32,) if large else (F32, F64):
            for proposal in ("Bootstrap",) if large else PROPOSALS:
                yield Case(S, N, d, proposal, RESAMPLERS[0], dtype, device)
    for S, N, d in sizes if fast else [(1, 10**4, 8), (64, 10**4, 8)]:
        for resampler in RESAMPLERS[1:]:
            yield Case(S, N, d, "Bootstrap", resampler, F32, device)
        for proposal in OTHERS:
            yield Case(S, N, d, proposal, RESAMPLERS[0], F32, device)


Found = dict[Case, tuple[list[float], list[float]]]


def middle(found: Found, case: Case) -> float:
    """The median ratio."""
    return statistics.median(found[case][1])


def cell(found: Found, case: Case) -> str:
    """Median and quartiles of the ratio, bold where it misses its goal."""
    if case not in found:
        return ""
    missed = case.N >= 10**4 and middle(found, case) > GOALS[case.dtype]
    text = spread(found[case][1])
    return f"**{text.split()[0]}**{text[len(text.split()[0]) :]}" if missed else text


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def report(found: Found) -> str:
    """The tables."""
    device, parts = next(iter(found)).device, []
    sizes = list(dict.fromkeys(c[:3] for c in found))
    for dtype, goal in GOALS.items():
        rows = []
        for size in sizes:
            row = [Case(*size, p, RESAMPLERS[0], dtype, device) for p in PROPOSALS]
            floors = [t for c in row if c in found for t in found[c][0]]
            if floors:
                ms = float(f"{1e3 * statistics.median(floors):.3g}")
                rows.append([*map(str, size), f"{ms:g}", *[cell(found, c) for c in row]])
        title = f"States in {name(dtype)}; Systematic (goal from N = 10^4 on: at most {goal}):"
        parts += [title, table(["S", "N", "d", "floor, ms", *PROPOSALS], rows)]
    there = [c[:3] for c in found if isinstance(c.resampler, R.Multinomial)]
    rows = [
        [type(r).__name__, *[cell(found, Case(*s, "Bootstrap", r, F32, device)) for s in there]]
        for r in RESAMPLERS
    ]
    columns = ["S = {}, N = {}, d = {}".format(*size) for size in there]
    parts += ["Resamplers; Bootstrap, float32:", table(["resampler", *columns], rows)]
    rows = [
        [p, *[cell(found, Case(*s, p, RESAMPLERS[0], F32, device)) for s in there]] for p in OTHERS
    ]
    title = "Other proposals; Systematic, float32, one coordinate measured:"
    parts += [title, table(["proposal", *columns], rows)]
    return "\n\n".join(parts)


def figure(found: Found, path: Path) -> None:
    """The ratio against N, one panel for each S and d."""
    shown = [c for c in found if c.resampler == RESAMPLERS[0] and c.proposal in PROPOSALS]
    panels = list(dict.fromkeys((c.S, c.d) for c in shown))
    fig = new_figure(3.2 * len(panels), 3)
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (S, d) in zip(axes, panels, strict=True):
        for (dtype, goal), style in zip(GOALS.items(), STYLES, strict=False):
            for proposal, colour, marker in zip(PROPOSALS, COLOURS, MARKERS, strict=False):
                wanted = S, d, proposal, dtype
                line = [c for c in shown if (c.S, c.d, c.proposal, c.dtype) == wanted]
                ax.loglog(
                    [c.N for c in line], [middle(found, c) for c in line], color=colour, ls=style,
                    marker=marker, ms=4, lw=1.2, label=f"{proposal}, {name(dtype)}",
                )  # fmt: skip
            ax.axhline(goal, color="0.5", lw=0.8, ls=style)
        plain(ax, f"S = {S}, d = {d}", "particles N")
    axes[0].set_ylabel("step over floor", fontsize=TEXT)
    legend(axes[-1])
    fig.savefig(path)


def main(arguments: list[str] | None = None) -> Found:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run: small sizes, few turns")
    parser.add_argument("--device", default="cpu", help="where, e.g. cuda")
    parser.add_argument("--figure", type=Path, help="draw the ratios into this file, too")
    parser.add_argument("--give-back", action="store_true", help="freed memory to the system")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not args.give_back:
        sg.keep_memory()
    found = {}
    for case in tqdm(list(cases(args.fast, args.device)), desc="overhead", disable=None):
        found[case] = measure(case, 0.01 if args.fast else 0.5)
    print(report(found))
    if args.figure:
        figure(found, args.figure)
    return found


if __name__ == "__main__":
    main()
