"""A rare event against the number of steps: how much of the error of Z is the discretised chain's.

The half-plane of `problems.rare`, probability about 1e-5, with `KrylovLaplace(local=0.5)` and
`Gradient(trust=2.0)`, resampling below 0.9 N, equal steps in log-SNR. Relative bias of Z with its
standard error, and coefficient of variation, over independent systems.

    python benchmarks/rare_event.py [--steps 100 200 400 1000] [--particles 1000] [--systems 32]
        [--local 0.5]
"""

import argparse
import time

import torch
from problems import PROBLEMS

import smcguide as sg


def main() -> None:
    """Print one row per number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 400, 1000])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--systems", type=int, default=32)
    parser.add_argument("--local", type=float, default=0.5, help="share of the local covariance")
    args = parser.parse_args()
    torch.set_num_threads(1)
    (problem,) = PROBLEMS["rare"](1.0)
    print("steps   relative bias of Z      CV   ESS/N     s")
    for steps in args.steps:
        start = time.perf_counter()
        post = sg.sample(
            problem.prior, problem.cost, num_particles=args.particles, num_systems=args.systems,
            times=sg.grids.log_snr(steps), potential=sg.potentials.KrylovLaplace(local=args.local),
            proposal=sg.proposals.Gradient(trust=2.0), trigger=sg.triggers.ess_below(0.9),
            progress=False,
        )  # fmt: skip
        ratio = torch.exp(post.log_evidence - problem.log_z)
        se = float(ratio.std()) / args.systems**0.5
        print(
            f"{steps:5d} {float(ratio.mean()) - 1:+11.3f} ± {se:.3f} "
            f"{float(ratio.std() / ratio.mean()):8.3f} "
            f"{float(post.ess.mean()) / args.particles:7.2f} {time.perf_counter() - start:5.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
