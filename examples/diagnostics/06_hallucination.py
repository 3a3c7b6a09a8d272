"""Samples that a network invents: its predictions will not settle where it bridges two modes.

A small network learns three narrow modes on a line. It is smooth, so it fills the gaps between them with
a few samples that no data had. The variance of the predicted x_0 over the last steps is large for just
these.

    python examples/diagnostics/06_hallucination.py          # some seconds; writes 06_hallucination.png
"""

import torch
from matplotlib.figure import Figure
from torch import nn

import smcguide as sg

MODES, STD = torch.tensor([[-1.0], [0.0], [1.0]]), 0.05
SCALE = (2 / 3 + STD**2) ** 0.5  # of the data


def trained(steps=1200, batch=256):
    """A denoiser with the preconditioning of EDM."""
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=g)
        nn.init.normal_(layer.bias, std=0.5, generator=g)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        x0 = MODES[torch.randint(3, (batch,), generator=g)]
        x0 = x0 + STD * torch.randn(batch, 1, generator=g)
        lam = torch.exp(-1.2 + 1.3 * torch.randn(batch, 1, generator=g))
        x = x0 + lam * torch.randn(batch, 1, generator=g)
        norm = (lam**2 + SCALE**2).sqrt()
        out = net(torch.cat([2 * x / norm, lam.log() / 2], 1))
        loss = (out - (x0 - (SCALE / norm) ** 2 * x) * norm / (lam * SCALE)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return net.requires_grad_(False)


def main():
    net = trained()
    prior = sg.priors.NetworkPrior(
        lambda x, t: net(torch.cat([2 * x, 2 * t[:, None]], 1)),
        sg.schedules.VP(), "edm", (1,), sigma_data=SCALE,
    )  # fmt: skip
    post = sg.sample(
        prior, lambda x: 0.3 * x[:, 0].square(), num_particles=4000, kernel=sg.kernels.DDIM(1.0),
        potential=sg.potentials.Tweedie(), proposal=sg.proposals.Bootstrap(),
        record=("x0_hat", "ancestors"), progress=False,
    )  # fmt: skip
    h, x = sg.diagnostics.hallucination(post), post.particles[:, 0]
    between = (post.particles - MODES[:, 0]).abs().min(1).values > 6 * STD
    area = float((h[between][:, None] > h[~between]).double().mean())  # under the ROC curve
    kept = h < h.quantile(0.95)
    left = int((between & kept).sum())
    print(
        f"{int(between.sum())} of {len(h)} samples lie between modes; area under the curve {area:.2f}"
    )
    print(f"without the most restless twentieth {left} of them are left")

    ax = (figure := Figure(figsize=(6, 3.2), layout="constrained")).subplots()
    for group, colour, name in ((~between, "0.6", "in a mode"), (between, "#D55E00", "between")):
        ax.scatter(x[group], h[group], s=4, color=colour, label=name, rasterized=True)
    ax.set(yscale="log", xlabel="sample", ylabel="variance of predicted x_0, last steps")
    ax.legend(frameon=False)
    figure.savefig("06_hallucination.png", dpi=150)
    assert area > 0.85
    assert left < 0.5 * int(between.sum())


if __name__ == "__main__":
    main()
