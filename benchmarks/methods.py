"""All particle methods at equal numbers of network evaluations, on problems with known answers.

The problems are in `problems.py`, what is measured in `measuring.py`. One command measures everything
and puts tables and figures into docs/benchmarks.md; parts can be measured apart and merged:

    python benchmarks/methods.py
    python benchmarks/methods.py --problems abs rare --methods default DTM --out a.json
    python benchmarks/methods.py --merge a.json b.json
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import render, table
from measuring import Method, Row, measure, reference
from problems import PROBLEMS, Problem

import smcguide as sg
from smcguide.sampling import default_potential

P, Q = sg.proposals, sg.potentials
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def parts(**kwargs: Any) -> Method:
    """A method that is a choice of parts of `sg.sample`, whatever the problem."""
    return lambda prior, cost, num_steps: kwargs


def preset(name: str, **kwargs: Any) -> Method:
    """A published particle method."""
    return lambda prior, cost, num_steps: getattr(sg.presets, name)(num_steps=num_steps, **kwargs)


def published(name: str, **kwargs: Any) -> Method:
    """A guidance method as published: the draws without their weights."""

    def method(prior: Any, cost: Any, num_steps: int) -> Any:
        recipe = getattr(sg.presets, name)(num_steps=num_steps, **kwargs)

        def run(num_particles: int, num_systems: int | None, seed: int) -> sg.Posterior:
            post = sg.sample(
                prior, cost, num_particles=num_particles, num_systems=num_systems, seed=seed,
                progress=False, **recipe,
            )  # fmt: skip
            return post.unweighted()

        return run

    return method


def in_pairs(**kwargs: Any) -> Method:
    """A choice of parts that needs an even number of particles."""

    def method(prior: Any, cost: Any, num_steps: int) -> Any:
        def run(num_particles: int, num_systems: int | None, seed: int) -> sg.Posterior:
            return sg.sample(
                prior, cost, num_particles=num_particles // 2 * 2, num_systems=num_systems,
                num_steps=num_steps, seed=seed, progress=False, **kwargs,
            )  # fmt: skip

        return run

    return method


def controlled(prior: Any, cost: Any, num_steps: int) -> dict[str, Any]:
    """The default value after a control, without another for the proposal."""
    value = default_potential(prior, sg.costs.as_cost(cost))
    return {"potential": Q.ControlValue(P.DTM(), value), "proposal": P.Bootstrap()}


GUIDED = P.Gradient(trust=2.0)
PCN = sg.moves.PCN(beta=0.7, num_moves=1)
METHODS: dict[str, Method] = {
    "default": parts(),
    # proposals, with the default potential of the cost
    "Bootstrap": parts(proposal=P.Bootstrap()),
    "Gradient, trust 2": parts(proposal=GUIDED),
    "DTM": parts(proposal=P.DTM()),
    "DTM, 3 iterations": parts(proposal=P.DTM(num_iters=3)),
    "DTM, Gauss-Newton": parts(proposal=P.DTM(solver="gauss_newton")),
    # potentials, with that gradient where they have one
    "Terminal, Bootstrap": parts(potential=Q.Terminal(), proposal=P.Bootstrap()),
    "Tweedie": parts(potential=Q.Tweedie(), proposal=GUIDED),
    "Tweedie, Bootstrap": parts(potential=Q.Tweedie(), proposal=P.Bootstrap()),
    "Tweedie, adaptive": parts(
        potential=Q.Tempered(Q.Tweedie(1.0), Q.Adaptive(0.9)), proposal=P.Bootstrap()
    ),
    "Inflated, PiGDM width": parts(potential=Q.InflatedGaussian(1.0), proposal=GUIDED),
    "MomentMatched": parts(potential=Q.MomentMatched(), proposal=GUIDED),
    "MomentMatched, dense": parts(potential=Q.MomentMatched("dense"), proposal=GUIDED),
    "MomentMatched, diagonal": parts(potential=Q.MomentMatched("diagonal"), proposal=GUIDED),
    "MonteCarlo": parts(potential=Q.MonteCarlo(8), proposal=P.Bootstrap()),
    "Lookahead": parts(potential=Q.Lookahead(2), proposal=P.Bootstrap()),
    "Laplace": parts(potential=Q.Laplace(), proposal=GUIDED),
    "ControlValue": controlled,
    "KrylovLaplace": parts(potential=Q.KrylovLaplace(), proposal=GUIDED),
    "KrylovLaplace, local": parts(potential=Q.KrylovLaplace(local=0.5), proposal=GUIDED),
    "KrylovLaplace, Bootstrap": parts(potential=Q.KrylovLaplace(), proposal=P.Bootstrap()),
    "KrylovLaplace, ESS 0.9": parts(
        potential=Q.KrylovLaplace(), proposal=GUIDED, trigger=sg.triggers.ess_below(0.9)
    ),
    # moves, starts, candidates, with the default potential and that gradient
    "pCN moves": parts(proposal=GUIDED, move=PCN),
    "waste-free": in_pairs(proposal=GUIDED, move=replace(PCN, waste_free=True)),
    "tempered start": parts(proposal=GUIDED, start=sg.starts.TemperedStart(PCN)),
    "4 candidates": parts(proposal=GUIDED, wrap=partial(sg.Candidates, num=4)),
    # published particle methods
    "TDS": preset("tds"),
    "FK steering, difference": preset("fk_steering", mode="difference"),
    "FK steering, max": preset("fk_steering", mode="max"),
    "FK steering, sum": preset("fk_steering", mode="sum"),
    "MCGdiff": preset("mcgdiff"),
    "Zhao": preset("zhao"),
    "DDSMC": preset("ddsmc"),
    "SVDD": published("svdd"),
    # guidance as published, unweighted
    "DPS": published("dps"),
    "PiGDM": published("pigdm"),
    "TMPD": published("tmpd"),
    "MMPS": published("mmps"),
    "LGD-MC": published("lgd_mc"),
    "FreeDoM": published("freedom"),
    "Universal Guidance": published("universal_guidance"),
    "MPGD": published("mpgd"),
    "Dreamguider": published("dreamguider"),
    "DDNM": published("ddnm"),
    "DDRM": published("ddrm"),
    "DiffPIR": published("diffpir"),
    "RED-diff": published("red_diff"),
    "NDTM": published("ndtm", clip=None),
}


def row(name: str, method: str, problems: list[Problem], scale: float) -> Row:
    """One row; without numbers where the method does not apply."""
    p = problems[0]
    about: Row = {
        "problem": name, "method": method, "about": p.about, "steps": p.num_steps,
        "particles": reference(p, scale), "replicates": p.replicates,
        "systems": sum(len(q.log_z) for q in problems),
    }  # fmt: skip
    try:
        return about | measure(problems, METHODS[method], scale)
    except sg.InvalidInput as error:
        return about | {"reason": str(error)}
    except sg.DegenerateWeights as error:
        return about | {"reason": str(error), "failed": True}


def ordered(rows: list[Row]) -> list[Row]:
    """In the order of the tables above; of two rows for the same case the later one."""
    last = {(r["problem"], r["method"]): r for r in rows}
    places = [*PROBLEMS], [*METHODS]

    def place(key: tuple[str, str]) -> list[int]:
        return [p.index(k) if k in p else len(p) for k, p in zip(key, places, strict=True)]

    return [last[key] for key in sorted(last, key=place)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and render or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--instances", type=float, default=1.0, help="factor of systems and runs")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of particles")
    parser.add_argument("--out", type=Path, help="write a JSON file instead of the documentation")
    parser.add_argument("--merge", type=Path, nargs="+", help="render such files, measure nothing")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the page with the markers")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for path in args.merge or []:
        rows += json.loads(path.read_text())
    for name in [] if args.merge else args.problems:
        problems = PROBLEMS[name](args.instances)
        print(f"\n{name}: {problems[0].about}")
        for method in args.methods:
            rows.append(row(name, method, problems, args.scale))
            header = method == args.methods[0]
            print("\n".join(table(rows[-1:]).splitlines()[0 if header else 2 :]), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1))
    if not args.out:
        render(ordered(rows), args.docs)


if __name__ == "__main__":
    main()
