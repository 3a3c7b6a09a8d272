r"""What a compiler could make of the step: one written by hand, as it is and compiled whole by torch.

The step is that of the 25 Gaussians with the gradient of the value: kernel, shift within the trust
radius, density ratio, denoiser, value, gradient, ESS and mean weight, without random numbers and
selection, which no compiler fuses. Levels are numbers in a tensor, so that one compilation serves all
steps; the library's are Python numbers. Beside it the library's step, with all it does. All take turns;
seconds are of the process, medians.

    python benchmarks/compiled_step.py [--sizes 1000,10000]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from problem_tables import Task
from turns import interleaved

import smcguide as sg

F64 = torch.float64
STEPS, BUDGET = 50, 20.0  # seconds for each size
TASK = Task(1, 8, 2, STEPS)
MODEL = TASK.model(gradient=True, dtype=F64)
TRUST = MODEL.proposal.trust


def make_step() -> tuple[Callable[..., Any], int, int]:
    """The step of one instance, its dimension and number of measurements."""
    m, log_w = TASK.prior._m, TASK.prior._log_w

    def value(x: Tensor, alpha: Tensor, sigma: Tensor, B: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u = alpha**2 + sigma**2
        logits = x @ (m * (alpha / u)).T + (log_w - alpha**2 * m.square().sum(1) / (2 * u))
        gain = alpha / u
        x0_hat = gain * x + (1 - gain * alpha) * (torch.softmax(logits, 1) @ m)
        return -0.5 * (c - x0_hat @ B.T).square().sum(-1), x0_hat

    def step(
        x: Tensor, x0_hat: Tensor, grad: Tensor, log_psi: Tensor, z: Tensor, level: Tensor,
        B: Tensor, c: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        alpha, sigma, c_x, c_D, std = level.unbind()
        shift = std * grad
        size = shift.square().sum(-1, keepdim=True).sqrt()
        shift = shift * (TRUST / size.clamp(min=1e-30)).clamp(max=1.0)
        x = c_x * x + c_D * x0_hat + std * (z + shift)
        (new, ahead), vjp = torch.func.vjp(lambda x: value(x, alpha, sigma, B, c), x)
        (slope,) = vjp((torch.ones_like(new), torch.zeros_like(ahead)))
        log_g = new - log_psi - (shift * (z + 0.5 * shift)).sum(-1)
        w = (log_g - log_g.max()).exp()
        return x, ahead, slope, new, log_g, w.sum() ** 2 / w.square().sum(), log_g.logsumexp(0)

    return step, m.shape[1], len(TASK.A)


def arguments(N: int, d: int, m: int) -> list[Tensor]:
    """Of one step: five of the size of the particles, then the level and the measurement."""
    g = torch.Generator().manual_seed(0)
    shapes = [(N, d), (N, d), (N, d), (N,), (N, d)]
    states = [torch.randn(shape, generator=g, dtype=F64) for shape in shapes]
    level = torch.tensor([0.5, 0.8, 0.6, 0.3, 0.4], dtype=F64)
    likelihood = [torch.randn(shape, generator=g, dtype=F64) for shape in ((m, d), (m,))]
    return [*states, level, *likelihood]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000", help="numbers of particles")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sg.keep_memory()
    step, d, m = make_step()
    names = ("N", "as it is, ms", "compiled, ms", "ratio", "compilation, s", "difference", "library, ms")
    print("| " + " | ".join(names) + " |")
    print("|---" * len(names) + "|")
    for N in map(int, args.sizes.split(",")):
        given = arguments(N, d, m)
        compiled = torch.compile(step, fullgraph=True, dynamic=False)
        start = time.perf_counter()
        found = compiled(*given)
        once = time.perf_counter() - start
        pairs = zip(found, step(*given), strict=True)
        apart = max(float(((a - b) / (1 + b.abs())).abs().max()) for a, b in pairs)
        run = partial(sg.run, MODEL, num_particles=N, progress=False)
        turns = interleaved([partial(step, *given), partial(compiled, *given), run], BUDGET)
        plain, fast, ours = map(statistics.median, turns)
        print(
            f"| {N} | {1e3 * plain:.2f} | {1e3 * fast:.2f} | {fast / plain:.2f} | {once:.0f} "
            f"| {apart:.0e} | {1e3 * ours / STEPS:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
