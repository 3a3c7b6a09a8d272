"""Source separation: y = digit + background + noise, both sources with diffusion priors of their own.

The digit has a trained network as prior, the background an analytic one: a Gaussian field with long
correlations. The two sites are sampled together, as one joint prior.

    python examples/source_separation.py          # about half a minute; writes source_separation.png
"""

import pyro
import pyro.distributions as dist
import torch
from pictures import rows

import smcguide as sg
from smcguide.bridges.pyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

NOISE = 0.1
PIXELS = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
COVARIANCE = torch.exp(-torch.cdist(PIXELS, PIXELS).square() / (2 * 4.0**2)) + 1e-6 * torch.eye(64)
DIGITS = sg.priors.load("digits")
FIELDS = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 8, 8), covariances=COVARIANCE)


def program(y):
    digit = pyro.sample("digit", DiffusionPrior(DIGITS).mask(False))
    field = pyro.sample("field", DiffusionPrior(FIELDS))
    pyro.sample("y", dist.Normal(digit + field, NOISE).to_event(3), obs=y)


def main():
    digit = digits()[0][1]
    field = FIELDS.sample(1, torch.Generator().manual_seed(5))[0]
    pyro.set_rng_seed(0)
    y = digit + field + NOISE * torch.randn_like(digit)

    smc = SMC(program, num_particles=256, num_chains=2, num_steps=50)
    smc.run(y)
    samples = smc.get_samples(200)
    print(smc.summary())

    mean = {name: a.mean(0) for name, a in samples.items()}
    std = {name: a.std(0).mean() for name, a in samples.items()}
    rows("source_separation.png", {
        "digit": [("truth", digit), ("data", y), ("mean", mean["digit"]),
                  *(("draw", x) for x in samples["digit"][:4])],
        "field": [("truth", field), ("", y), ("mean", mean["field"]),
                  *(("draw", x) for x in samples["field"][:4])],
    })  # fmt: skip
    error = {
        "digit": (mean["digit"] - digit).square().mean().sqrt(),
        "field": (mean["field"] - field).square().mean().sqrt(),
    }
    for name, e in error.items():
        print(f"{name}: error {e:.2f}, posterior s.d. {std[name]:.2f}")
    assert error["digit"] < 0.5 * (y - digit).square().mean().sqrt()
    assert error["field"] < 0.5 * field.square().mean().sqrt()


if __name__ == "__main__":
    main()
