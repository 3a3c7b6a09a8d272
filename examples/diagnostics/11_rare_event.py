"""The probability of a rare event under the prior, from a run that is guided into it.

The prior is a standard Gaussian in eight dimensions, the event that the sum of the coordinates is more
than 3, 4 or 5 of its standard deviations high: P = 1e-3 to 3e-7 in closed form. A soft edge guides the
particles; log Z and the weights correct for it, and the spread of the systems is the error. Sampled is
the prior of the discretised chain, whose tails are a little heavier.

    python examples/diagnostics/11_rare_event.py          # some seconds; writes 11_rare_event.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg
from smcguide.diagnostics.estimators import Exceedance, rare_event

PRIOR = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 8, dtype=torch.float64), scale=1.0)
CHAIN = 0.15  # relative, what 100 steps may add


def height(x):
    """The sum of the coordinates in its standard deviations."""
    return x.sum(1) / 8**0.5


def exact(threshold):
    return float(torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64)))


def main():
    ax = (figure := Figure(figsize=(5, 3.4), layout="constrained")).subplots()
    for threshold in (3.0, 4.0, 5.0):
        tail = Exceedance(height, threshold, width=0.3)
        post = sg.sample(PRIOR, tail, num_particles=300, num_systems=6, progress=False)
        found, truth = rare_event(post, tail.event, tail), exact(threshold)
        p, error = float(found.probability), float(found.relative_error)
        print(
            f"P(height > {threshold:g}) = {p:.2e} +- {error:.0%}, exact {truth:.2e}: plain counting "
            f"needs {1 / (truth * error**2):.0e} draws for that error, this run {post.log_w.numel()}"
        )
        ax.errorbar(threshold, p, p * error, fmt="o", color="#0072B2", capsize=3)
        assert -4 * error < p / truth - 1 < 4 * error + CHAIN
    line = torch.linspace(2.8, 5.2, 50).tolist()
    ax.plot(line, [exact(t) for t in line], color="black", ls="--", lw=1, label="closed form")
    ax.set(yscale="log", xlabel="threshold", ylabel="P(height > threshold)")
    ax.legend(frameon=False)
    figure.savefig("11_rare_event.png", dpi=150)


if __name__ == "__main__":
    main()
