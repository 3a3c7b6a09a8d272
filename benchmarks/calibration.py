r"""Simulation-based calibration of a program's unknown parameters.

Where theta*, x* come from the prior and y from the program, theta* and draws of the posterior
p(theta | y) have one law, so the rank of theta* among L = 99 independent draws is uniform on 0, ..., 99
(Talts et al., arXiv 1804.06788). So is the rank of any other quantity, also of one that depends on the
data: the log-likelihood sees a sampler that has not looked at them, whose theta has the prior's law and
so uniform ranks (Modrak et al., arXiv 2211.02383).

x* is drawn from the mixture itself and not by the sampler's chain: what the chain's finite steps
change counts as an error. Each chi-square test has its share of a false-alarm rate of 1e-3 for the
whole command.

    python benchmarks/calibration.py [--method particles] [--datasets 200] [--out calibration.png]
    python benchmarks/calibration.py --broken            # weights ignored; has to fail
    python benchmarks/calibration.py --broken jacobian   # a Jacobian forgotten; has to fail
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor
from tqdm import trange

import smcguide as sg
from smcguide.bridges.pyro import PMMH, SMC, DiffusionPrior, Gibbs, Particles
from smcguide.diagnostics.calibration import Ranks, ranks_among

F64 = torch.float64
DRAWS, BINS, FALSE_ALARM_RATE = 99, 10, 1e-3
MEANS = torch.tensor([[1.5, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 1.0]], dtype=F64)
PRIOR = sg.priors.GaussianMixture(torch.tensor([0.6, 0.4]), MEANS, scale=0.6)
A = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
LATENTS = {
    "sigma": dist.LogNormal(torch.tensor(-0.7, dtype=F64), 0.8),
    "gain": dist.LogNormal(torch.tensor(0.0, dtype=F64), 0.3),
}
METHODS = {  # data sets, particles, chains, steps
    "particles": (Particles(), 200, 1000, 1, 50),
    "pmmh": (PMMH(num_samples=300, burn_in=20), 40, 32, 1, 30),
    "gibbs": (Gibbs(num_samples=60, burn_in=10), 40, 8, 8, 30),
}


def program(y: Tensor | None = None, forget_jacobian: bool = False) -> Tensor:
    """y = gain A x + sigma n."""
    x = pyro.sample("x", DiffusionPrior(PRIOR))
    sigma, gain = (pyro.sample(name, law) for name, law in LATENTS.items())
    if forget_jacobian:  # of sigma = exp(theta)
        pyro.factor("jacobian", -torch.log(sigma))
    return pyro.sample("y", dist.Normal(gain * (A @ x), sigma).to_event(1), obs=y)


def quantities(values: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
    """What is ranked, (n,) each, for latents (n, *shape)."""
    x, sigma, gain = values["x"], values["sigma"], values["gain"]
    law = torch.distributions.Normal(gain[:, None] * (x @ A.T), sigma[:, None])
    return {"sigma": sigma, "gain": gain, "x[0]": x[:, 0], "log p(y)": law.log_prob(y).sum(1)}


def ranks(args: argparse.Namespace, seed: int) -> Ranks:
    """Of the truth among draws, for one simulated data set."""
    pyro.set_rng_seed(seed)
    x = PRIOR.sample(1, torch.default_generator)[0]
    trace = pyro.poutine.trace(pyro.condition(program, {"x": x})).get_trace()
    truth = {name: trace.nodes[name]["value"][None] for name in ("x", *LATENTS)}
    y = trace.nodes["y"]["value"]
    nuisance, _, num_particles, num_chains, num_steps = METHODS[args.method]
    smc = SMC(
        partial(program, forget_jacobian=args.broken == "jacobian"),
        num_particles=args.particles or num_particles, num_steps=args.steps or num_steps,
        num_chains=num_chains, nuisance=nuisance, progress=False,
        trigger=sg.triggers.never() if args.broken == "weights" else None,
    )  # fmt: skip
    smc.run(y)
    draws = smc.get_samples(DRAWS)
    if args.broken == "weights":
        anyone = torch.randperm(smc.result.log_w.numel())[:DRAWS]
        draws = {name: a.flatten(0, 1)[anyone] for name, a in smc.outcome.latents.items()}
    found = {name: a[None] for name, a in quantities(draws, y).items()}
    return ranks_among(quantities(truth, y), found, seed)


def picture(counts: dict[str, Tensor], path: Path) -> None:
    """Histograms of ranks, with the range of each bar in 99 of 100 calibrated cases."""
    figure, axes = plt.subplots(1, len(counts), figsize=(2.6 * len(counts), 2.3), sharey=True)
    for axis, (name, count) in zip(axes, counts.items(), strict=True):
        low, high = stats.binom.interval(0.99, int(count.sum()), 1 / BINS)
        axis.axhspan(low, high, color="0.9")
        axis.bar(range(BINS), count.numpy(), 0.9, color="tab:blue")
        axis.set(title=name, xticks=[], xlabel="rank of the truth")
    axes[0].set_ylabel("data sets")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Simulate, infer, rank, test; exit status 1 for ranks that are not uniform."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="particles")
    parser.add_argument("--datasets", type=int, help="default 200, and 40 for pmmh and gibbs")
    parser.add_argument("--particles", type=int, help="default 1000; 32 for pmmh, 8 for gibbs")
    parser.add_argument("--steps", type=int, help="default 50; 30 for pmmh and gibbs")
    parser.add_argument("--broken", nargs="?", const="weights", choices=["weights", "jacobian"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("calibration.png"))
    args = parser.parse_args()
    if args.broken == "weights" and args.method != "particles":
        parser.error("--broken weights: draws of Markov chains have none; use --broken jacobian.")
    torch.set_num_threads(1)
    num = args.datasets or METHODS[args.method][1]
    seeds = torch.Generator().manual_seed(args.seed)
    found = Ranks.concatenate(
        [
            ranks(args, int(torch.randint(2**31, (), generator=seeds)))
            for _ in trange(num, unit="data set", disable=None)
        ]
    )
    counts = dict(zip(found.names, found.histogram(BINS), strict=True))
    failed = []
    print(f"{num} data sets, ranks among {DRAWS} draws in {BINS} bins\n{'':10s}{'p-value':>9s}")
    for name, count in counts.items():
        p = float(stats.chisquare(count.numpy()).pvalue)
        height = (count * 7 / count.max()).round().int().tolist()
        bars = "".join("▁▂▃▄▅▆▇█"[h] for h in height)
        print(f"{name:10s}{p:9.2g}  {bars}  " + " ".join(f"{c:3d}" for c in count.tolist()))
        if p < FALSE_ALARM_RATE / len(counts):
            failed.append(name)
    picture(counts, args.out)
    if failed:
        raise SystemExit(f"Not calibrated: {', '.join(failed)}.")
    print(f"calibrated, at a false-alarm rate of {FALSE_ALARM_RATE:g}")


if __name__ == "__main__":
    main()
