"""How large a chunk should be on a CPU: seconds of the process for one particle's transition, by the
bytes that a chunk holds at its peak. The rows take turns; medians. One thread. This is where the bound of
chunk_size="auto" comes from (`smcguide.memory.CPU_BOUND`); the last column is what "auto" chooses.

    python benchmarks/chunks.py [--turns 5] [--page docs/memory.md]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from page import insert, line, machine, table

import smcguide as sg
from smcguide.memory import measured

SIZES = (2.0, 8.0, 32.0, 128.0)  # MB
PROPOSALS = {"Bootstrap": sg.proposals.Bootstrap(), "DTM": sg.proposals.DTM()}
PARTICLES = {"25 Gaussians, d = 8": 2**17, "25 Gaussians, d = 800": 2**12, "digits network": 2**9}


def mixture(dimension: int) -> sg.priors.GaussianMixture:
    means = torch.randn(25, dimension, generator=torch.Generator().manual_seed(0)).double()
    return sg.priors.GaussianMixture(torch.full((25,), 0.04), 3 * means, scale=1.0)


PRIORS: dict[str, Callable[[], Any]] = {
    "25 Gaussians, d = 8": lambda: mixture(8),
    "25 Gaussians, d = 800": lambda: mixture(800),
    "digits network": lambda: sg.priors.load("digits"),
}


def row(name: str, proposal: str, turns: int) -> list[str]:
    model = sg.GuidedDiffusion(
        PRIORS[name](), lambda x: x.flatten(1).square().sum(1), kernel=sg.kernels.DDPM(),
        times=sg.grids.karras(10), potential=sg.potentials.Tweedie(), proposal=PROPOSALS[proposal],
        chunk_size="auto",
    )  # fmt: skip
    N, g = PARTICLES[name], torch.Generator().manual_seed(0)
    first = model.initial((1, N), g)
    z = torch.randn(first.x.shape, generator=g, dtype=first.x.dtype)
    model.advance(3, first.x, first.carry, z)
    chosen = model.chunk_sizes["transition"]
    model.chunk_size, few = None, slice(0, 64)
    part = {field: a[:, few] for field, a in first.carry.items()}
    _, peak = measured(lambda: model.advance(3, first.x[:, few], part, z[:, few]), model.device)
    chunks = [max(1, int(1e6 * size / peak * 64)) for size in SIZES]
    seconds: dict[int, list[float]] = {n: [] for n in chunks if n <= N}
    for _ in range(turns):
        for n, found in seconds.items():
            model.chunk_size = n
            start = time.process_time()
            model.advance(3, first.x, first.carry, z)
            found.append(time.process_time() - start)
    times = [
        f"{1e6 * statistics.median(seconds[n]) / N:.3g}" if n in seconds else "-" for n in chunks
    ]
    return [name, proposal, f"{peak / 64 / 1000:.3g} kB", *times, f"{min(chosen, N):,}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--page", type=Path, help="write the table between its markers there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["prior", "proposal", "a particle", *(f"{s:.0f} MB" for s in SIZES), '"auto"']
    rows = []
    for name in PRIORS:
        for proposal in PROPOSALS:
            rows.append(row(name, proposal, options.turns))
            print(line(rows[-1]), flush=True)
    if options.page is not None:
        text = f"{table(columns, rows)}\n\nMicroseconds a particle; {machine()}."
        insert("chunks", text, options.page)


if __name__ == "__main__":
    main()
