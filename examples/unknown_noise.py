"""An unknown noise level, inferred in three ways and compared with the exact answer on a grid.

The prior is a Gaussian mixture, so the evidence p(y | sigma) is known, and the posterior of sigma a sum.

    Particles   one run; sigma is extra particle state
    PMMH        a Markov chain of sigma, one small run per candidate
    Gibbs       sigma given x and x given sigma in turn

    python examples/unknown_noise.py          # half a minute; writes unknown_noise.png
"""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import smcguide as sg
from smcguide.bridges.pyro import PMMH, SMC, DiffusionPrior, Gibbs, Particles

MEANS = torch.tensor([[1.5, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(torch.ones(2), MEANS, scale=0.6)
A = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = dist.LogNormal(torch.tensor(-0.5, dtype=torch.float64), 0.7)
METHODS = {  # particles, chains, steps
    "Particles": (Particles(), 2000, 2, 60),
    "PMMH": (PMMH(num_samples=150, burn_in=10), 32, 1, 20),
    "Gibbs": (Gibbs(num_samples=40, burn_in=5), 8, 8, 20),
}


def program(y):
    x = pyro.sample("x", DiffusionPrior(PRIOR))
    sigma = pyro.sample("sigma", SIGMA)
    with pyro.plate("measurements", len(y)):
        pyro.sample("y", dist.Normal(A @ x, sigma), obs=y)


def exact(y):
    """A fine grid of sigma, its posterior masses, and the evidence."""
    log_sigma = torch.linspace(-4, 3, 2001, dtype=torch.float64)
    sigma = log_sigma.exp()
    likelihood = torch.stack([PRIOR.log_evidence(A, y, float(s)) for s in sigma])
    joint = likelihood + SIGMA.log_prob(sigma) + log_sigma
    return sigma, joint.softmax(0), float(joint.logsumexp(0)) + math.log(7 / 2000)


def main():
    noise = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = A @ PRIOR.sample(1)[0] + 0.5 * noise
    sigma, mass, log_evidence = exact(y)
    cells = sigma[torch.searchsorted(mass.cumsum(0), torch.linspace(0, 1, 11)[1:-1].double())]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), sharey=True)
    for axis, (name, (nuisance, *sizes)) in zip(axes, METHODS.items(), strict=True):
        pyro.set_rng_seed(0)
        N, chains, steps = sizes
        smc = SMC(program, num_particles=N, num_chains=chains, num_steps=steps, nuisance=nuisance)
        smc.run(y)
        draws, W = smc.outcome.latents["sigma"].flatten(), smc.get_normalized_weights()
        share = torch.zeros(10, dtype=W.dtype).index_add(0, torch.bucketize(draws, cells), W)
        distance = float((share - 0.1).abs().sum() / 2)  # ten cells of equal mass
        print(f"{name:10s} total variation {distance:.3f}, mean {float((W * draws).sum()):.3f}")
        if name == "Particles":
            found = float(smc.get_log_normalizer())
            print(f"{'':10s} log evidence {found:.3f}, exact {log_evidence:.3f}")
            assert abs(found - log_evidence) < 0.15
        assert distance < (0.05 if name == "Particles" else 0.3)  # chains are short
        edges = torch.linspace(0, 2, 31)
        axis.hist(draws.numpy(), bins=edges.numpy(), weights=W.numpy(), density=True, color="0.7")
        axis.plot(sigma, mass / torch.gradient(sigma)[0], "k")
        axis.set(title=name, xlim=(0, 2), xlabel="sigma")
    figure.savefig("unknown_noise.png", dpi=150, bbox_inches="tight")
    print(f"{'exact':10s} mean {float((mass * sigma).sum()):.3f}")


if __name__ == "__main__":
    main()
