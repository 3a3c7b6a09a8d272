"""What particles cost beside their network: the time of a step over that of the bare network calls.

A step of a run (`sg.iterate`, resampling each time) takes turns with the calls of the network that it
cannot do without: a forward pass for Bootstrap, the gradient of a scalar for Gradient, and one forward
pass more for DTM; on as many states, at the same level, in chunks of the same size. Half of each image
is measured, with noise. On the CPU in one thread and seconds of the process, on a device seconds of the
wall. The process keeps freed memory (`sg.keep_memory`), which serves both. A row gives medians, and
quartiles of the ratio of neighbours in time; 1 is a library that costs nothing.

    python benchmarks/share.py [--fast] [--network unet64] [--sizes 64,256,1024] [--device cuda]
                               [--figure FILE.png]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import unet64
from page import machine
from torch import Tensor, nn

import smcguide as sg
from smcguide.plots.panels import COLOURS, new_figure

PROPOSALS: dict[str, Any] = {
    "Bootstrap": sg.proposals.Bootstrap(),
    "Gradient": sg.proposals.Gradient(trust=2.0),
    "DTM": sg.proposals.DTM(),
}
NEEDED = {"Bootstrap": (1, 0), "Gradient": (1, 1), "DTM": (2, 1)}  # passes forward, backward
PRIORS: dict[str, Callable[[], Any]] = {
    "digits": lambda: sg.priors.load("digits"),
    "unet64": unet64.prior,
}
CHUNK = {"digits": 256, "unet64": 32}  # activations of 64 images are above 32 MB: page faults
STATES = {"digits": 2**13, "unet64": 2**9}  # in all turns of a row, about
STEPS = 50


def model(network: str, prior: Any, proposal: str) -> sg.GuidedDiffusion:
    """Half of an image, measured with noise; a potential that needs no draws of the prior."""
    mask = torch.zeros(prior.event_shape, dtype=torch.bool)
    mask[:, : mask.shape[1] // 2] = True
    g = torch.Generator().manual_seed(0)
    y = torch.randn(prior.event_shape, generator=g)
    return sg.GuidedDiffusion(
        prior, sg.costs.LinearGaussian(mask, y, 0.2), kernel=sg.kernels.DDPM(),
        times=sg.grids.karras(STEPS), potential=sg.potentials.InflatedGaussian(1.0),
        proposal=PROPOSALS[proposal], chunk_size=CHUNK[network],
    )  # fmt: skip


def bare(net: nn.Module, time: float, x: Tensor, proposal: str, chunk: int) -> None:
    """The network calls that a step to the states x (M, *E) needs."""
    forward, backward = NEEDED[proposal]
    for part in x.split(chunk):
        t = torch.full((len(part),), time, device=x.device)
        for _ in range(forward - backward):
            with torch.inference_mode():
                net(part, t)
        for _ in range(backward):
            here = part.detach().requires_grad_()
            torch.autograd.grad(net(here, t).sample.square().sum(), here)


def clock(device: torch.device) -> float:
    """Seconds of the process; of the wall where a device works."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def seconds(f: Callable[[], Any], device: torch.device) -> float:
    """That one call takes."""
    start = clock(device)
    f()
    return clock(device) - start


