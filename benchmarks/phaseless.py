"""Phase-less measurements of digits: which value for a non-linear Gaussian likelihood?

Magnitudes y = |A x_0| + noise of held-out digits under the kernel-density prior, A random (m, 64). The
evidence is unknown, but no method can be above it for long: the mean of an unbiased estimate's log is
below log Z, the more so the noisier the estimate. Higher is better.

    python benchmarks/phaseless.py [--digits 4] [--replicates 4] [--particles 200] [--steps 50]
"""

import argparse
import time

import torch
from digits_exact import F64, digits

import smcguide as sg

POTENTIALS = {
    "InflatedGaussian": sg.potentials.InflatedGaussian(),
    "Laplace": sg.potentials.Laplace(),
    "KrylovLaplace": sg.potentials.KrylovLaplace(),
    "Tweedie": sg.potentials.Tweedie(),
}
TASKS = [(24, 0.2), (48, 0.1)]  # number of measurements, noise


def main() -> None:
    """Print one row per task and value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=4)
    parser.add_argument("--replicates", type=int, default=4)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held_out = digits()
    prior = sg.priors.EmpiricalPrior(train, 0.3)
    x = held_out[: args.digits].flatten(1)
    print("  m  noise   potential          mean log Z   spread of runs    ESS     s")
    for m, noise in TASKS:
        g = torch.Generator().manual_seed(0)
        A = torch.randn(m, 64, generator=g, dtype=F64) / 8
        y = (x @ A.T).abs() + noise * torch.randn(len(x), m, generator=g, dtype=F64)
        y = y.repeat_interleave(args.replicates, 0)
        cost = sg.costs.GaussianLikelihood(
            lambda x, A=A: (x.flatten(1) @ A.T).abs(), y, noise, batched=True
        )
        for name, potential in POTENTIALS.items():
            start = time.perf_counter()
            post = sg.sample(
                prior, cost, num_particles=args.particles, num_steps=args.steps,
                potential=potential, progress=False,
            )  # fmt: skip
            log_z = post.log_evidence.reshape(len(x), -1)
            print(
                f"{m:3d} {noise:6.1f}   {name:17s} {log_z.mean():11.2f} {log_z.std(1).mean():16.2f} "
                f"{post.ess.mean():6.0f} {time.perf_counter() - start:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
