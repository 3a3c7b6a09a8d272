"""Write docs/methods.md from the code: what each method is made of, needs and costs, and what may be
claimed of it. Nothing in the table is typed by hand; labels and evaluations are read off a short run.

    python docs/make_methods.py [--check]
"""

# ruff: noqa: E501, RUF001

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import smcguide as sg

PAGE = Path(__file__).parent / "methods.md"
ROOMS = ("kernels", "potentials", "proposals", "moves", "starts", "resamplers")
DRIVERS = ("particle_gibbs", "pmmh", "rollover")
STEPS, PARTICLES = 6, 12
F64 = torch.float64
PRIOR = sg.priors.GaussianMixture(
    torch.ones(2), torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.0, 0.5]], dtype=F64), scale=0.7
)
A = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=F64)


class BlackBox(sg.costs.TerminalCost):
    """A cost without gradient."""

    def __call__(self, x0):
        return x0.detach().square().sum(-1)


COSTS = {  # from the least to the most that a method may ask for
    "the cost only": BlackBox(),
    "cost gradient": sg.costs.as_cost(lambda x: x.square().sum(-1)),
    "Gaussian likelihood": sg.costs.GaussianLikelihood(
        lambda x: x[:, :2].square(), torch.ones(2, dtype=F64), 0.5
    ),
    "linear operator": sg.costs.LinearGaussian(A, torch.zeros(2, dtype=F64), 0.5),
}


def presets() -> Iterator[tuple[str, Callable[..., dict[str, Any]]]]:
    """Name and function of every published method."""
    for name in sg.presets.__all__:
        made = getattr(sg.presets, name)
        if inspect.isfunction(made):
            yield name, made


