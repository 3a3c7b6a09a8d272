"""Simulation-based calibration: the picture of what the weights are for.

Truths come from the prior, measurements from the likelihood; among 31 draws of a correct posterior the
rank of the truth is uniform, whatever is ranked: coordinates, and the log-likelihood, which depends on
the data (arXiv 1804.06788, 2211.02383).

    mixture   five Gaussians of different weights and widths in 8 dimensions, two linear measurements
    digits    kernel density of 500 handwritten digits of 8 x 8 pixels, measured as means of 2 x 2 pixels

Methods: `sg.sample` as it is, with many and with few particles; NDTM and DPS with their published
constants, their draws without weights. Truths are draws of the very chain that a method guides (its
kernel, its time grid), so that no method pays for finite steps.

p-values are exact, of the simultaneous bands of arXiv 2103.10522; the false-alarm rate is 1e-3 for the
whole command.

    python benchmarks/sbc.py [--datasets 200] [--problems mixture digits] [--out docs/images/sbc.png]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from digits_exact import digits
from problems import F64, STDS, WEIGHTS
from scipy.stats import binom
from torch import Generator, Tensor

import smcguide as sg
from smcguide.diagnostics.calibration import Ranks, simulate_ranks
from smcguide.plots.panels import COLOURS, new_figure

DRAWS, BINS, FALSE_ALARM_RATE = 31, 8, 1e-3
STEPS, MANY, FEW, BATCH = 50, 128, 32, 50
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "sbc.png"
LIKELIHOOD = "log p(y | x)"


@dataclass(frozen=True)
class Problem:
    """A prior, y = A x + std n, and functions of x that are ranked; the first one is shown."""

    prior: sg.priors.GaussianMixture
    A: Tensor
    std: float
    functions: dict[str, Callable[[Tensor], Tensor]]

    def cost(self, y: Tensor) -> sg.costs.LinearGaussian:
        """Of data sets y (S, m)."""
        return sg.costs.LinearGaussian(self.A, y, self.std, batched=True)

    def measure(self, x: Tensor, generator: Generator) -> Tensor:
        """Data sets (S, m) of truths (S, *E)."""
        clean = x.flatten(1) @ self.A.T
        return clean + self.std * torch.randn(clean.shape, generator=generator, dtype=F64)

    def statistics(self, y: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
        """What is ranked for data sets y."""
        cost = self.cost(y)
        return {**self.functions, LIKELIHOOD: lambda x: -cost(x)}


def mixture() -> Problem:
    """Components far apart compared with their widths, A of rank two."""
    g = Generator().manual_seed(1)
    means = 1.5 * torch.randn(5, 8, generator=g, dtype=F64)
    A = torch.randn(2, 8, generator=g, dtype=F64) / 8**0.5
    prior = sg.priors.GaussianMixture(WEIGHTS, means, scale=STDS)
    return Problem(prior, A, 0.2, {"x[0]": lambda x: x[..., 0], "x[1]": lambda x: x[..., 1]})


def pooled_digits() -> Problem:
    """Four times fewer measurements than pixels."""
    pool = torch.kron(torch.eye(4, dtype=F64), torch.ones(1, 2, dtype=F64) / 2)
    functions = {"ink": lambda x: x.flatten(2).mean(-1), "one pixel": lambda x: x[..., 0, 3, 3]}
    prior = sg.priors.EmpiricalPrior(digits()[0][:500], 0.3)
    return Problem(prior, torch.kron(pool, pool), 0.3, functions)


PROBLEMS = {"mixture": mixture, "digits": pooled_digits}


@dataclass(frozen=True)
class Method:
    """Arguments of `sg.sample` for a problem, a number of particles, and whether their weights count."""

    title: str
    recipe: Callable[[Problem], dict[str, Any]]
    num_particles: int
    is_weighted: bool = True


def ndtm(p: Problem) -> dict[str, Any]:
    """As published; its weight belongs to the cost |y - A x|^2."""
    return sg.presets.ndtm(terminal_weight=50 * 2 * p.std**2, clip=None, num_steps=STEPS)


METHODS = [
    Method(f"exact weights\n{MANY} particles", lambda p: {"num_steps": STEPS}, MANY),
    Method(f"exact weights\n{FEW} particles", lambda p: {"num_steps": STEPS}, FEW),
    Method("NDTM\nweights ignored", ndtm, FEW, False),
    Method("DPS\nweights ignored", lambda p: sg.presets.dps(num_steps=STEPS), FEW, False),
]


def ranks(p: Problem, method: Method, num_sets: int, seed: int) -> Ranks:
    """Of truths drawn by the method's own chain."""
    recipe = method.recipe(p)
    parts = {name: part for name, part in recipe.items() if name != "trigger"}
    chain = sg.model(p.prior, p.cost(torch.zeros(1, len(p.A), dtype=F64)), **parts)

    def infer(y: Tensor, seed: int) -> sg.Posterior:
        post = sg.sample(
            p.prior,
            p.cost(y),
            num_particles=method.num_particles,
            seed=seed,
            progress=False,
            **recipe,
        )
        return post if method.is_weighted else post.unweighted()

    return simulate_ranks(
        lambda n, g: sg.draw(p.prior, chain.kernel, chain.levels, n, g), p.measure, infer,
        statistics=p.statistics, num_draws=DRAWS, num_sets=num_sets, batch=BATCH, seed=seed,
    )  # fmt: skip


