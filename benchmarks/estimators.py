"""What estimators beyond the weighted mean are worth: variance over repeats against the plain answer.

    stein      control variates against the weighted mean, at equal particles
    adaptive   adaptive importance sampling with control variates against plain draws, at equal budget
    thermo     log Z by thermodynamic integration with control variates that temperatures share, against
               plain integration, at equal particles
    rare       guided runs against counting hits among draws of the chain, at equal network evaluations

Ratios below 1 are gains. "claimed" is the ratio a single run reports, averaged.

    python benchmarks/estimators.py [--repeats 60]
"""

import argparse
import math
import time

import torch
from torch import Tensor

import smcguide as sg
from smcguide.diagnostics.estimators import (
    Exceedance,
    Thermodynamic,
    control_variates,
    expectations,
    rare_event,
    scores,
    thermodynamic_log_z,
)
from smcguide.diagnostics.estimators.thermodynamic import corrected_trapezium
from smcguide.testing.oracles import gaussian_chain

F64 = torch.float64


def show(name: str, measured: Tensor, claimed: Tensor, z: Tensor, start: float) -> None:
    """One row: ratios and the largest deviation from the truth in standard errors."""
    text = "  ".join(
        f"{float(m):.4f} ({float(c):.4f})" for m, c in zip(measured, claimed, strict=True)
    )
    worst = float(z.abs().max())
    print(
        f"{name:34s} {text}   |z| <= {worst:.1f}   {time.perf_counter() - start:.0f} s", flush=True
    )


def mixtures() -> tuple[tuple[str, sg.priors.GaussianMixture, int], ...]:
    """Priors of three components: name, prior, dimension."""
    plane = sg.priors.GaussianMixture(
        torch.ones(3), torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.5]], dtype=F64), scale=0.6
    )
    g = torch.Generator().manual_seed(1)
    ten = sg.priors.GaussianMixture(
        torch.ones(3), 0.8 * torch.randn(3, 10, generator=g, dtype=F64), scale=0.7
    )
    return ("3 Gaussians in the plane", plane, 2), ("3 Gaussians, 10 dim.", ten, 10)


def stein(repeats: int) -> None:
    """Means, a product and an exponential of guided runs on two problems."""

    def f(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1], x[:, 0] * x[:, 1], torch.exp(x[:, 0] / 2)], 1)

    print("stein: x_1, x_2, x_1 x_2, exp(x_1 / 2); measured (claimed)")
    for name, prior, d in mixtures():
        A = torch.full((1, d), d**-0.5, dtype=F64)
        y = torch.tensor([0.4], dtype=F64)
        cost = sg.costs.LinearGaussian(A, y, 0.5)
        exact = f(prior.posterior(A, y, 0.5).sample(1_000_000))
        truth, truth_se = exact.mean(0), exact.std(0) / 1000
        for num in (100, 400):
            start = time.perf_counter()
            post = sg.sample(
                prior, cost, num_particles=num, num_systems=repeats, num_steps=100, progress=False
            )
            slope = scores(post, lambda x, p=prior, c=cost: p.log_prob(x) - c(x[None])[0])
            found = control_variates(post, f, slope)
            measured = found.estimates.var(0) / found.plain.var(0)
            se = (found.estimates.var(0) / repeats + truth_se.square()).sqrt()
            z = (found.estimates.mean(0) - truth) / se
            show(f"  {name}, N = {num}", measured, found.variance_ratio.mean(0), z, start)


