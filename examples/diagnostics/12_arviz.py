"""The same run in ArviZ: groups, R-hat and loo, and a file that opens in plain xarray.

With the prior and the cost of the run at hand, the result has prior and posterior predictive draws and
pointwise log-likelihoods. Two models are compared by leave-one-out cross-validation: the right noise
level against one that is three times too large.

    python examples/diagnostics/12_arviz.py          # some seconds; writes 12_arviz.png
"""

import tempfile
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure

import smcguide as sg

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces ArviZ 1
    import arviz
import xarray

g = torch.Generator().manual_seed(0)
PRIOR = sg.priors.GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), scale=0.7)
A = torch.randn(20, 2, generator=g)
TRUTH = torch.tensor([0.8, 1.2])
Y = A @ TRUTH + 0.4 * torch.randn(20, generator=g)


def run(noise):
    cost = sg.costs.LinearGaussian(A, Y, noise_std=noise)
    post = sg.sample(PRIOR, cost, num_particles=400, num_systems=4, num_steps=60, progress=False)
    return post, post.to_arviz(prior=PRIOR, cost=cost)


def main():
    (post, data), (_, wide) = run(0.4), run(1.2)
    right, wrong = (arviz.loo(d) for d in (data, wide))
    print(
        f"expected log density of 20 new measurements, by loo: {right.elpd_loo:.1f} +- {right.se:.1f}, "
        f"with the wrong noise {wrong.elpd_loo:.1f}"
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.nc"
        post.save(path)
        again = sg.Posterior.load(path)
        with xarray.open_dataset(path, group="weighted_posterior") as plain:
            print("in plain xarray:", dict(plain.sizes))
    print("loaded again, bit by bit:", bool((again.x == post.x).all()))

    ax = (figure := Figure(figsize=(6, 3.2), layout="constrained")).subplots()
    new = data["posterior_predictive"]["y"].values.reshape(-1, 20)
    low, high = torch.from_numpy(new).double().quantile(torch.tensor([0.05, 0.95]).double(), 0)
    inside = float(((low <= Y) & (high >= Y)).double().mean())
    ax.fill_between(range(20), low, high, color="0.8", label="90 % of new data")
    ax.plot(range(20), Y, "o", color="#0072B2", ms=4, label="data")
    ax.set(
        xlabel="measurement",
        xticks=range(0, 20, 2),
        title=f"posterior predictive: {inside:.0%} inside",
    )
    ax.legend(frameon=False)
    figure.savefig("12_arviz.png", dpi=150)
    assert right.elpd_loo > wrong.elpd_loo + 4
    assert torch.equal(again.x, post.x) and torch.equal(again.log_w, post.log_w)
    assert 0.7 < inside <= 1


if __name__ == "__main__":
    main()
