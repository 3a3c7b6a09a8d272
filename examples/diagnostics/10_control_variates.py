"""Sharper answers from the same particles: control variates from the score of the posterior.

Functions whose posterior mean is zero, made from the score (Stein's identity), are fitted to the
integrands and subtracted. The run is repeated in 40 systems, so that the variance ratio that single runs
claim can be compared with the one that is measured, and both with the exact answer.

    python examples/diagnostics/10_control_variates.py    # some seconds; writes 10_control_variates.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg
from smcguide.diagnostics.estimators import control_variates, scores

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.5]], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.6)
A, Y, NOISE = torch.full((1, 2), 0.5**0.5).double(), torch.tensor([0.4]).double(), 0.5
NAMES = ("x_1", "x_1 x_2", "exp(x_1 / 2)")


def f(x):
    return torch.stack([x[:, 0], x[:, 0] * x[:, 1], torch.exp(x[:, 0] / 2)], 1)


def log_posterior(x):
    return PRIOR.log_prob(x) - (x @ A[0] - Y).square() / (2 * NOISE**2)


def main():
    cost = sg.costs.LinearGaussian(A, Y, noise_std=NOISE)
    post = sg.sample(PRIOR, cost, num_particles=200, num_systems=40, progress=False)
    found = control_variates(post, f, scores(post, log_posterior))
    truth = f(PRIOR.posterior(A, Y, NOISE).sample(1_000_000)).mean(0)
    measured = found.estimates.var(0) / found.plain.var(0)
    claimed = found.variance_ratio.median(0).values

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for i, ax in enumerate(figure.subplots(1, 3)):
        error = (found.estimates[:, i].mean() - truth[i]).abs()
        print(
            f"{NAMES[i]:13s} variance ratio {measured[i]:.4f}, claimed {claimed[i]:.4f}; "
            f"mean off by {error:.4f}"
        )
        ax.hist(found.plain[:, i], bins=15, color="0.75", label="plain")
        ax.hist(found.estimates[:, i], bins=15, color="#0072B2", label="with control variates")
        ax.axvline(truth[i], color="black", ls="--", lw=1, label="exact")
        ax.set(title=f"E {NAMES[i]}, 40 runs", yticks=[])
    ax.legend(frameon=False, fontsize=7)
    figure.savefig("10_control_variates.png", dpi=150)
    assert measured.max() < 0.1
    assert (found.estimates.mean(0) - truth).abs().max() < 0.02


if __name__ == "__main__":
    main()
