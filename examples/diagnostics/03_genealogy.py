"""Who descends from whom: resampling at every step forgets, resampling when needed remembers.

Two runs of one problem differ in their resampling. Each has a right mean, but the first rests on few
families. How fast families join is known where weights are equal: under multinomial resampling at every
step all N particles have one ancestor after 2 (N - 1) steps, on average.

    python examples/diagnostics/03_genealogy.py          # some seconds; writes 03_genealogy.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

MEANS = torch.tensor([[-2.0, -1.0], [1.0, 1.5], [2.0, -1.0]])
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.6)
COST = sg.costs.LinearGaussian(torch.ones(1, 2), torch.tensor([0.5]), noise_std=0.3)
SELECTION = {
    "at every step, multinomial": (sg.resamplers.Multinomial(), sg.triggers.always()),
    "below half ESS, systematic": (sg.resamplers.Systematic(), sg.triggers.ess_below(0.5)),
}


def run(cost, resampler, trigger, **sizes):
    return sg.sample(
        PRIOR,
        cost,
        resampler=resampler,
        trigger=trigger,
        record=("ancestors",),
        progress=False,
        **sizes,
    )


def main():
    look, founders = sg.diagnostics, {}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for ax, (name, selection) in zip(figure.subplots(1, 2), SELECTION.items(), strict=True):
        post = run(COST, *selection, num_particles=100, num_steps=60)
        parents = look.unique_ancestors(post).double().mean()
        founders[name] = int(look.lineages(post)[0])
        print(
            f"{name}: {parents:.0f} of 100 particles have children; of the final ones descend "
            f"{int(look.lineages(post)[30])} of 30 steps ago and {founders[name]} founders"
        )
        sg.plots.plot_genealogy(post, ax=ax)
        ax.set_title(f"{name}\n{ax.get_title()}", fontsize=8)
    figure.savefig("03_genealogy.png", dpi=150)

    N, S = 16, 200
    neutral = run(lambda x: 0.0 * x[:, 0], *SELECTION["at every step, multinomial"],
                  num_particles=N, num_systems=S, num_steps=150)  # fmt: skip
    back = look.coalescence_time(neutral)
    mean, error = float(back.mean()), float(back.std()) / S**0.5
    print(
        f"equal weights: one ancestor after {mean:.1f} +- {error:.1f} steps; {2 * (N - 1)} expected"
    )
    few, many = founders.values()
    assert few < many / 3
    assert abs(mean - 2 * (N - 1)) < 4 * error


if __name__ == "__main__":
    main()
