"""A broken run, what `verdict` says of it, and the same run after its remedy.

Ten numbers with a prior of four Gaussians; four of them are measured. A run that neither guides its
particles nor values them before the last step is importance sampling from the prior: one particle ends
with nearly all of the weight.

    python examples/diagnostics/01_verdict.py          # some seconds; writes 01_verdict.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

g = torch.Generator().manual_seed(0)
PRIOR = sg.priors.GaussianMixture(torch.ones(4), torch.randn(4, 10, generator=g), scale=0.7)
A = torch.randn(4, 10, generator=g)
Y = A @ PRIOR.sample(1, g)[0] + 0.2 * torch.randn(4, generator=g)
COST = sg.costs.LinearGaussian(A, Y, noise_std=0.2)
SIZES = {"num_particles": 200, "num_systems": 4, "num_steps": 60, "progress": False}


def main():
    blind = {"potential": sg.potentials.Terminal(), "proposal": sg.proposals.Bootstrap()}
    broken = sg.sample(PRIOR, COST, **blind, **SIZES)
    first = broken.verdict().findings[0]
    print(f"{first.severity}: {first.title}\n  {first.evidence}\n  {first.remedy}")

    # "Leave `potential` out ... Guide the particles": that is the default
    repaired = sg.sample(PRIOR, COST, **SIZES)
    print(
        f"ESS {broken.ess.min():.1f}, after the remedy {repaired.ess.min():.1f}. {repaired.verdict()}"
    )

    figure = Figure(figsize=(10, 5), layout="constrained")
    runs = {"no value, no guidance": broken, "the remedy applied": repaired}
    for half, (title, post) in zip(figure.subfigures(1, 2), runs.items(), strict=True):
        half.suptitle(f"{title}: ESS {post.ess.min():.1f} of 200")
        sg.plots.plot_run(post, axes=half.subplots(4, 1, sharex=True))
    figure.savefig("01_verdict.png", dpi=150)

    assert not broken.verdict().is_trusted and "potential" in first.remedy
    assert not repaired.verdict().findings
    assert repaired.ess.min() > 10 * broken.ess.max()


if __name__ == "__main__":
    main()
