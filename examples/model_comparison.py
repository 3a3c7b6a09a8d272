"""Which instrument took the picture? Model comparison by evidence between two forward models.

One camera averages 2 x 2 pixels, the other keeps every second one. Both give 4 x 4 numbers. With equal
odds beforehand, the difference of the log evidences is the log odds afterwards. Pictures by either are
attributed rightly.

    python examples/model_comparison.py          # about a minute
"""

import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import avg_pool2d

import smcguide as sg
from smcguide.bridges.pyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

PRIOR, NOISE = sg.priors.load("digits"), 0.2


def averaged(x):
    return avg_pool2d(x, 2)


def thinned(x):
    return x[..., ::2, ::2]


def program(camera, picture):
    x = pyro.sample("x", DiffusionPrior(PRIOR).mask(False))
    pyro.sample("picture", dist.Normal(camera(x), NOISE).to_event(3), obs=picture)


def main():
    truth = digits()[0][0]
    cameras = {"averaged": averaged, "thinned": thinned}
    for taken_by, camera in cameras.items():
        pyro.set_rng_seed(0)
        picture = camera(truth) + NOISE * torch.randn(1, 4, 4)
        log_z = {}
        for name, suspect in cameras.items():
            smc = SMC(program, num_particles=128, num_chains=2, num_steps=50)
            smc.run(suspect, picture)
            log_z[name] = float(smc.get_log_normalizer())
            se = float(smc.result.log_z.std() / 2**0.5)
            print(f"taken by {taken_by:9s} log p(picture | {name}) = {log_z[name]:.2f} +- {se:.2f}")
        other = next(name for name in cameras if name != taken_by)
        odds = log_z[taken_by] - log_z[other]
        print(f"log odds for the right camera: {odds:.1f}")
        assert odds > 3


if __name__ == "__main__":
    main()
