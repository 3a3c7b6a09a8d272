"""How well `diagnostics.hallucination` finds samples that a network invents between modes.

Networks of two hidden layers learn narrow modes at distance 1, three on a line or nine in the plane.
Unguided ancestral draws more than six standard deviations from every mode are inventions. Area under the
ROC curve of the late variance of predictions, for several late shares of the steps; range over three
trainings and two kernels (DDIM, eta = 1, and MatchedDDPM); steps are karras(100).

    python benchmarks/hallucination.py [--fast] [--draws 4000]
"""

import argparse

import torch
from torch import nn
from tqdm import tqdm

import smcguide as sg

STD, SHARES = 0.05, (0.1, 0.15, 0.2, 0.25, 0.5)
LINE = torch.tensor([[-1.0], [0.0], [1.0]])
TOYS = {"line": (LINE, 64, 1500), "plane": (torch.cartesian_prod(*[LINE[:, 0]] * 2), 128, 3000)}


def trained(modes, width, steps, seed, batch=512):
    """A prior with the preconditioning of EDM."""
    g, d = torch.Generator().manual_seed(seed), modes.shape[1]
    net = nn.Sequential(
        nn.Linear(d + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, d)
    )
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=g)
        nn.init.normal_(layer.bias, std=0.5, generator=g)
    sd = float(2 / 3 + STD**2) ** 0.5
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        x0 = modes[torch.randint(len(modes), (batch,), generator=g)]
        x0 = x0 + STD * torch.randn(batch, d, generator=g)
        lam = torch.exp(-1.2 + 1.3 * torch.randn(batch, 1, generator=g))
        x = x0 + lam * torch.randn(batch, d, generator=g)
        norm = (lam**2 + sd**2).sqrt()
        out = net(torch.cat([2 * x / norm, lam.log() / 2], 1))
        loss = (out - (x0 - (sd / norm) ** 2 * x) * norm / (lam * sd)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    net.requires_grad_(False)
    return sg.priors.NetworkPrior(
        lambda x, t: net(torch.cat([2 * x, 2 * t[:, None]], 1)),
        sg.schedules.VP(), "edm", (d,), sigma_data=sd,
    )  # fmt: skip


def areas(prior, modes, kernel, num_draws, seed):
    """Share of inventions, and the area for each share of the steps."""
    post = sg.sample(
        prior, lambda x: 0 * x[:, 0], num_particles=num_draws, kernel=kernel, seed=seed,
        potential=sg.potentials.Terminal(), proposal=sg.proposals.Bootstrap(),
        record=("x0_hat", "ancestors"), progress=False,
    )  # fmt: skip
    invented = torch.cdist(post.particles, modes).min(1).values > 6 * STD
    found = []
    for share in SHARES:
        h = sg.diagnostics.hallucination(post, last=share)
        found.append(float((h[invented][:, None] > h[~invented]).double().mean()))
    return float(invented.double().mean()), found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--fast", action="store_true", help="a smoke run: the line, hardly trained")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| modes | invented | " + " | ".join(f"last {share}" for share in SHARES) + " |")
    print("|---" * (2 + len(SHARES)) + "|")
    toys = {"line": (LINE, 64, 150)} if args.fast else TOYS
    for name, (modes, width, steps) in toys.items():
        rates, rows = [], []
        for seed in tqdm(range(1 if args.fast else 3), desc=name, disable=None):
            prior = trained(modes, width, steps, seed)
            for kernel in (sg.kernels.DDIM(1.0), sg.kernels.MatchedDDPM()):
                rate, row = areas(prior, modes, kernel, args.draws, seed)
                rates.append(rate)
                rows.append(row)
        table = torch.tensor(rows)
        ranges = zip(table.amin(0), table.amax(0), strict=True)
        cells = " | ".join(f"{low:.2f} to {high:.2f}" for low, high in ranges)
        print(f"| {name} | {min(rates):.1%} to {max(rates):.1%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
