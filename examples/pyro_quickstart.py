"""A Pyro program with a diffusion prior on one latent: the lower half of a digit, given the upper one.

The program is ordinary Pyro; `SMC` finds the prior, runs, and answers like Pyro's own inference. Draws go
into `Predictive` unchanged, results into ArviZ.

    python examples/pyro_quickstart.py          # about half a minute; writes pyro_quickstart.png
"""

import pyro
import pyro.distributions as dist
import torch
from pictures import rows
from pyro.infer import Predictive

import smcguide as sg
from smcguide.bridges.pyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

prior = sg.priors.load("digits")


def program(upper=None):
    x = pyro.sample("x", DiffusionPrior(prior).mask(False))
    sigma = pyro.sample("sigma", dist.LogNormal(-2.0, 1.0))
    pyro.sample("y", dist.Normal(x[:, :4], sigma).to_event(3), obs=upper)


def main():
    truth = digits()[0][2]  # no part of the prior's training
    pyro.set_rng_seed(0)
    upper = truth[:, :4] + 0.1 * torch.randn(1, 4, 8)

    smc = SMC(program, num_particles=256, num_steps=50)
    smc.run(upper)
    print(smc.summary())

    samples = smc.get_samples(200)  # {"x": (200, 1, 8, 8), "sigma": (200,)}
    again = Predictive(program, posterior_samples=samples)()["y"]  # new measurements
    print(f"log evidence {float(smc.get_log_normalizer()):.1f}, ESS {float(smc.get_ESS()):.0f}")
    print("ArviZ groups:", ", ".join(smc.to_arviz().groups()))

    shown = torch.full_like(truth, -1.0)
    shown[:, :4] = upper
    line = [("truth", truth), ("data", shown), ("mean", samples["x"].mean(0))]
    rows("pyro_quickstart.png", {"": line + [("draw", x) for x in samples["x"][:5]]})

    guess = sg.rehearse(prior).x0.mean(0)  # the mean digit
    hidden = slice(4, None)
    error = (samples["x"].mean(0) - truth)[:, hidden].square().mean().sqrt()
    blind = (guess - truth)[:, hidden].square().mean().sqrt()
    print(f"hidden half: error {error:.2f}, without data {blind:.2f}")
    assert error < 0.8 * blind
    assert 0.05 < samples["sigma"].mean() < 0.2
    assert ((again.mean(0) - upper).abs() < 0.3).float().mean() > 0.9


if __name__ == "__main__":
    main()
