"""docs/methods.md is generated from the code, complete and up to date."""

import importlib.util
import inspect
from pathlib import Path

import smcguide as sg

DOCS = Path(__file__).parents[1] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("make_methods", DOCS / "make_methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says() -> None:
    assert (DOCS / "methods.md").read_text() == generator().page(), (
        "run: python docs/make_methods.py"
    )


def test_every_preset_and_part_is_on_the_page() -> None:
    page = (DOCS / "methods.md").read_text()
    presets = [n for n in sg.presets.__all__ if inspect.isfunction(getattr(sg.presets, n))]
    assert len(presets) > 20
    missing = [name for name in presets if f"`presets.{name}`" not in page]
    for room in ("potentials", "proposals", "moves", "starts", "resamplers", "kernels"):
        module = getattr(sg, room)
        parts = [n for n in module.__all__ if inspect.isclass(getattr(module, n))]
        concrete = [n for n in parts if not inspect.isabstract(getattr(module, n))]
        missing += [f"{room}.{n}" for n in concrete if f"`{room}.{n}`" not in page]
    helpers = {  # what parts are made of, not parts
        "potentials.SignalFraction", "potentials.Adaptive", "proposals.Published", "proposals.Constant",
        "proposals.LineSearch", "proposals.Normalised", "proposals.PerResidual", "proposals.Powers",
        "proposals.Step",
    }  # fmt: skip
    assert set(missing) <= helpers, missing