def thermo(repeats: int) -> None:
    """Six temperatures of the two mixtures, and of a Gaussian with five measurements."""
    g = torch.Generator().manual_seed(2)
    normal = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 10, dtype=F64), scale=1.0)
    A, y = torch.randn(5, 10, generator=g, dtype=F64) / 2, torch.randn(5, generator=g, dtype=F64)
    problems = [
        (name, prior, torch.full((1, d), d**-0.5, dtype=F64), torch.tensor([0.4], dtype=F64))
        for name, prior, d in mixtures()
    ]
    problems += [("Gaussian, 10 dim., 5 measured", normal, A, y)]
    print("thermo: shared by temperatures, then each temperature by itself; measured (claimed)")
    for name, prior, A, y in problems:
        for num in (20, 60):
            start = time.perf_counter()
            found, alone = integrated(prior, sg.costs.LinearGaussian(A, y, 0.5), num, repeats)
            measured = torch.stack([found.log_z.var(), alone.var()]) / found.plain.var()
            claimed = torch.stack([found.variance_ratio.mean(), torch.tensor(torch.nan)])
            truth = prior.log_evidence(A, y, 0.5)
            error = (found.log_z.var() / repeats).sqrt() + found.quadrature_error.mean()
            z = (found.log_z.mean() - truth) / error
            show(f"  {name}, N = {num}", measured, claimed, z, start)


def integrated(
    prior: sg.priors.GaussianMixture, likelihood: sg.costs.LinearGaussian, num: int, repeats: int
) -> tuple[Thermodynamic, Tensor]:
    """log Z, and (S,) log Z with each temperature fitted by itself."""
    steps = [(i / 5) ** 4 for i in range(6)]

    def cost(x: Tensor) -> Tensor:
        return likelihood(x[None])[0]

    runs = [
        sg.sample(
            prior, lambda x, t=t: t * cost(x), num_particles=num, num_systems=repeats, num_steps=100,
            seed=i, progress=False,
        )
        for i, t in enumerate(steps)
    ]  # fmt: skip
    slopes = [
        scores(run, lambda x, t=t: prior.log_prob(x) - t * cost(x))
        for run, t in zip(runs, steps, strict=True)
    ]
    moments = []
    for run, slope in zip(runs, slopes, strict=True):
        m = float(run.expect(cost).mean())
        own = control_variates(
            run, lambda x, m=m: torch.stack([cost(x), (cost(x) - m) ** 2], 1), slope
        ).estimates
        moments.append(torch.stack([own[:, 0], own[:, 1] - (own[:, 0] - m) ** 2]))
    alone = corrected_trapezium(torch.tensor(steps, dtype=F64), *torch.stack(moments, 2))
    return thermodynamic_log_z(runs, steps, cost, slopes), alone


def normal_draw(num: int, generator: torch.Generator) -> Tensor:
    return torch.randn(num, 2, generator=generator, dtype=F64)


