"""Several images share one unknown: three digits seen through the same attenuating, noisy instrument.

The gain and the noise level are inferred together with the three digits, in one plate. What three
pictures say about the instrument together is compared with what one of them says alone.

    python examples/hierarchical.py          # about a minute; writes hierarchical.png
"""

import pyro
import pyro.distributions as dist
import torch
from pictures import rows

import smcguide as sg
from smcguide.bridges.pyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

PRIOR = sg.priors.load("digits")
GAIN, NOISE = 0.6, 0.15


def program(pictures):
    gain = pyro.sample("gain", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-1.5, 0.7))
    with pyro.plate("images", len(pictures)):
        x = pyro.sample("x", DiffusionPrior(PRIOR).mask(False))
        seen = gain * (x[..., ::2] + 1)  # every second column, brightness from zero
        pyro.sample("pictures", dist.Normal(seen, noise).to_event(3), obs=pictures)


def main():
    truth = digits()[0][:3]
    pyro.set_rng_seed(0)
    pictures = GAIN * (truth[..., ::2] + 1) + NOISE * torch.randn(3, 1, 8, 4)

    spread = {}
    for num in (1, 3):
        smc = SMC(program, num_particles=256, num_steps=30)
        smc.run(pictures[:num])
        print(smc.summary().split("\n\n")[0])
        samples = smc.get_samples(200)
        spread[num] = float(samples["gain"].std())
        print(f"{num} pictures: gain {samples['gain'].mean():.2f} +- {spread[num]:.2f}\n")

    shown = pictures.repeat_interleave(2, -1) - 1
    rows("hierarchical.png", {
        "": [(title, image) for i in range(3) for title, image in
             [("truth", truth[i]), ("data", shown[i]), ("mean", samples["x"][:, i].mean(0))]],
    })  # fmt: skip
    assert abs(samples["gain"].mean() - GAIN) < 4 * spread[3]
    assert abs(samples["noise"].mean() - NOISE) < 0.05
    assert spread[3] < spread[1]


if __name__ == "__main__":
    main()