def picture(found: dict[str, list[Ranks]], passes: float, path: Path) -> None:
    """Histograms of ranks, grey where 99 of 100 bars are under calibration; two functions per problem."""
    rows = [(name, k) for name in found for k in (0, -1)]
    fig = new_figure(8, 0.8 + 1.15 * len(rows))
    axes = fig.subplots(len(rows), len(METHODS), squeeze=False)
    for row, (name, k) in zip(axes, rows, strict=True):
        for ax, r in zip(row, found[name], strict=True):
            p, height = float(r.p_values()[k]), r.histogram(BINS)[k] / len(r.ranks) * BINS
            low, high = binom.interval(0.99, len(r.ranks), 1 / BINS)
            ax.axhspan(low / len(r.ranks) * BINS, high / len(r.ranks) * BINS, color="0.88")
            ax.bar(range(BINS), height.numpy(), 0.86, color=COLOURS[0 if p > passes else 1])
            ax.axhline(1, color="0.3", lw=0.8)
            said = f"p = {p:.1g}" if p > 1e-3 else f"p = {p:.0e}".replace("e-0", "e-")
            ax.set_title(said, fontsize=9, pad=2)
            ax.set(xticks=[], yticks=[0, 1], ylim=(0, max(2.2, 1.1 * float(height.max()))))
            ax.tick_params(labelsize=8, length=2)
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"{name}\n{found[name][0].names[k]}", fontsize=10)
    for ax, method in zip(axes[0], METHODS, strict=True):
        said = ax.get_title()
        ax.set_title(f"{method.title}\n", fontsize=11, fontweight="bold", pad=6)
        ax.text(0.5, 1.02, said, fontsize=9, ha="center", transform=ax.transAxes)
    fig.supxlabel(
        f"rank of the truth among {DRAWS} posterior draws: a correct posterior has all ranks equally "
        "often\n(grey: where 99 of 100 of its bars are); orange: fails",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)


def main(arguments: list[str] | None = None) -> None:
    """Simulate, infer, rank, test; exit status 1 for a weighted method that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, list[Ranks]] = {name: [] for name in args.problems}
    failed = []
    passes = FALSE_ALARM_RATE / (len(found) * len(METHODS) * 3)  # three functions each
    print(f"{args.datasets} data sets, exact p-values; uniform ranks have p > {passes:.1g}")
    for name in found:
        p = PROBLEMS[name]()
        print(f"{name:28s}{'  '.join(f'{s:>12s}' for s in (*p.functions, LIKELIHOOD))}       s")
        for method in METHODS:
            start = time.perf_counter()
            r = ranks(p, method, args.datasets, args.seed)
            found[name].append(r)
            title = method.title.replace("\n", ", ")
            cells = "  ".join(f"{p:12.2g}" for p in r.p_values().tolist())
            print(f"  {title:26s}{cells}  {time.perf_counter() - start:6.0f}", flush=True)
            if method.is_weighted and float(r.p_values().min()) < passes:
                failed.append(f"{name}, {title}")
    picture(found, passes, args.out)
    if failed:
        raise SystemExit(f"Not calibrated: {'; '.join(failed)}.")


if __name__ == "__main__":
    main()
