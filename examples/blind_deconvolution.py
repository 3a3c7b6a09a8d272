"""Blind deconvolution: a digit and the kernel that blurred it, both unknown, from one noisy picture.

The kernel is 3 x 3, non-negative, and sums to one (a uniform Dirichlet prior). Image and kernel are not
identified by the data alone: a kernel moved to one side and an image moved to the other give the same
picture. Only the prior of digits decides, and what it leaves open shows in the posterior as a
correlation between the kernel's centre of mass and the image's, of opposite sign.

    python examples/blind_deconvolution.py          # about a minute; writes blind_deconvolution.png
"""

import pyro
import pyro.distributions as dist
import torch
from pictures import rows
from torch.nn.functional import conv2d

import smcguide as sg
from smcguide.bridges.pyro import SMC, DiffusionPrior
from smcguide.cli.demo import digits

PRIOR, NOISE = sg.priors.load("digits"), 0.1
KERNEL = torch.tensor([[0.02, 0.06, 0.20], [0.06, 0.30, 0.20], [0.02, 0.06, 0.08]])


def blur(x, kernel):
    weights = kernel.reshape(3, 3).flip(0, 1)[None, None]  # conv2d correlates
    return conv2d(x[None] + 1, weights, padding=1)[0] - 1  # -1 is black


def program(picture):
    kernel = pyro.sample("kernel", dist.Dirichlet(torch.ones(9)))
    x = pyro.sample("x", DiffusionPrior(PRIOR).mask(False))
    pyro.sample("picture", dist.Normal(blur(x, kernel), NOISE).to_event(3), obs=picture)


def centre(mass):
    """Centre of mass (n, 2) of non-negative images (n, h, w), in pixels from the middle."""
    h, w = mass.shape[1:]
    total = mass.sum((1, 2))
    down = (mass.sum(2) * (torch.arange(h) - (h - 1) / 2)).sum(1) / total
    right = (mass.sum(1) * (torch.arange(w) - (w - 1) / 2)).sum(1) / total
    return torch.stack([down, right], 1)


def main():
    truth = digits()[0][3]
    pyro.set_rng_seed(1)
    picture = blur(truth, KERNEL) + NOISE * torch.randn_like(truth)

    smc = SMC(program, num_particles=256, num_chains=2, num_steps=40)
    smc.run(picture)
    samples = smc.get_samples(400)
    x, kernel = samples["x"], samples["kernel"].reshape(-1, 3, 3)
    print(smc.summary())

    line = [("truth", truth), ("data", picture), ("mean", x.mean(0))]
    line += [("draw", draw) for draw in x[:4]]
    scale = 2 / float(kernel.max())
    kernels = [("kernel", KERNEL), ("", torch.zeros(3, 3)), ("mean", kernel.mean(0))]
    kernels = [(title, k * scale - 1) for title, k in kernels + [("draw", k) for k in kernel[:4]]]
    rows("blind_deconvolution.png", {"image": line, "kernel": kernels})

    error = (x.mean(0) - truth).square().mean().sqrt()
    blurred = (picture - truth).square().mean().sqrt()
    print(f"image: error {error:.2f}, of the picture itself {blurred:.2f}")
    far = (kernel.mean(0) - KERNEL).abs().sum() / 2
    uniform = (KERNEL - 1 / 9).abs().sum() / 2
    print(f"kernel: total variation {far:.2f}, of the uniform kernel {uniform:.2f}")
    shifts = torch.cat([centre(kernel), centre(x[:, 0] + 1)], 1)
    correlation = torch.corrcoef(shifts.T)
    print(f"kernel against image, up-down {correlation[0, 2]:.2f}, left-right {correlation[1, 3]:.2f}")
    assert error < 0.6 * blurred
    assert far < 0.7 * uniform
    assert max(correlation[0, 2], correlation[1, 3]) < -0.4


if __name__ == "__main__":
    main()
