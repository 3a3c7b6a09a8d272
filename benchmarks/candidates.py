"""Reward against KL: how far choosing among candidates moves from the prior, and what it gains.

A staircase cost (no gradient) on a Gaussian in the plane, 20 steps. For each number of candidates n and
block length B (B = 1 chooses at every step, B = 20 is best-of-n): the mean cost of the results, and the
upper bound log n - (n - 1) / n per choice of the KL to the prior.

    python benchmarks/candidates.py [--results 4000]
"""

import argparse

import torch
from torch import Tensor

import smcguide as sg

STEPS = 20


def stairs(x: Tensor) -> Tensor:
    """0 on one step of the first coordinate, and 1 more for each step away from it."""
    return (2.0 - torch.floor(x[:, 0])).abs()


def main() -> None:
    """Print one row per choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=int, default=4000)
    args = parser.parse_args()
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.2)
    model = sg.model(
        prior, stairs, num_steps=STEPS, potential=sg.potentials.Tweedie(1.0),
        proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    print("  n   B   mean cost   KL bound   evaluations per result")
    for num in (1, 4, 16):
        for block in (1, 5, STEPS) if num > 1 else (1,):
            chosen = sg.Candidates(model, num, block, rule="argmax")
            post = sg.run(
                chosen, num_particles=args.results, trigger=sg.triggers.never(), progress=False
            )
            cost = float(stairs(post.particles).mean())
            calls = post.evaluations["network_forward"] / args.results
            print(f"{num:3d} {block:3d} {cost:11.3f} {chosen.kl_bound:10.2f} {calls:12.0f}")


if __name__ == "__main__":
    main()
