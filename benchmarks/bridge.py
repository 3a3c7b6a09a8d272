"""What the bridges cost: the same problem written by hand in torch, as a Pyro and as a NumPyro program.

N = 1000 particles, the network prior of digits, one held-out digit. Two likelihoods, each with its scale
known and unknown: a normal one of the upper half, and a Poisson one of all pixels. On all routes the
same proposal and, in rows that name it, the same potential; the rows "default" leave the potential to
the library, which knows a normal Pyro program for what it is.

Seconds are by the clock, from the call of `run` to the posterior, so set-up and compilation count.
Routes take turns; the median of the ratios to the run by hand just before, the range, and the same
ratio of processor time, which counts all of JAX's threads. Share: what part of a bridge's run is not in
the run by hand.

    python benchmarks/bridge.py [--particles 1000] [--steps 100] [--repeats 3] [--rows 0 1]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as dist
import torch
from digits_exact import digits
from jax import random
from torch import Tensor
from tqdm import tqdm

import smcguide as sg
from smcguide.bridges import numpyro as numpyro_bridge
from smcguide.bridges import pyro as pyro_bridge
from smcguide.potentials.base import SIGNAL_FRACTION

PRIOR = sg.priors.load("digits")
NOISE, EXPOSURE = 0.1, 3.0
SCALES = {"half": (NOISE, -2.0), "photons": (EXPOSURE, 1.0)}  # true, and mean of the logarithm
LAPLACE = sg.potentials.KrylovLaplace()


@dataclass(frozen=True)
class Row:
    """A problem and a method.

    Attributes:
        name: "half" or "photons".
        unknown: whether the scale has to be inferred.
        potential: None for the default.
    """

    name: str
    unknown: bool
    potential: sg.potentials.Potential | None


ROWS = [
    Row("half", False, None),
    Row("half", False, LAPLACE),
    Row("half", True, sg.potentials.Tempered(LAPLACE, SIGNAL_FRACTION)),
    Row("photons", False, LAPLACE),
    Row("photons", True, sg.potentials.Tempered(LAPLACE, SIGNAL_FRACTION)),
]


def data(name: str) -> Tensor:
    """A measurement of a held-out digit."""
    x, g = digits()[1][0].float(), torch.Generator().manual_seed(0)
    if name == "half":
        return x[:, :4] + NOISE * torch.randn(1, 4, 8, generator=g)
    return torch.poisson(EXPOSURE * ((x + 1) / 2).clamp(min=0.01), generator=g)


def by_hand(row: Row, y: Tensor) -> Any:
    """The cost in torch."""
    true, centre = SCALES[row.name]
    prior = {"scale": torch.distributions.LogNormal(centre, 1.0)}

    def normal(x: Tensor, scale: Tensor) -> Tensor:
        law = torch.distributions.Normal(x[:, :, :4], scale[:, None, None, None])
        return -law.log_prob(y).sum((1, 2, 3))

    def poisson(x: Tensor, scale: Tensor) -> Tensor:
        light = ((x + 1) / 2).clamp(min=0.01)
        law = torch.distributions.Poisson(scale[:, None, None, None] * light)
        return -law.log_prob(y).sum((1, 2, 3))

    if row.unknown:
        return sg.costs.ParametricFunction(normal if row.name == "half" else poisson, prior)
    if row.name == "photons":
        return lambda x: poisson(x, x.new_full((len(x),), true))
    mask, whole = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8)
    mask[:, :4], whole[:, :4] = True, y
    return sg.costs.LinearGaussian(mask, whole, NOISE)


def pyro_program(row: Row, y: Tensor) -> None:
    """The same in Pyro."""
    true, centre = SCALES[row.name]
    x = pyro.sample("x", pyro_bridge.DiffusionPrior(PRIOR).mask(False))
    scale = pyro.sample("scale", dist.LogNormal(centre, 1.0)) if row.unknown else true
    if row.name == "half":
        law = dist.Normal(x[:, :4], scale)
    else:
        law = dist.Poisson(scale * ((x + 1) / 2).clamp(min=0.01))
    pyro.sample("y", law.to_event(3), obs=y)


def numpyro_program(row: Row, y: Any) -> None:
    """The same in NumPyro."""
    true, centre = SCALES[row.name]
    x = numpyro.sample("x", numpyro_bridge.DiffusionPrior(PRIOR).mask(False))
    scale = numpyro.sample("scale", ndist.LogNormal(centre, 1.0)) if row.unknown else true
    if row.name == "half":
        law = ndist.Normal(x[:, :4], scale)
    else:
        law = ndist.Poisson(scale * jnp.clip((x + 1) / 2, 0.01))
    numpyro.sample("y", law.to_event(3), obs=y)


def routes(row: Row, num_particles: int, num_steps: int) -> dict[str, Callable[[int], float]]:
    """By hand first; each takes a seed and returns log Z."""
    y = data(row.name)
    sizes: dict[str, Any] = {
        "num_particles": num_particles, "num_steps": num_steps, "potential": row.potential,
        "proposal": sg.proposals.Gradient(trust=2.0), "progress": False,
    }  # fmt: skip

    def hand(seed: int) -> float:
        return float(sg.sample(PRIOR, by_hand(row, y), seed=seed, **sizes).log_evidence)

    def in_pyro(seed: int) -> float:
        pyro.set_rng_seed(seed)
        smc = pyro_bridge.SMC(pyro_program, **sizes)
        smc.run(row, y)
        return float(smc.get_log_normalizer())

    def in_numpyro(seed: int) -> float:
        smc = numpyro_bridge.SMC(numpyro_program, **sizes)
        smc.run(random.key(seed), row, jnp.asarray(y.numpy()))
        return float(smc.get_log_normalizer())

    return {"by hand": hand, "Pyro": in_pyro, "NumPyro": in_numpyro}


def measure(row: Row, args: argparse.Namespace, bar: Any) -> dict[str, Tensor]:
    """Route -> seconds, seconds of processor time, and log Z, (3, repeats)."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(args.repeats):
        for name, route in routes(row, args.particles, args.steps).items():
            start = time.perf_counter(), time.process_time()
            log_z = route(seed)
            stop = time.perf_counter(), time.process_time()
            found.setdefault(name, []).append((stop[0] - start[0], stop[1] - start[1], log_z))
            bar.update()
    return {name: torch.tensor(runs).T for name, runs in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=range(len(ROWS)), help="of the table"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| likelihood | scale | potential | route | s | ratio | range | share | cpu | log Z |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for warm_up in routes(ROWS[-1], args.particles, 2).values():
        warm_up(0)
    with tqdm(total=len(args.rows) * 3 * args.repeats, unit="run", disable=None) as bar:
        for row in (ROWS[i] for i in args.rows):
            seconds = measure(row, args, bar)
            potential = "default" if row.potential is None else type(row.potential).__name__
            for name, (s, cpu, log_z) in seconds.items():
                ratio, of_cpu = s / seconds["by hand"][0], cpu / seconds["by hand"][1]
                middle = float(ratio.median())
                print(
                    f"| {row.name} | {'unknown' if row.unknown else 'known'} | {potential} | {name} "
                    f"| {s.median():.2f} | {middle:.2f} | {ratio.min():.2f} to {ratio.max():.2f} "
                    f"| {100 * (1 - 1 / middle):.0f} % | {of_cpu.median():.2f} | {log_z.mean():.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
