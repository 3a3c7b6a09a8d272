"""What the site adds to Sphinx: a directive for a whole room, docstrings read as plain text, formulas as
MathML (which browsers draw by themselves, without a network), and the list of examples."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

from check_names import public_names, rooms
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective

SECTIONS = ("Arguments:", "Attributes:", "Raises:", "Returns:", "Yields:")
HOMES: dict[str, str] = {}  # where an object is defined -> the name under which it is described
LEADERS: dict[str, str] = {}  # a module -> the public object in it that shows its mathematics
PLACES: dict[str, set[str]] = {}  # a name, alone or with its room -> where it is described
INNER = ("smcguide.bridges.",)  # types of the bridges' own machinery stay without a link


def find_homes() -> None:
    """Fill the tables above: an object belongs to the first room that offers it."""
    for room in rooms():
        module = importlib.import_module(room)
        for name in public_names(module):
            thing = getattr(module, name)
            origin = origin_of(thing)
            if origin is None or origin in HOMES:
                continue
            home = HOMES[origin] = f"{room}.{name}"
            PLACES.setdefault(name, set()).add(home)
            PLACES.setdefault(f"{room.rpartition('.')[2]}.{name}", set()).add(home)
            if thing.__module__ not in rooms():
                LEADERS.setdefault(thing.__module__, home)


def origin_of(thing: object) -> str | None:
    """Where a class or function is defined."""
    name = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}.{name}" if name else None


class Room(SphinxDirective):
    """`{room} smcguide.proposals`: the room's docstring, a table of its public names, each of them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        room = importlib.import_module(self.arguments[0])
        names = public_names(room)
        lines = [f".. automodule:: {room.__name__}", "   :no-members:", "", ".. autosummary::", ""]
        lines += [f"   {name}" for name in names]
        for name in names:
            lines += ["", *described(room.__name__, name, getattr(room, name))]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


def described(room: str, name: str, thing: object) -> list[str]:
    """The directive of one public name, which is explained in one place. What a class has from private
    bases is its own."""
    home = HOMES.get(origin_of(thing) or "")
    if home not in (None, f"{room}.{name}"):
        kind = "class" if inspect.isclass(thing) else "function"
        return [f".. py:{kind}:: {name}", "", f"   The same as :py:obj:`{home}`."]
    if not inspect.isclass(thing):
        kind = "autofunction" if inspect.isroutine(thing) else "autodata"
        return [f".. {kind}:: {room}.{name}"]
    lines = [f".. autoclass:: {room}.{name}", "   :members:"]
    bases = [c for c in thing.__mro__[1:] if c.__module__.startswith("smcguide.")]
    if any(origin_of(c) not in HOMES for c in bases):
        lines.append("   :inherited-members:")
    return lines


class Examples(SphinxDirective):
    """`{examples} ../examples`: each script of a folder, with the first sentence of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir) / self.arguments[0]
        lines = ["| script | what it shows |", "|---|---|"]
        for script in sorted(folder.glob("*.py")):
            text = script.read_text()
            doc = ast.get_docstring(ast.parse(text)) or ""
            self.env.note_dependency(str(script))
            if f"python examples/{script.name}" in doc:
                says = doc.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
                lines.append(f"| [{script.name}]({self.arguments[0]}/{script.name}) | {says} |")
        return self.parse_text_to_nodes("\n".join(lines))


def plain_text(app, kind, name, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text: `names` in backticks, formulas in indented blocks, nothing else."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module and LEADERS.get(module.__name__) == name:
        lines += ["", *inspect.cleandoc(module.__doc__ or "").splitlines(), ""]
    out: list[str] = []
    block = section = False
    base = 0  # indentation of the text around a block
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text and indent == 0:
            section = text in SECTIONS
        if text and block and indent <= base:
            block = False
            out += [""] * bool(out[-1])
        if text and not block and not section:
            block = indent > base and not (out and out[-1])
            if block:
                out += [" " * base + ".. code-block:: text", ""]
            else:
                base = indent
        out.append(line if block else escaped(line))
    lines[:] = out


def escaped(line: str) -> str:
    """A line without markup, except for what is in backticks."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([\\*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [linked(part.strip("`")) for part in parts[1::2]]
    return "".join(parts)


def linked(code: str) -> str:
    """Code in a docstring; a link where it is the name of one public class."""
    places = PLACES.get(code.removeprefix("sg."), set())
    if len(places) == 1 and code.rsplit(".", 1)[-1][:1].isupper():
        return f":py:obj:`{code} <{next(iter(places))}>`"
    return f"``{code}``"


def public_home(app, env, node, contnode):
    """Link a type by the name under which the site describes it; types of others stay without a link."""
    target = node.get("reftarget", "")
    if target in HOMES:
        domain = env.get_domain("py")
        return domain.resolve_xref(
            env, node.get("refdoc", ""), app.builder, "obj", HOMES[target], node, contnode
        )
    ours = target.startswith("smcguide.") and not target.startswith(INNER)
    return None if ours else contnode


def mathml(tex: str, as_block: bool = False) -> str:
    """A formula, with the space after a function's name that docutils leaves out."""
    space = '<mspace width="0.17em"></mspace>'
    return re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>\()", space, tex2mathml(tex, as_block))


def visit_math(self, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_displayed_math(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    app.add_directive("room", Room)
    app.add_directive("examples", Examples)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed_math, None))
    app.connect("autodoc-process-docstring", plain_text, priority=100)  # before napoleon
    app.connect("missing-reference", public_home)
    find_homes()
    return {"parallel_read_safe": True, "parallel_write_safe": True}
