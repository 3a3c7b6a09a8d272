"""All particle methods at equal numbers of network evaluations, on problems with known answers.

The problems are in `problems.py`, what is measured in `measuring.py`. One command measures everything
and puts tables and figures into docs/benchmarks.md; parts can be measured apart and merged:

    python benchmarks/methods.py
    python benchmarks/methods.py --problems abs rare --methods default DTM --out a.json
    python benchmarks/methods.py --merge a.json b.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from figures import render, table
from measuring import Method, Row, measure, reference
from problems import PROBLEMS, Problem

import smcguide as sg

P, Q = sg.proposals, sg.potentials
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def parts(**kwargs: Any) -> Method:
    """A method that is a choice of parts of `sg.sample`, whatever the problem."""
    return lambda prior, cost, num_steps: kwargs


METHODS: dict[str, Method] = {
    "default": parts(),
    # proposals, with the default potential of the cost
    "Bootstrap": parts(proposal=P.Bootstrap()),
    "Gradient": parts(proposal=P.Gradient()),
    "Gradient, trust 2": parts(proposal=P.Gradient(trust=2.0)),
    "DTM": parts(proposal=P.DTM()),
    "DTM, 3 iterations": parts(proposal=P.DTM(num_iters=3)),
    "DTM, Gauss-Newton": parts(proposal=P.DTM(solver="gauss_newton")),
    # potentials
    "Bootstrap, Terminal": parts(proposal=P.Bootstrap(), potential=Q.Terminal()),
    "Bootstrap, Tweedie": parts(proposal=P.Bootstrap(), potential=Q.Tweedie()),
    "Gradient, Tweedie": parts(proposal=P.Gradient(trust=2.0), potential=Q.Tweedie()),
    "Gradient, Tweedie 1": parts(proposal=P.Gradient(trust=2.0), potential=Q.Tweedie(1.0)),
    "DTM, Tweedie": parts(proposal=P.DTM(), potential=Q.Tweedie()),
    "DTM, Terminal": parts(proposal=P.DTM(guide=Q.Tweedie()), potential=Q.Terminal()),
    "DTM, PiGDM width": parts(proposal=P.DTM(), potential=Q.InflatedGaussian(1.0)),
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