def normal_log_p(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2 - math.log(2 * math.pi)


def peaked(x: Tensor) -> Tensor:
    a, b = x.T
    return torch.stack([(a > 2.5).double(), torch.exp(2 * a), (b > 2) * b, (a + b > 3).double()], 1)


def tail(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


def uniform_draw(num: int, generator: torch.Generator) -> Tensor:
    return math.pi * (2 * torch.rand(num, 6, generator=generator, dtype=F64) - 1)


def uniform_log_p(x: Tensor) -> Tensor:
    return torch.where((x.abs() <= math.pi).all(1), -6 * math.log(2 * math.pi), -torch.inf)


def ishigami(x: Tensor) -> Tensor:
    return (
        torch.sin(x[:, 0]) + 7 * torch.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * torch.sin(x[:, 0])
    )


def pick_freeze(z: Tensor) -> Tensor:
    x, y = z[:, :3], z[:, 3:]
    own = ishigami(x) - 3
    shared = [ishigami(torch.where(torch.arange(3) == i, x, y)) - 3 for i in range(3)]
    return torch.stack([own, own**2, *(own * other for other in shared)], 1)


def powers(z: Tensor) -> Tensor:
    u = z / math.pi
    return torch.cat([u, u**3, u**2 - 1 / 3, u**4 - 1 / 5], 1)


def adaptive(repeats: int) -> None:
    """Peaked functions of a Gaussian; the integrals behind the Sobol indices of the Ishigami function."""
    one, two = (1 + 0.1 * math.pi**4 / 5) ** 2 / 2, 49 / 8
    V = one + two + 0.01 * math.pi**8 * (1 / 18 - 1 / 50)
    sobol = [0.5, V + 0.25, one + 0.25, two + 0.25, 0.25]
    b = math.exp(-2) / math.sqrt(2 * math.pi)
    peaks = [tail(2.5), math.exp(2), b, tail(3 / 2**0.5)]
    spread = [tail(2.5) * tail(-2.5), math.exp(8) - math.exp(4), 2 * b + tail(2) - b**2]
    spread += [tail(3 / 2**0.5) * tail(-3 / 2**0.5)]
    g = torch.Generator().manual_seed(0)
    of_sobol = pick_freeze(uniform_draw(400_000, g)).var(0)
    print("adaptive: measured (claimed), one pair per integrand")
    for name, f, law, truth, one_draw, controls in (
        ("peaked", peaked, (normal_draw, normal_log_p), peaks, torch.tensor(spread), None),
        ("Ishigami", pick_freeze, (uniform_draw, uniform_log_p), sobol, of_sobol, None),
        ("Ishigami, powers", pick_freeze, (uniform_draw, uniform_log_p), sobol, of_sobol, powers),
    ):
        for budget in (1000, 4000):
            start = time.perf_counter()
            found = [
                expectations(f, *law, budget, controls=controls, seed=s) for s in range(repeats)
            ]
            E = torch.stack([x.estimates for x in found])
            claimed = torch.stack([x.variance_ratio for x in found]).mean(0)
            z = (E.mean(0) - torch.tensor(truth, dtype=F64)) / (E.std(0) / repeats**0.5)
            show(f"  {name}, {budget} draws", E.var(0) * budget / one_draw, claimed, z, start)
            if f is pick_freeze:
                index = (E[:, 2:] - E[:, :1] ** 2) / (E[:, 1:2] - E[:, :1] ** 2)
                text = ", ".join(f"{float(a):.3f} ± {float(s):.3f}"
                                 for a, s in zip(index.mean(0), index.std(0), strict=True))  # fmt: skip
                print(f"      Sobol indices {text}; exact {one / V:.3f}, {two / V:.3f}, 0")


def rare(repeats: int) -> None:
    """Tails of a Gaussian, with the plain and with the matched kernel."""
    normal = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
    a = torch.tensor([0.6, 0.8], dtype=F64)
    times = sg.grids.karras(100)
    levels = [normal.schedule.level(float(t)) for t in times(normal.schedule)]
    law = gaussian_chain(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), levels)
    width = float(a @ law.covariance @ a) ** 0.5
    print(
        "rare: P / exact (chain's for DDIM, prior's for MatchedDDPM), ratio, relative error of one run"
    )
    for kernel, std in ((sg.kernels.DDIM(1.0), width), (sg.kernels.MatchedDDPM(), 1.0)):
        for threshold in (3.0, 4.5):
            start = time.perf_counter()
            event = Exceedance(lambda x: x @ a, threshold, 0.3)
            post = sg.sample(
                normal, event, num_particles=200, num_systems=repeats, times=times, kernel=kernel,
                progress=False,
            )  # fmt: skip
            found, exact = rare_event(post, event.event, event), tail(threshold / std)
            paid = post.evaluations["network_forward"] + post.evaluations.get("network_backward", 0)
            per_run = float(found.relative_error) * repeats**0.5
            counting = (1 / exact - 1) / (paid / repeats / 100)  # relative variance at this price
            print(
                f"  {type(kernel).__name__:12s} threshold {threshold}: P = 10^{float(found.log10):.2f}, "
                f"{float(found.probability) / exact:.3f} ± {float(found.relative_error):.3f}, "
                f"{per_run**2 / counting:.1e}, {per_run:.2f}   {time.perf_counter() - start:.0f} s"
            )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in (stein, thermo, adaptive, rare):
        part(args.repeats)


if __name__ == "__main__":
    main()
