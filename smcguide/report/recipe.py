"""How to reproduce a run: a Python program made of its settings, as far as they are known.

Settings are text, what `repr` said of each part. Where that text is a call of public names with plain
values it is Python, and goes into the program with its rooms in front: "Gradient(trust=2.0)" becomes
`sg.proposals.Gradient(trust=2.0)`. Anything else (a network, a measurement, a user's own function) stays
a gap to be filled in, with the text beside it. Nothing of a file is ever evaluated here.
"""

import ast
from collections.abc import Mapping
from typing import Any

import smcguide
from smcguide.exactness import SEARCH
from smcguide.posterior import Posterior

ROOMS = {  # where the parts of each kind live
    "times": "grids", "kernel": "kernels", "potential": "potentials", "proposal": "proposals",
    "move": "moves", "start": "starts", "parameter_move": "parameter_moves",
    "resampler": "resamplers", "trigger": "triggers",
}  # fmt: skip

_WIDEST = 100  # characters of a comment


def recipe(posterior: Posterior) -> str:
    """A Python program that repeats this run once its gaps, `...`, are filled in."""
    said = posterior.settings
    if "budget" in said or posterior.exactness == SEARCH:
        return _search(said)
    given = [name for name in ("prior", "cost") if name in said] or ["model"]
    lines = ["import smcguide as sg", "", *(_gap(name, said.get(name)) for name in given)]
    call = "run" if given == ["model"] else "sample"
    lines += [f"posterior = sg.{call}(", *(f"    {name}," for name in given)]
    lines += [f"    {line}" for line in _arguments(posterior)]
    lines.append(")")
    if "pooled" in said:
        lines.append("posterior = posterior.pooled()")
    return "\n".join(lines)


def _arguments(posterior: Posterior) -> list[str]:
    """One line per keyword argument."""
    said, recorded = posterior.settings, tuple(posterior.recorded)
    lines = [f"num_particles={said.get('num_particles', posterior.x.shape[1])},"]
    if (systems := said.get("pooled")) or (posterior.has_systems and posterior.are_replicates):
        lines.append(f"num_systems={systems or len(posterior.x)},")
    for name in ROOMS:
        if name in said:
            lines.append(_argument(name, str(said[name])))
    if "candidates" in said and (code := as_python(str(said["candidates"]), "")):
        keywords = code.partition("(")[2].removesuffix(")")
        lines.append(f"wrap=functools.partial(sg.Candidates, {keywords}),  # import functools")
    lines.append(f"seed={said['seed']}," if "seed" in said else "# the seed is not known")
    if recorded:
        lines.append(f"record={recorded!r},")
    return lines


def _argument(name: str, text: str) -> str:
    if code := as_python(text, ROOMS[name]):
        return f"{name}={code},"
    return f"{name}=...,  # {_one_line(text)}"


def _gap(name: str, text: Any) -> str:
    return f"{name} = ...  # {'unknown' if text is None else _one_line(str(text))}"


def _search(said: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "import smcguide as sg", "",
            "model = ...  # see the settings above",
            f"candidates = sg.rollover(model, budget={said.get('budget', '...')}, "
            f"num_chains={said.get('num_particles', '...')}, seed={said.get('seed', '...')})",
        ]
    )  # fmt: skip


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDEST else flat[:_WIDEST] + " ..."


def as_python(text: str, room: str) -> str | None:
    """The code that makes a part with this repr; None where the repr is no code of public names.

    Arguments:
        text: what `repr` said.
        room: where to look first; two rooms may have a part of the same name.
    """
    try:
        call = ast.parse(text, mode="eval").body
        return ast.unparse(_Located(room).visit(call)) if isinstance(call, ast.Call) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None


class _Located(ast.NodeTransformer):
    """Puts the room in front of every name that is called; refuses everything but calls and values."""

    def __init__(self, room: str) -> None:
        self.rooms = [room, *ROOMS.values()] if room else [*ROOMS.values()]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        plain = (ast.Constant, ast.Tuple, ast.List, ast.Load, ast.keyword, ast.UnaryOp, ast.USub)
        if not isinstance(node, plain):
            raise ValueError(f"{type(node).__name__} is not plain")
        return super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in ("inf", "nan"):
            raise ValueError(f"{node.id} is not a value")
        return ast.Call(ast.Name("float"), [ast.Constant(node.id)], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not isinstance(node.func, ast.Name):
            raise ValueError("a call of something without a name")
        node.args = [self.visit(value) for value in node.args]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        node.func = ast.Name(self._address(node.func.id))
        return node

    def _address(self, name: str) -> str:
        """Where a public class of an extension lives."""
        if name == "Candidates":
            return "sg.Candidates"
        for room in self.rooms:
            found = getattr(getattr(smcguide, room), name, None)
            if isinstance(found, type) and found.__module__.startswith(f"smcguide.{room}"):
                return f"sg.{room}.{name}"
        raise ValueError(f"{name} is not public")
