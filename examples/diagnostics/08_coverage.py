"""Do regions of nominal credibility hold the truth? TARP, intervals, and intervals that are repaired.

Many data sets with known truth are inferred twice: with the right noise, and by a cost that believes it
to be three times smaller. No single run shows that. TARP, on whole events, and interval coverage, on
coordinates, do. K-RCPS widens the intervals until at most a tenth of the truths lies outside, and keeps
that on data sets that it has not seen.

    python examples/diagnostics/08_coverage.py          # some seconds; writes 08_coverage.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

MEANS = torch.tensor([[-3.0, 0.0], [0.0, 2.0], [3.0, -1.0]])
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.6)
NOISE, L = 0.6, 300


def draw_truth(num, generator):
    return PRIOR.sample(num, generator)


def measure(x, generator):
    return x + NOISE * torch.randn(x.shape, generator=generator)


def believing(noise):
    """Inference with this noise level."""

    def infer(y, seed):
        cost = sg.costs.LinearGaussian(torch.eye(2), y, noise_std=noise, batched=True)
        return sg.sample(PRIOR, cost, num_particles=100, num_steps=50, seed=seed, progress=False)

    return infer


def outside(low, high, truth):
    """Share of coordinates that their intervals miss."""
    return float(((truth < low) | (truth > high)).double().mean())


def main():
    check = sg.diagnostics.calibration
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    axes, p_values = figure.subplots(1, 4), []
    for i, (name, noise) in enumerate({"right noise": NOISE, "a third of it": NOISE / 3}.items()):
        (sets,) = check.simulate(
            draw_truth, measure, believing(noise), num_sets=L, batch=L, progress=False
        )
        both = (
            check.tarp(sets.posterior, sets.truth),
            check.interval_coverage(sets.posterior, sets.truth),
        )
        for ax, found in zip(axes[2 * i : 2 * i + 2], both, strict=True):
            sg.plots.plot_coverage(found, ax=ax)
            ax.set_title(name, fontsize=9)
            print(f"{name:13s} {found}")
            p_values += found.p_values().tolist()
    low, high = sets.posterior.quantile([0.05, 0.95])
    seen, new = slice(0, L // 2), slice(L // 2, L)
    wider = check.k_rcps(low[seen], high[seen], sets.truth[seen], epsilon=0.1)
    before = outside(low[new], high[new], sets.truth[new])
    after = outside(*wider(low[new], high[new]), sets.truth[new])
    print(f"intervals of 90 % miss {before:.0%}, widened {after:.0%}")
    figure.savefig("08_coverage.png", dpi=150)
    assert min(p_values[:3]) > 1e-3 and max(p_values[3:]) < 1e-6
    assert after < 0.15 < before


if __name__ == "__main__":
    main()
