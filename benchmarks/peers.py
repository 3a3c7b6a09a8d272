"""Ours beside other libraries, in one run.

*resampling*: log-weights to ancestors, for each scheme that two of us have. *smc*: the 25 Gaussians
in d = 8 with their exact denoiser, N = 1000 and 10^4, 100 steps, systematic resampling below half
ESS: one Feynman-Kac model, written by hand for each library in `peers/`. A peer whose evidence has
another law than ours gets no ratio. *error*: seconds to a given error of the posterior mean, against
azula's TDS; everybody with two grids of levels and the best number of steps.

Everybody has one thread and a process, which keeps its memory; all take turns; times are of the
processor, after a warm-up. A ratio is ours over theirs, the median of neighbours in time: below 1
we are the faster. The environments of the peers are made on request, from `peers/requirements-*.txt`.

    python benchmarks/peers.py --make-environments DIR
    python benchmarks/peers.py --environments DIR [--fast] [--figure FILE.png] [--out FILE.json]
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from companions import AZULA, PEERS, Peer, Process, make_environments
from problem_tables import Task
from side_by_side import SCHEMES, resampling, smc
from time_to_error import Curves, draw, measure, seconds_to

import smcguide as sg

CASES = [(seed, m) for m in (1, 2, 4) for seed in (0, 1)]  # of the 25 Gaussians
ERRORS = (0.2, 0.1, 0.07, 0.05, 0.04, 0.03)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for line in (header, ["-" * w for w in widths], *rows):
        print("| " + " | ".join(a.ljust(w) for a, w in zip(line, widths, strict=True)) + " |")
    print(flush=True)


def all_resampling(peers: Sequence[Process], fast: bool, folder: Path) -> list[dict[str, Any]]:
    sizes, rounds = ((1000,), 3) if fast else ((10**3, 10**4, 10**5, 10**6), 9)
    rows = [resampling(peers, s, n, rounds, folder) for s in SCHEMES for n in sizes]
    names = [str(p.peer) for p in peers]

    def cell(row: dict[str, Any], name: str) -> str:
        found = row["peers"].get(name)
        return "" if found is None else "{:.0f} ({:.2f})".format(found["us"], found["ratio"][1])

    print(
        "Resampling, microseconds of float64 log-weights to ancestors (ratio: ours over theirs)\n"
    )
    table(
        ["scheme", "N", "smcguide", *names],
        [
            [r["scheme"], str(r["N"]), f"{r['smcguide']:.0f}", *(cell(r, n) for n in names)]
            for r in rows
        ],
    )
    return rows


def all_smc(peers: Sequence[Process], fast: bool, folder: Path) -> list[dict[str, Any]]:
    sizes, steps = ({64: 3}, 10) if fast else ({1000: 30, 10**4: 6}, 100)  # N: rounds
    task = Task(1, 8, 2, steps)
    file = task.save(folder / "problem.npz")
    rows = [
        smc(p, task, file, gradient, num, rounds)
        for gradient in (False, True)
        for num, rounds in sizes.items()
        for p in peers
    ]
    print(f"SMC, {steps} steps, milliseconds a step; Z over the exact evidence\n")
    lines = []
    for r in rows:
        ratio = ["other law", ""]
        if r["agrees"]:
            low, middle, high = r["ratio"]
            ratio = [f"{middle:.2f}", f"{low:.2f} - {high:.2f}"]
        Z = [f"{z:.3f} ± {e:.3f}" for z, e in zip(r["Z"], r["Z error"], strict=True)]
        speeds = [f"{r['theirs']:.3f}", f"{r['smcguide']:.3f}"]
        lines.append([r["proposal"], str(r["N"]), r["peer"], *speeds, *ratio, *reversed(Z)])
    table(
        [
            "proposal",
            "N",
            "peer",
            "theirs",
            "smcguide",
            "ratio",
            "quartiles",
            "Z theirs",
            "Z smcguide",
        ],
        lines,
    )
    return rows


def all_errors(azula: Process | None, fast: bool, folder: Path) -> Curves:
    cases, sizes = CASES, {250: 16, 1000: 16, 4000: 10, 16000: 4}  # N: runs
    lengths = (12, 25, 35, 50, 100)
    if fast:
        cases, sizes, lengths = CASES[:1], {32: 2, 64: 2}, (10,)
    curves = measure(azula, cases, sizes, lengths, folder)
    print("Seconds to an error of the posterior mean, in posterior standard deviations\n")
    rows = []
    for error in ERRORS:
        times = {kind: seconds_to(points, error) for kind, points in curves.items()}
        reached = [t for kind, t in times.items() if kind.startswith("smcguide") and t is not None]
        mine, row = min(reached, default=None), [f"{error}"]
        for kind, spent in times.items():
            longest = max(p.seconds for p in curves[kind])
            said = f"not in {longest:.3g}" if spent is None else f"{spent:.3g}"
            both = spent is not None and mine is not None and kind.startswith("azula")
            row.append(f"{said} ({spent / mine:.1f} x ours)" if both else said)
        rows.append(row)
    table(["error", *curves], rows)
    columns = ["library", "steps", "N", "seconds", "error"]
    points = [
        [kind, str(p.steps), str(p.num), f"{p.seconds:.3g}", f"{p.error:.3f}"]
        for kind, found in curves.items()
        for p in found
    ]
    table(columns, points)
    return curves


def present(peers: Sequence[Peer], environments: Path | None) -> list[Peer]:
    """Those that can take part; the others are named."""
    reasons = {p: p.missing(environments) for p in peers}
    for reason in dict.fromkeys(r for r in reasons.values() if r):
        print(f"MISSING: {reason}")
    return [p for p, reason in reasons.items() if not reason]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make-environments", type=Path, metavar="DIR")
    parser.add_argument("--environments", type=Path, metavar="DIR")
    parser.add_argument("--only", choices=("resampling", "smc", "error"))
    parser.add_argument("--fast", action="store_true", help="a smoke run: small sizes, few turns")
    parser.add_argument("--figure", type=Path, help="error against seconds")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file, too")
    args = parser.parse_args(arguments)
    if args.make_environments:
        make_environments(args.make_environments.resolve())
        return {}
    torch.set_num_threads(1)
    sg.keep_memory()
    environments = args.environments and args.environments.resolve()
    print(f"smcguide with torch {torch.__version__}, {platform.machine()}, one thread")
    found: dict[str, Any] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        wanted = {"error": [AZULA], None: [*PEERS, AZULA]}.get(args.only, PEERS)
        here = present(wanted, environments)
        processes = [stack.enter_context(Process(p, environments)) for p in here]
        for p in processes:
            print(p.peer, "with", ", ".join(f"{k} {v}" for k, v in p.versions.items()))
        print()
        azula = next((p for p in processes if p.peer == AZULA), None)
        others, folder = [p for p in processes if p is not azula], Path(name)
        if args.only in (None, "resampling"):
            found["resampling"] = all_resampling(others, args.fast, folder)
        if args.only in (None, "smc"):
            found["smc"] = all_smc(others, args.fast, folder)
        if args.only in (None, "error"):
            found["error"] = all_errors(azula, args.fast, folder)
            if args.figure:
                draw(found["error"], args.figure)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, default=vars))
    return found


if __name__ == "__main__":
    main()
