"""Peak memory of a run: against N at a fixed chunk, against d, without and with gradients, with paths.

Two measures of the same run. *Tensors*: bytes of all tensors alive at once, counted at every operation;
exact, but blind to what an operation needs inside. *Resident*: the high-water mark of resident memory
over what the process had before, each case in a process of its own; on a device, memory allocated there
takes the place of both.

Beside them what the *states* need: the events that must be there at once, x_t, D(x_t) and, where it is
wanted, the gradient, of the populations before and after a transition, and the noise; 64 bytes of other
numbers a particle; paths, and the tree that they are read from if no branch of it dies, the most there
is. Peak less states is to depend on the chunk only: *growth* is that at N over that at the smallest N.
*Events* is the peak in events a particle, which at large d is the number of states alive, to be compared
with *needed*.

    python benchmarks/memory.py [--fast] [--device cuda] [--figure FILE.png]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from living import Living
from page import machine

import smcguide as sg
from smcguide.plots.panels import COLOURS, MARKERS, new_figure

Case = dict[str, Any]  # prior, proposal, paths, N, d
PROPOSALS: dict[str, Any] = {
    "Bootstrap": sg.proposals.Bootstrap(),
    "Gradient": sg.proposals.Gradient(trust=2.0),
    "DTM": sg.proposals.DTM(),
}
KINDS = [("Bootstrap", False), ("Gradient", False), ("DTM", False), ("Gradient", True)]
CHUNK = 64
STEPS = 8
NUMBERS = 64  # bytes a particle: log_w, log psi, KL and the first ancestor of two populations
SIZE = 4  # bytes of a float32
# give large blocks back at once, so that resident memory follows what is in use
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def run(case: Case, N: int, device: str) -> None:
    """A run of the case with N particles; half of the coordinates are measured."""
    d = case["d"]
    if case["prior"] == "digits":
        prior: Any = sg.priors.load("digits")
    else:
        prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, d), scale=1.0)
    prior = prior.to(device)
    mask = (torch.arange(d) < d // 2).reshape(prior.event_shape)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(prior.event_shape, generator=g)
    model = sg.GuidedDiffusion(
        prior, sg.costs.LinearGaussian(mask, y, 0.2), kernel=sg.kernels.DDPM(),
        times=sg.grids.karras(STEPS), potential=sg.potentials.InflatedGaussian(1.0),
        proposal=PROPOSALS[case["proposal"]], chunk_size=CHUNK,
    )  # fmt: skip
    sg.run(
        model, num_particles=N, trigger=sg.triggers.always(), progress=False,
        record=("paths",) if case["paths"] else (),
    )  # fmt: skip


def needed(case: Case) -> int:
    """Events a particle that must be there at once."""
    fields = 2 if case["proposal"] == "Bootstrap" else 3
    in_a_step = 2 * fields + 1
    if not case["paths"]:
        return in_a_step
    tree = STEPS + 1
    return max(in_a_step + tree, fields + 2 * tree)


def status(name: str) -> int:
    """VmRSS or VmHWM, in bytes; 0 where the system does not tell."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else 0


def measure(case: Case, device: str = "cpu") -> Case:
    """The case with its numbers, in bytes, measured in this process."""
    torch.set_num_threads(1)
    N = case["N"]
    with Living():
        run(case, CHUNK, device)  # kernels and caches of the libraries are not of the run
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(case, N, device)
        tensors = resident = torch.cuda.max_memory_allocated() - before
    else:
        mark = Path("/proc/self/clear_refs")
        if mark.exists():
            mark.write_text("5")  # the high-water mark starts again from here
        before = status("VmRSS")
        with Living() as living:
            run(case, N, device)
        tensors, resident = living.peak, status("VmHWM") - before
    events = needed(case)
    states = N * (events * case["d"] * SIZE + NUMBERS)
    found = {"needed": events, "states": states, "tensors": tensors, "resident": resident}
    return case | found


