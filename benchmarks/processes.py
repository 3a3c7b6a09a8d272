"""One population over processes: time of a run, and what an exchange costs.

N = 4096 particles of d = 64 in float32, mixture priors with their exact denoiser, 20 steps. The command
starts itself under torchrun with 1 and with 2 processes, in turns, and compares: by the clock, medians of
five runs after a first one, and quartiles of the turns. Efficiency is the time of 1 process over twice
that of 2; two processes need two free cores.

    python benchmarks/processes.py [--fast] [--figure FILE.png]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from page import spread, table

import smcguide as sg
from smcguide import distributed
from smcguide.distributed.assignment import at_home, moves
from smcguide.plots.panels import COLOURS, new_figure, plain

N, D, STEPS, MANY = 4096, 64, 20, 10**6
WORLDS = (1, 2)
KINDS = {"one population": None, "islands": distributed.Islands(every=5)}


def model(num_components):
    g = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(num_components, D, generator=g)
    prior = sg.priors.GaussianMixture(torch.ones(num_components), means, scale=0.5)
    cost = sg.costs.LinearGaussian(torch.eye(D)[:4], means[0, :4], 0.5)
    return sg.model(prior, cost, num_steps=STEPS)


def seconds(call, repeats):
    """Median by the clock."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def selection(num_particles, size=8):
    """Rows that travel between processes, for log-weights of standard deviation 2."""
    g = torch.Generator().manual_seed(0)
    log_w = 2 * torch.randn(1, num_particles, generator=g, dtype=torch.float64)
    ancestors = at_home(sg.resamplers.Systematic()(log_w, g), num_particles, size)
    return moves(ancestors, 0, size).total


def measure(fast):
    """What one of the processes measures, by name; the same in all."""
    torch.set_num_threads(1)
    world = distributed.join()
    num, repeats = (256, 1) if fast else (N, 5)
    found = {}
    for num_components in (5, 25) if fast else (25, 400):
        problem = model(num_components)
        for kind, islands in KINDS.items():
            if islands is not None and world.size == 1:
                continue

            def call(problem=problem, islands=islands):
                distributed.run(problem, num_particles=num, islands=islands, progress=False)

            found[f"{num_components} components, {kind}"] = seconds(call, repeats)
    if world.size == 1:
        for n in (num, 100 * num if fast else MANY):
            what = f"ancestors and moves of N = {n} for 8 processes"
            found[what] = seconds(lambda n=n: selection(n), repeats)
        return found
    for size in (1, num // 2):
        a = torch.zeros(size, dtype=torch.float64)
        many = seconds(lambda a=a: [world.gather(a) for _ in range(100)], repeats)
        found[f"all-gather of {size} between 2 processes"] = many / 100
    return found


def started(size, fast):
    """What this script measures with that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        script = [__file__, *["--fast"] * fast, "--out", str(out)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", *launch, *script], env=env, check=True, stdout=sys.stderr
        )
        return json.loads(out.read_text())


def together(turns):
    """Runs: name -> (seconds of 1 process, of 2, efficiency), turn by turn; and the other times."""
    runs, others = {}, {}
    for one, two in turns:
        for name, value in two.items():
            if " components, " in name:
                alone = one[name.split(",")[0] + ", one population"]
                runs.setdefault(name, []).append((alone, value, alone / (2 * value)))
        for name, value in {**one, **two}.items():
            if " components, " not in name:
                others.setdefault(name, []).append(value)
    return {name: list(zip(*rows, strict=True)) for name, rows in runs.items()}, others


def figure(runs, path):
    """Efficiencies."""
    ax = new_figure(6, 0.7 + 0.4 * len(runs)).subplots()
    for y, (*_, efficiency) in enumerate(runs.values()):
        ax.barh(y, statistics.median(efficiency), color=COLOURS[0], height=0.6)
    ax.axvline(1, color="0.4", lw=0.8)
    ax.set_yticks(range(len(runs)), list(runs))
    ax.invert_yaxis()
    plain(ax, "", "efficiency on 2 processes")
    ax.figure.savefig(path)


def main(arguments=None):
    """Measure in processes of its own, and print; or, as one of them, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument("--figure", type=Path, help="draw the efficiencies into this file, too")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # of one of the processes
    args = parser.parse_args(arguments)
    if args.out:
        found = measure(args.fast)
        if int(os.environ["RANK"]) == 0:
            args.out.write_text(json.dumps(found))
        return
    turns = [[started(size, args.fast) for size in WORLDS] for _ in range(1 if args.fast else 3)]
    runs, others = together(turns)
    forms = ".3g", ".3g", ".2f"
    rows = [[n, *map(spread, columns, forms)] for n, columns in runs.items()]
    print(table(["prior and kind", "1 process, s", "2 processes, s", "efficiency"], rows) + "\n")
    rows = [[n, spread([1e3 * t for t in values], ".2g")] for n, values in others.items()]
    print(table(["once", "ms"], rows))
    num = 10**4 if args.fast else MANY
    print(f"\nOf N = {num} particles, {selection(num)} rows travel in all between 8 processes.")
    if args.figure:
        figure(runs, args.figure)


if __name__ == "__main__":
    main()
