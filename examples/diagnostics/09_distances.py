"""How far is a run from the exact posterior? Three distances, each beside the floor of exact samples.

Finite samples of one law are some distance apart: a number alone says nothing. The floor is what exact
samples with the same weights reach. A weighted run of 300 steps lands on it (the default of 100 a few
standard deviations above), DPS with its weights ignored far above.
Control variates make the sliced Wasserstein distance sharper at equal projections.

    python examples/diagnostics/09_distances.py          # some seconds; writes 09_distances.png
"""

from functools import partial

import torch
from matplotlib.figure import Figure

import smcguide as sg
from smcguide.diagnostics import distances as d

g = torch.Generator().manual_seed(0)
PRIOR = sg.priors.GaussianMixture(torch.ones(4), 0.7 * torch.randn(4, 6, generator=g), scale=0.7)
A, Y, NOISE = torch.randn(2, 6, generator=g), torch.tensor([1.0, -0.5]), 0.5
COST = sg.costs.LinearGaussian(A, Y, noise_std=NOISE)
DISTANCES = {
    "sliced Wasserstein": lambda x, y, w=None: (
        d.sliced_wasserstein(x, y, w, num_projections=50).distance
    ),
    "MMD, squared": partial(d.mmd, bandwidths=(2.0,)),
    "energy": d.energy_distance,
}


def main():
    exact = PRIOR.posterior(A, Y, NOISE)
    weighted = sg.sample(
        PRIOR, COST, num_particles=400, times=sg.grids.uniform(300), progress=False
    )
    ignored = sg.sample(
        PRIOR, COST, num_particles=400, progress=False, **sg.presets.dps()
    ).unweighted()
    ax = (figure := Figure(figsize=(7, 2.8), layout="constrained")).subplots()
    for row, (name, distance) in enumerate(DISTANCES.items()):
        right, wrong = (
            d.beside_floor(distance, p.particles, exact.sample, p.log_weights)
            for p in (weighted, ignored)
        )
        print(f"{name:19s} weighted {right}, weights ignored {wrong}")
        floor = (right.floor - right.floor.mean()) / right.floor.std()
        ax.plot(floor, torch.full_like(floor, row), "|", color="0.5", ms=12, label="exact samples")
        ax.plot(right.sds_above, row, "o", color="#0072B2", label="weighted")
        ax.plot(wrong.sds_above, row, "D", color="#D55E00", label="weights ignored")
        assert right.sds_above < 3 and wrong.sds_above > 10
    ax.set_xscale("symlog", linthresh=5)
    ax.set(yticks=range(3), yticklabels=DISTANCES, ylim=(2.5, -0.5))
    ax.set_xlabel("distance to the exact posterior, in standard deviations above the floor")
    ax.legend(*(part[:3] for part in ax.get_legend_handles_labels()), fontsize=8, loc=(0.5, 0.4))
    figure.savefig("09_distances.png", dpi=150)

    one = d.sliced_wasserstein(weighted.particles, exact.sample(4000), weighted.log_weights)
    print(
        f"200 projections: SW^2 {one.squared:.4f} +- {one.standard_error:.4f}; control variates leave "
        f"{one.variance_ratio:.2f} of the variance"
    )
    assert one.variance_ratio < 0.8


if __name__ == "__main__":
    main()