def small(made: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A preset with few steps."""
    return made(num_steps=STEPS)


def needs(parts: dict[str, Any]) -> tuple[str, Any]:
    """What a method asks of a cost, and the run that tells."""
    if parts.get("proposal") is None:  # the default uses a gradient where there is one
        post = sg.sample(
            PRIOR, COSTS["cost gradient"], num_particles=PARTICLES, progress=False, **parts
        )
        return "the cost only; a gradient where there is one", post
    for what, cost in COSTS.items():
        try:
            post = sg.sample(PRIOR, cost, num_particles=PARTICLES, progress=False, **parts)
        except sg.InvalidInput:
            continue
        if post.evaluations.get("network_backward", 0):
            what = what.replace("cost gradient, ", "") + ", gradient through the network"
        return what.removeprefix("cost gradient, "), post
    raise AssertionError(f"no cost suits {parts}")


def short(part: Any) -> str:
    """A part's class, with what was said of it beyond the defaults."""
    if part is None:
        return "default"
    if isinstance(part, tuple):
        return " then ".join(short(p) for p in part)
    if isinstance(part, partial):
        said = ", ".join(f"{k}={v!r}" for k, v in part.keywords.items())
        return f"{part.func.__name__}({said})"
    fields = getattr(part, "__dataclass_fields__", {})
    said = [
        f"{n}={short(v) if isinstance(v, tuple) or hasattr(v, '__dataclass_fields__') else repr(v)}"
        for n, f in fields.items()
        if f.init and f.repr and (v := getattr(part, n)) is not f.default and v != f.default
    ]
    return f"{type(part).__name__}({', '.join(said)})".replace("()", "")


def selection(parts: dict[str, Any]) -> str:
    trigger, resampler = parts.get("trigger"), parts.get("resampler")
    if isinstance(trigger, sg.triggers.never):
        return "none"
    return f"{short(resampler or sg.resamplers.Systematic())}, {short(trigger)}"


def extras(parts: dict[str, Any]) -> str:
    said = [short(parts[name]) for name in ("wrap", "move", "start") if parts.get(name)]
    return "".join(f" × {text}" for text in said)


def per_step(post: Any) -> str:
    """Evaluations per particle and step: forward, backward, cost."""
    rows = post.x.shape[1] * STEPS
    numbers = [
        post.evaluations.get(n, 0) / rows for n in ("network_forward", "network_backward", "cost")
    ]
    return " / ".join(f"{n:.1f}".removesuffix(".0") for n in numbers)


def title(made: Any) -> tuple[str, str]:
    """First sentence of a docstring, and its source."""
    text = re.sub(r"\s+", " ", (inspect.getdoc(made) or "").split("\n\n")[0])
    source = re.findall(r"(?:ICML|ICLR) \d{4}|(?:arXiv )?\d{4}\.\d{4,5}", text)
    text = re.sub(r"\s*\([^()]*(?:arXiv|ICML|ICLR)[^)]*\)", "", text)
    return re.split(r"\. |; ", text)[0].rstrip("."), ", ".join(source)


def method_rows() -> Iterator[str]:
    for name, made in presets():
        parts = small(made)
        what, post = needs(parts)
        as_published = isinstance(parts.get("trigger"), sg.triggers.never) and "wrap" not in parts
        label = "exact with its weights, biased without" if as_published else post.exactness
        says, source = title(made)
        recipe = f"{short(parts.get('proposal'))} × {short(parts.get('potential'))}{extras(parts)}"
        yield (
            f"| {says} | `presets.{name}` | {recipe} | {selection(parts)} | {label} | {what} "
            f"| {per_step(post)} | {source} |"
        )


def part_rows() -> Iterator[str]:
    for room in ROOMS:
        module = getattr(sg, room)
        for name in module.__all__:
            made = getattr(module, name)
            if not inspect.isclass(made) or inspect.isabstract(made):
                continue
            base = getattr(module, module.__all__[0], None)
            home = sys.modules[made.__module__]
            source = re.findall(r"arXiv (\d{4}\.\d{4,5})", home.__doc__ or "")
            label = getattr(made, "exactness", "exact")
            label = label if isinstance(label, str) else "from its parts"
            says, _ = title(made)
            if base is None or room_base(module, made):
                yield f"| `{room}.{name}` | {says} | {label} | {', '.join(source)} |"


def room_base(module: Any, made: type) -> bool:
    """Whether a class is an extension of its room."""
    bases = [c for c in vars(sys.modules[f"{module.__name__}.base"]).values() if inspect.isclass(c)]
    own = [c for c in bases if c.__module__ == f"{module.__name__}.base" and inspect.isabstract(c)]
    return any(issubclass(made, c) for c in own)


def driver_rows() -> Iterator[str]:
    for name in DRIVERS:
        made = getattr(sg, name)
        home = sys.modules[made.__module__]
        source = re.findall(r"arXiv (\d{4}\.\d{4,5})", home.__doc__ or "")
        says = (home.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        yield f"| `{name}` | {says} | {', '.join(source)} |"


def page() -> str:
    lines = [
        "# Methods", "",
        "Written by `python docs/make_methods.py` from the code; do not edit. Any proposal, potential, move,",
        "resampler and trigger can be combined with any other; the rows are published combinations.", "",
        "**What may be claimed.** *exact*: for the discretised chain of the prior, Z is unbiased for any number",
        "of particles, and expectations are right as it grows. *exact in the limit*: right only as particles,",
        "iterations or steps grow. *biased*: a heuristic, log Z is withheld. *search*: an optimiser, its results",
        "are not samples. A result carries its label (`posterior.exactness`), derived from its parts.", "",
        "**What it costs.** Evaluations per particle and step, counted in a short run: network forward / network",
        "backward / cost.", "",
        "## Published methods", "",
        "`sg.sample(prior, cost, **sg.presets.dps())`. Parts left out are the library's defaults.", "",
        "| method | preset | proposal × potential | resampling | claim | needs | f / b / C | source |",
        "|---|---|---|---|---|---|---|---|", *method_rows(), "",
        "## Parts", "", "| part | what it is | claim | arXiv |", "|---|---|---|---|", *part_rows(), "",
        "## Other ways to run a model", "", "| function | what it is | arXiv |", "|---|---|---|",
        *driver_rows(), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Write the page, or with --check fail if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(page() != PAGE.read_text())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
