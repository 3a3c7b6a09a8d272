"""Simulation-based calibration: what the weights are for.

Truths come from the prior, data from the likelihood. Among draws of a correct posterior the rank of the
truth is uniform. Guided particles with their weights pass; the same guidance (DPS as published) with its
weights ignored piles the truth up outside of its draws.

    python examples/diagnostics/07_sbc.py          # some seconds; writes 07_sbc.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

MEANS = torch.tensor([[-3.0, 0.0], [0.0, 2.0], [3.0, -1.0]])
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.6)
A, NOISE = torch.tensor([[1.0, 1.0]]), 0.5
SETS = {"num_sets": 200, "batch": 200, "num_draws": 99, "seed": 0, "progress": False}


def draw_truth(num, generator):
    return PRIOR.sample(num, generator)


def measure(x, generator):
    return x @ A.T + NOISE * torch.randn(len(x), 1, generator=generator)


def cost(y):
    return sg.costs.LinearGaussian(A, y, noise_std=NOISE, batched=True)


def statistics(y):
    """What is ranked: the coordinates, and the log-likelihood, which knows the data."""
    return {
        "x_0": lambda x: x[..., 0],
        "x_1": lambda x: x[..., 1],
        "log p(y | x)": lambda x: -cost(y)(x),
    }


def weighted(y, seed):
    return sg.sample(PRIOR, cost(y), num_particles=128, num_steps=50, seed=seed, progress=False)


def ignored(y, seed):
    dps = sg.presets.dps(num_steps=50)
    return sg.sample(
        PRIOR, cost(y), num_particles=128, seed=seed, progress=False, **dps
    ).unweighted()


def main():
    found = {
        name: sg.diagnostics.calibration.simulate_ranks(
            draw_truth, measure, infer, statistics=statistics, **SETS
        )
        for name, infer in {"weighted": weighted, "DPS, weights ignored": ignored}.items()
    }
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    for part, (name, ranks) in zip(figure.subfigures(2, 1), found.items(), strict=True):
        print(f"{name:21s} {ranks}")
        part.suptitle(name)
        sg.plots.plot_ranks(ranks, axes=part.subplots(1, 3))
    figure.savefig("07_sbc.png", dpi=150)
    exact, biased = found.values()
    assert exact.p_values().min() > 1e-3
    assert biased.p_values().min() < 1e-9


if __name__ == "__main__":
    main()
