"""The 25-Gaussian mixture: evidence and samples of the library's defaults against the closed form.

Means (8i, 8j) repeated, i, j in -2..2, unit covariance, random weights, d = 8 and 80; a random linear
observation of dimension 1, 2, 4 (singular values and noise uniform in [0, 1], the noise below the
largest singular value; Cardoso et al., MCGdiff, arXiv 2308.07983). For each case over 10 instances:
|log Z error|, and the sliced Wasserstein distance of the draws to exact samples over that of exact
samples to exact samples.

    python benchmarks/mixture25.py [--instances 10] [--particles 1000] [--steps 100] [--method default]
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor

import smcguide as sg

F64 = torch.float64
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "often": {"trigger": sg.triggers.ess_below(0.9)},  # resample more often
    "DTM": {"proposal": sg.proposals.DTM()},
    "matched": {"potential": sg.potentials.MomentMatched(), "trigger": sg.triggers.ess_below(0.9)},
}
CASES = [(d, m) for d in (8, 80) for m in (1, 2, 4)]


def instance(seed: int, d: int, m: int) -> tuple[sg.priors.GaussianMixture, Tensor, Tensor, float]:
    """Prior, operator (m, d), observation (m,), noise standard deviation."""
    g = torch.Generator().manual_seed(seed)
    grid = [[8.0 * i, 8.0 * j] * (d // 2) for i in range(-2, 3) for j in range(-2, 3)]
    weights = torch.rand(25, generator=g, dtype=F64)
    prior = sg.priors.GaussianMixture(weights, torch.tensor(grid, dtype=F64), scale=1.0)
    U = torch.linalg.qr(torch.randn(m, m, generator=g, dtype=F64))[0]
    V = torch.linalg.qr(torch.randn(d, m, generator=g, dtype=F64))[0]
    s = torch.rand(m, generator=g, dtype=F64)
    std = float(torch.rand((), generator=g, dtype=F64) * s.max())
    A = U @ torch.diag(s) @ V.T
    y = A @ prior.sample(1, g)[0] + std * torch.randn(m, generator=g, dtype=F64)
    return prior, A, y, std


def sliced_wasserstein(x: Tensor, y: Tensor, g: torch.Generator, slices: int = 500) -> float:
    """Mean W1 over random directions, for equally many points (n, d)."""
    theta = torch.randn(x.shape[1], slices, generator=g, dtype=F64)
    theta = theta / theta.norm(dim=0)
    return float(((x @ theta).sort(0).values - (y @ theta).sort(0).values).abs().mean())


def measure(
    seed: int, d: int, m: int, particles: int, steps: int, method: str
) -> tuple[float, float, float]:
    """log Z error, sliced Wasserstein ratio, ESS / N of one instance."""
    prior, A, y, std = instance(seed, d, m)
    post = sg.sample(
        prior, sg.costs.LinearGaussian(A, y, std), num_particles=particles, num_steps=steps,
        seed=seed, progress=False, **METHODS[method],
    )  # fmt: skip
    exact, g = prior.posterior(A, y, std), torch.Generator().manual_seed(1000 + seed)
    pairs = [(exact.sample(particles, g), exact.sample(particles, g)) for _ in range(5)]
    floor = sum(sliced_wasserstein(a, b, g) for a, b in pairs) / 5
    draws = post.draws(particles, seed=seed)
    ours = sum(sliced_wasserstein(draws, a, g) for a, _ in pairs) / 5
    error = float(post.log_evidence - prior.log_evidence(A, y, std))
    return error, ours / floor, float(post.ess) / particles


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--method", choices=METHODS, default="default")
    args = parser.parse_args()
    print("   d  m   median |log Z error|   largest   mean error   SW ratio median   largest  ESS/N   s")
    everything = []
    for d, m in CASES:
        start = time.perf_counter()
        rows = [measure(i, d, m, args.particles, args.steps, args.method) for i in range(args.instances)]
        everything += rows
        error, ratio, ess = torch.tensor(rows, dtype=F64).T
        print(
            f"{d:4d} {m:2d} {error.abs().median():22.3f} {error.abs().max():9.3f} {error.mean():12.3f}"
            f" {ratio.median():17.2f} {ratio.max():9.2f} {ess.mean():7.2f} "
            f"{time.perf_counter() - start:4.0f}",
            flush=True,
        )
    error, ratio, _ = torch.tensor(everything, dtype=F64).T
    print(f"all: median |log Z error| {error.abs().median():.3f}, SW ratio {ratio.median():.2f}")


if __name__ == "__main__":
    main()