def row(
    network: str, prior: Any, net: nn.Module, proposal: str, N: int, fast: bool
) -> dict[str, Any]:
    """One line of the table."""
    m = model(network, prior, proposal)
    run = sg.iterate(m, num_particles=N, trigger=sg.triggers.always())
    latest = [next(run), next(run)][1:]  # the first step warms up
    counts = m.evaluations.copy()

    def step() -> None:
        latest[0] = next(run)

    def calls() -> None:
        particles, info = latest[0]
        bare(net, info.time, particles.x.flatten(0, 1), proposal, CHUNK[network])

    calls()
    num = 3 if fast else min(STEPS - 5, max(3, STATES[network] // N))
    turns = [(seconds(step, m.device), seconds(calls, m.device)) for _ in range(num)]
    spent = m.evaluations - counts
    low, ratio, high = statistics.quantiles(
        [a / b for a, b in turns], n=4, method="inclusive"
    )  # fmt: skip
    steps, bares = map(statistics.median, zip(*turns, strict=True))
    return {
        "network": network, "proposal": proposal, "N": N, "step": steps, "bare": bares,
        "ratio": ratio, "low": low, "high": high, "turns": num,
        "forward": spent["network_forward"] / (N * num),
        "backward": spent["network_backward"] / (N * num),
    }  # fmt: skip


HEADER = (
    "| network | proposal  |    N | forward | backward | calls, ms | step, ms | ratio "
    "| quartiles     |"
)


def line(r: dict[str, Any]) -> str:
    """The row in the table."""
    return (
        "| {network:7s} | {proposal:9s} | {N:4d} | {forward:7.2f} | {backward:8.2f} | {bare_ms:9.1f} "
        "| {step_ms:8.1f} | {ratio:.3f} | {low:.3f} - {high:.3f} |"
    ).format(**r, bare_ms=1e3 * r["bare"], step_ms=1e3 * r["step"])


def about(network: str, prior: Any, net: nn.Module, num: int) -> str:
    """The size of a network, and the time of its forward pass for `num` images."""
    x = torch.randn(num, *prior.event_shape, generator=torch.Generator().manual_seed(0))
    x = x.to(prior.device)
    forward = partial(bare, net, 1.0, x, "Bootstrap", num)
    forward()
    parameters = sum(p.numel() for p in net.parameters())
    each = 1e3 * seconds(forward, prior.device) / num
    return (
        f"{network}: {parameters} parameters, a forward pass {each:.2f} ms an image, chunks of "
        f"{CHUNK[network]}"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A bar for each row, from 1 up or down, with its quartiles."""
    groups = list(dict.fromkeys((r["network"], r["N"]) for r in rows))
    fig = new_figure(1.5 + 0.9 * len(groups), 3.2)
    ax = fig.subplots()
    for i, (proposal, colour) in enumerate(zip(PROPOSALS, COLOURS, strict=False)):
        of = [r for r in rows if r["proposal"] == proposal]
        x = [groups.index((r["network"], r["N"])) + 0.25 * (i - 1) for r in of]
        ax.bar(x, [r["ratio"] - 1 for r in of], 0.23, 1, color=colour, label=proposal)
        ax.vlines(x, [r["low"] for r in of], [r["high"] for r in of], color="black", linewidth=1)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(groups)), [f"{name}\nN = {N}" for name, N in groups])
    ax.set_ylabel("time of a step / bare network calls")
    ax.legend(frameon=False)
    fig.savefig(path)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run: three turns, N = 64")
    parser.add_argument("--network", choices=PRIORS, help="one network; default: both")
    parser.add_argument("--sizes", help="numbers of particles, default 64,256,1024")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--figure", type=Path, help="draw the table into this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sg.keep_memory()
    sizes = [int(n) for n in (args.sizes or ("64" if args.fast else "64,256,1024")).split(",")]
    where = "one thread" if args.device.type == "cpu" else f"on {args.device}"
    print(f"{machine()}, diffusers {diffusers.__version__}, {where}")
    networks = {}
    for name in [args.network] if args.network else PRIORS:
        prior = PRIORS[name]().to(args.device)
        networks[name] = prior, copy.deepcopy(prior.net).requires_grad_(False)
        print(about(name, *networks[name], min(CHUNK[name], max(sizes))))
    print(f"\n{HEADER}")
    print("|" + "|".join("-" * len(part) for part in HEADER.split("|")[1:-1]) + "|")
    rows = []
    for name, (prior, net) in networks.items():
        for N in sizes:
            for proposal in PROPOSALS:
                rows.append(row(name, prior, net, proposal, N, args.fast))
                print(line(rows[-1]), flush=True)
    if args.figure:
        draw(rows, args.figure)
    return rows


if __name__ == "__main__":
    main()