def apart(case: Case, device: str = "cpu") -> Case:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--device", device, "--case", json.dumps(case)]
    done = subprocess.run(command, env=os.environ | MALLOC, stdout=subprocess.PIPE, check=True)
    found: Case = json.loads(done.stdout)
    return found


def cases(fast: bool) -> list[list[Case]]:
    """Series of cases: in each only N grows, or only d."""
    first, N = (CHUNK // 4, 32) if fast else (4 * CHUNK, 512)
    sizes = [first * 4**i for i in range(3)]
    dims = (16, 256) if fast else (256, 2048, 16384)
    prior, d = ("Gaussian", 64) if fast else ("digits", 64)
    of_n = [
        [{"prior": prior, "proposal": q, "paths": paths, "N": n, "d": d} for n in sizes]
        for q, paths in KINDS
    ]
    of_d = [
        [{"prior": "Gaussian", "proposal": q, "paths": paths, "N": N, "d": d} for d in dims]
        for q, paths in KINDS
    ]
    return of_n + of_d


HEADER = (
    "| prior    | proposal  | paths |    N |     d | states, MB | tensors, MB | beyond states "
    "| growth | events | needed | resident, MB | beyond states |"
)


def line(r: Case, first: Case) -> str:
    """The row in the table; `first` is the one of its series."""
    beyond, was = (a["tensors"] - a["states"] for a in (r, first))
    grown = first["N"] < r["N"] and not r["paths"]
    return (
        "| {prior:8s} | {proposal:9s} | {kept:5s} | {N:4d} | {d:5d} | {s:10.2f} | {t:11.2f} "
        "| {beyond:13.2f} | {growth:>6s} | {events:6.1f} | {needed:6d} | {r:12.2f} | {more:13.2f} |"
    ).format(
        **r, kept="yes" if r["paths"] else "no", s=r["states"] / 1e6, t=r["tensors"] / 1e6,
        beyond=beyond / 1e6, growth=f"{beyond / was:.2f}" if grown else "",
        events=r["tensors"] / (SIZE * r["N"] * r["d"]), r=r["resident"] / 1e6,
        more=(r["resident"] - r["states"]) / 1e6,
    )  # fmt: skip


def draw(series: list[list[Case]], path: Path) -> None:
    """Peaks, and what the states need (dashed), against N and d."""
    fig = new_figure(8, 3.4)
    for ax, axis in zip(fig.subplots(1, 2), ("N", "d"), strict=True):
        shown = [s for s in series if s[0][axis] != s[-1][axis]]
        for s, colour, marker in zip(shown, COLOURS, MARKERS, strict=True):
            x, name = [r[axis] for r in s], s[0]["proposal"] + ", paths" * s[0]["paths"]
            ax.plot(x, [r["tensors"] / 1e6 for r in s], marker, ls="-", color=colour, label=name)
            ax.plot(x, [r["states"] / 1e6 for r in s], ls="--", color=colour, linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel=axis, ylabel="peak, MB (dashed: states)")
        ax.set_title(f"{shown[0][0]['prior']}, chunks of {CHUNK}", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    fig.savefig(path)


def main(arguments: list[str] | None = None) -> list[list[Case]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run: small, in one process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", type=Path, help="draw the table into this file")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        print(json.dumps(measure(args.case, args.device)))
        return []
    print(f"{machine()}, {args.device}, chunks of {CHUNK}, {STEPS} steps\n\n{HEADER}")
    print("|" + "|".join("-" * len(part) for part in HEADER.split("|")[1:-1]) + "|")
    series = []
    for group in cases(args.fast):
        rows: list[Case] = []
        for case in group:
            rows.append((measure if args.fast else apart)(case, args.device))
            print(line(rows[-1], rows[0]), flush=True)
        series.append(rows)
    if args.figure:
        draw(series, args.figure)
    return series


if __name__ == "__main__":
    main()
