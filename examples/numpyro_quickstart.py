"""A NumPyro program with a diffusion prior: a digit from a handful of photons, exposure unknown.

The detector counts, so the likelihood is Poisson; the program is ordinary NumPyro and runs in JAX, the
prior is a torch network. `SMC` has the names of NumPyro's `NestedSampler`.

    python examples/numpyro_quickstart.py          # about half a minute; writes numpyro_quickstart.png
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import Predictive
from pictures import rows

import smcguide as sg
from smcguide.bridges.numpyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

prior = sg.priors.load("digits")
EXPOSURE = 3.0  # photons in a white pixel


def program(counts=None):
    x = numpyro.sample("x", DiffusionPrior(prior).mask(False))
    exposure = numpyro.sample("exposure", dist.LogNormal(1.0, 1.0))
    light = jnp.clip((x + 1) / 2, 0.01)  # and a little stray light
    numpyro.sample("counts", dist.Poisson(exposure * light).to_event(3), obs=counts)


def main():
    truth = digits()[0][0].numpy()
    light = np.clip((truth + 1) / 2, 0.01, None)
    counts = jnp.asarray(np.random.default_rng(0).poisson(EXPOSURE * light))

    smc = SMC(program, num_particles=256, num_steps=50)
    smc.run(random.key(0), counts)
    smc.print_summary()

    samples = smc.get_samples(random.key(1), 200)  # {"x": (200, 1, 8, 8), "exposure": (200,)}
    again = Predictive(program, posterior_samples=samples)(random.key(2))["counts"]
    print(f"log evidence {float(smc.get_log_normalizer()):.1f}, ESS {float(smc.get_ESS()):.0f}")

    mean, photons = samples["x"].mean(0), counts / EXPOSURE * 2 - 1
    line = [("truth", truth), ("photons", photons), ("mean", mean)]
    rows("numpyro_quickstart.png", {"": line + [("draw", x) for x in samples["x"][:5]]})

    error, raw = (float(jnp.sqrt(((a - truth) ** 2).mean())) for a in (mean, photons))
    exposure = samples["exposure"]
    print(f"error {error:.2f}, of the photons alone {raw:.2f}")
    print(f"exposure {exposure.mean():.2f} +- {exposure.std():.2f}, true {EXPOSURE}")
    assert error < 0.6 * raw
    assert abs(exposure.mean() - EXPOSURE) < 4 * exposure.std()
    assert abs(float(again.sum((1, 2, 3)).mean() / counts.sum()) - 1) < 0.2


if __name__ == "__main__":
    main()
