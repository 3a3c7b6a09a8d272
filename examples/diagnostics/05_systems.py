"""Only other systems can tell what one system has lost: R-hat and the occupancy of modes.

The posterior has three modes with known weights. Sixteen particles that are resampled at every step
lose modes by chance alone: each system is sure of its own, and no number inside it says so. Between
systems it shows.

    python examples/diagnostics/05_systems.py          # some seconds; writes 05_systems.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

MEANS = torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]], dtype=torch.float64)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(SHARES, MEANS, scale=0.4)
A, Y, NOISE = torch.tensor([[0.2, 0.3]], dtype=torch.float64), torch.tensor([0.4]).double(), 1.0
COST = sg.costs.LinearGaussian(A, Y, noise_std=NOISE)


def main():
    exact = PRIOR.posterior(A, Y, NOISE).sample(100_000)
    truth = torch.cdist(exact, MEANS).argmin(1).bincount(minlength=3) / len(exact)
    drift = {"resampler": sg.resamplers.Multinomial(), "trigger": sg.triggers.always()}
    runs = {
        "16 particles, always resampled": sg.sample(
            PRIOR, COST, num_particles=16, num_systems=8, num_steps=60, progress=False, **drift
        ),
        "default, 500 particles": sg.sample(
            PRIOR, COST, num_particles=500, num_systems=8, num_steps=60, progress=False
        ),
    }
    print("exact occupancy", [round(p, 2) for p in truth.tolist()])
    worst, agreement = {}, {}
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for half, (name, post) in zip(figure.subfigures(1, 2), runs.items(), strict=True):
        worst[name] = float(sg.diagnostics.r_hat(post).max())
        found = agreement[name] = sg.diagnostics.modes_agree(post, MEANS)
        print(
            f"{name}: R-hat {worst[name]:.2f}; occupancy {[round(p, 2) for p in found.mean.tolist()]}, "
            f"worth {found.observed_draws:.1f} draws where {found.claimed_draws:.0f} are claimed "
            f"(p {found.p_value:.1g}), {int(found.lost.sum())} modes lost in 8 systems"
        )
        half.suptitle(f"{name}: R-hat {worst[name]:.2f}")
        for system, part in enumerate(half.subfigures(1, 2)):
            part.supxlabel(f"system {system}", fontsize=8)
            axes = sg.plots.plot_pairs(post, system=system, axes=part.subplots(2, 2))
            axes[0, 0].set(xlim=(-4.5, 4.5))
            axes[1, 0].set(xlim=(-4.5, 4.5), ylim=(-2, 5))
            axes[1, 1].set(xlim=(-2, 5))
    figure.savefig("05_systems.png", dpi=150)

    bad, good = agreement.values()
    assert min(worst.values()) < 1.1 < 1.2 < max(worst.values())
    assert bad.p_value < 1e-3 < good.p_value and int(good.lost.sum()) == 0
    assert (good.mean - truth).abs().max() < 4 * (good.observed_draws * 8) ** -0.5


if __name__ == "__main__":
    main()
