"""Prove that the built site documents every public name of the package.

    sphinx-build -b html docs docs/_build/html && python docs/check_names.py docs/_build/html

A room is a package of smcguide with `__all__`, or one of the modules in MODULES. Its public names must be
in the site's index of Python objects, under the name by which a user writes them.
"""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import smcguide

MODULES = tuple(
    f"smcguide.{name}"
    for name in (
        "grids", "triggers", "bridges.arviz", "bridges.nuisance",
        "records", "gaussian", "conditioning", "problem", "rehearsal", "starts.base",
    )
)  # fmt: skip
HIDDEN = ("smcguide.cli", "smcguide.priors.embedded")  # a command, a folder of weights


def rooms() -> list[str]:
    """Names of the modules that hold public names, smcguide itself first."""
    packages = pkgutil.walk_packages(smcguide.__path__, "smcguide.")
    found = [m.name for m in packages if m.ispkg and not m.name.startswith(HIDDEN)]
    return ["smcguide", *sorted({*filter(is_room, found), *MODULES})]


def is_room(name: str) -> bool:
    """Whether a package is one that users name: `diagnostics.verdict` is the function in it."""
    room = importlib.import_module(name)
    parent, _, own = name.rpartition(".")
    return hasattr(room, "__all__") and getattr(sys.modules[parent], own) is room


def public_names(room: ModuleType) -> list[str]:
    """Names that a room offers, without the rooms inside it."""
    own = [
        name
        for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == room.__name__
    ]
    offered = getattr(room, "__all__", own)
    return [name for name in offered if not inspect.ismodule(getattr(room, name))]


def documented(site: Path) -> set[str]:
    """Full names of the Python objects that a built site describes."""
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    return {name for kind, items in inventory.items() if kind.startswith("py:") for name in items}


def missing(site: Path) -> list[str]:
    """Public names that the site does not describe."""
    there = documented(site)
    wanted = [f"{r}.{n}" for r in rooms() for n in public_names(importlib.import_module(r))]
    return [name for name in (*rooms(), *wanted) if name not in there]


if __name__ == "__main__":
    left_out = missing(Path(sys.argv[1]))
    print("\n".join(left_out) or "every public name is documented")
    sys.exit(bool(left_out))
