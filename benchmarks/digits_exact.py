"""Handwritten digits against the truth: kernel-density prior, linear tasks, closed-form posteriors.

`EmpiricalPrior` on the 1500 training digits (bandwidth 0.3, near the maximum of the held-out
log-likelihood); tasks (a) lower half missing, noise 0.2, (b) 2 x 2 mean downsampling, noise 0.1, on
held-out digits. For each proposal: error of log evidence and of the posterior mean (root mean square
over pixels, in posterior standard deviations), with the library's other defaults.

    python benchmarks/digits_exact.py [--digits 20] [--particles 400] [--steps 50] [--ablation]
"""

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

import smcguide as sg

F64 = torch.float64
PROPOSALS: Mapping[str, dict[str, Any]] = {
    "Bootstrap": {"proposal": sg.proposals.Bootstrap()},
    "Gradient": {"proposal": sg.proposals.Gradient()},
    "Gradient, trust 2": {"proposal": sg.proposals.Gradient(trust=2.0)},
    "DTM": {"proposal": sg.proposals.DTM()},
    "DTM, Gauss-Newton": {"proposal": sg.proposals.DTM(solver="gauss_newton")},
    "MomentMatched": {
        "proposal": sg.proposals.Gradient(trust=2.0), "potential": sg.potentials.MomentMatched(),
    },
}  # fmt: skip


def ablation(steps: int) -> Mapping[str, dict[str, Any]]:
    """One default changed at a time."""
    return {
        "default": {},
        "kernel DDPM": {"kernel": sg.kernels.DDPM()},
        "grid log-SNR": {"times": sg.grids.log_snr(steps)},
        "grid uniform": {"times": sg.grids.uniform(steps)},
        "PiGDM width": {"potential": sg.potentials.InflatedGaussian(1.0)},
        "lam^2 width": {"potential": sg.potentials.InflatedGaussian(math.inf)},
        "Tweedie": {"potential": sg.potentials.Tweedie()},
    }


def digits() -> tuple[Tensor, Tensor]:
    """Training (1500) and held-out (297) digits, (n, 1, 8, 8) in [-1, 1]."""
    images = torch.tensor(load_digits().images / 8 - 1, dtype=F64)[:, None]
    return images[:1500], images[1500:]


def problem(task: str, x: Tensor) -> sg.costs.LinearGaussian:
    """A measurement of each digit x (S, 1, 8, 8)."""
    g = torch.Generator().manual_seed(0)
    if task == "lower half missing":
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[:, :4] = True
        y = x + 0.2 * torch.randn(x.shape, generator=g, dtype=F64)
        return sg.costs.LinearGaussian(mask, y, 0.2, batched=True)
    pool = torch.kron(torch.eye(4, dtype=F64), torch.ones(1, 2, dtype=F64) / 2)
    A = torch.kron(pool, pool)
    y = x.flatten(1) @ A.T
    y = y + 0.1 * torch.randn(y.shape, generator=g, dtype=F64)
    return sg.costs.LinearGaussian(A, y, 0.1, batched=True)


def truth(prior: sg.priors.GaussianMixture, cost: sg.costs.LinearGaussian) -> tuple[Tensor, ...]:
    """Log evidence (S,), posterior mean and standard deviation (S, 64), in closed form."""
    A, rows = cost.matrix(prior.event_shape), []
    for y in cost.y[:, 0]:
        m = prior.posterior(A, y, cost.std).moments()
        rows.append((prior.log_evidence(A, y, cost.std), m.mean, (m.basis**2 @ m.variance).sqrt()))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def main() -> None:
    """Print one row per task and variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--particles", type=int, default=400)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ablation", action="store_true", help="vary one default at a time")
    args = parser.parse_args()
    variants = ablation(args.steps) if args.ablation else PROPOSALS
    train, held_out = digits()
    prior = sg.priors.EmpiricalPrior(train, 0.3)
    print("task                variant             |log Z err| median    mean err mean/s.d.   ESS     s")
    for task in ("lower half missing", "downsampled"):
        cost = problem(task, held_out[: args.digits])
        log_z, mean, std = truth(prior, cost)
        for name, parts in variants.items():
            start = time.perf_counter()
            post = sg.sample(
                prior, cost, num_particles=args.particles, progress=False,
                **({"times": sg.grids.karras(args.steps)} | parts),
            )  # fmt: skip
            error = post.log_evidence - log_z
            off = ((post.mean().flatten(1) - mean) / std).square().mean(1).sqrt()
            print(
                f"{task:19s} {name:19s} {error.abs().mean():11.2f} {error.abs().median():6.2f} "
                f"{error.mean():+7.2f} {off.mean():13.3f} {post.ess.mean():6.0f} "
                f"{time.perf_counter() - start:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
