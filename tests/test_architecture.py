"""Section 4 of the architecture, executed: who imports whom, how long files are, who draws and who
differentiates. A new module gets a level in LEVELS; everything else is found by itself."""

import ast
import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import smcguide

PACKAGE = Path(smcguide.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

LEVELS = {
    "errors": 0, "records": 0, "weights": 0, "schedules": 0, "grids": 0, "rehearsal": 0,
    "evidence": 0, "exactness": 0, "problem": 0, "genealogy": 0, "gaussian": 0,
    "conditioning": 0, "randomness": 0, "parameters": 0, "population": 0, "memory": 0, "kept": 0,
    "sums": 0, "moved": 0,
    "priors": 1, "kernels": 1, "costs": 1, "potentials": 1, "proposals": 1, "resamplers": 1,
    "moves": 1, "starts": 1, "triggers": 1, "parameter_moves": 1,
    "feynman_kac": 2, "guided": 2, "boundary": 2, "runs": 2, "draws": 2, "steps": 2,
    "chain": 2, "lookahead": 2, "candidates": 2, "refresh": 2, "starting": 2, "tempering": 2,
    "parameter_refresh": 2, "chunking": 2,
    "posterior": 3, "results": 3, "trace": 3, "answers": 3, "exports": 3,
    "engine": 4, "course": 4, "loop": 4, "sampling": 4, "progress": 4, "search": 4,
    "presets": 4, "freezing": 4, "pilot": 4, "gibbs": 4, "pmmh": 4, "chains": 4,
    "along": 4, "pseudomarginal": 4, "density": 4, "parameter_gibbs": 4,
    "distributed": 4,
    "checkpoint": 4, "snapshot": 4, "identity": 4, "sealed": 4,
    "diagnostics": 5,
    "bridges": 6,
    "plots": 7, "report": 7, "cli": 7,
    "testing": 8,
    "front door": 4,  # `import smcguide` itself
}  # fmt: skip
MAY_IMPORT = {
    0: {0}, 1: {0}, 2: {0, 1, 2}, 3: {0, 2, 3}, 4: {0, 1, 2, 3, 4}, 5: {0, 3},
    6: {0, 1, 2, 3, 4, 5}, 7: {0, 1, 2, 3, 4, 5, 6, 7}, 8: set(range(9)),
}  # fmt: skip
LATE = {  # imports inside functions that reach up or out on purpose
    "chains": {"smcguide.bridges"},
    "exports": {
        "smcguide.bridges", "smcguide.diagnostics", "smcguide.plots", "smcguide.report"
    },
    "progress": {"tqdm"},
    "priors": {"diffusers"},
    "sealed": {"safetensors"},
}
NAMED = {
    ("exports", "costs", "base"), ("exports", "priors", "base"),
    ("exports", "diagnostics", "verdict"),
}  # fmt: skip
THIRD_PARTY = {"torch", "numpy"}  # of levels 0-4
LONGEST_FILE, LONGEST_FUNCTION = 200, 50


def room_of(path):
    return path.parts[0].removesuffix(".py")


def is_top(path):
    return path.parts == ("__init__.py",)


def core():
    """Levels 0-4."""
    return [p for p in MODULES if not is_top(p) and LEVELS.get(room_of(p), 0) <= 4]


@cache
def tree(path):
    return ast.parse((PACKAGE / path).read_text())


@cache
def inside_functions(path):
    """Ids of nodes that run late."""
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)]
    return {id(inner) for function in functions for inner in ast.walk(function)}


def imports(path):
    """(dotted name, late or not) of everything a module imports."""
    for node in ast.walk(tree(path)):
        late = id(node) in inside_functions(path)
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if node.module == "smcguide":
                yield from ((f"smcguide.{alias.name}", late) for alias in node.names)
            else:
                yield node.module, late


def inner_imports(path):
    """Imports of the package, as paths; ["front door"] for the package itself or what it exports."""
    found = [(name.split(".")[1:], late) for name, late in imports(path) if is_inner(name)]
    return [(t if t and t[0] in LEVELS else ["front door"], late) for t, late in found]


def is_inner(name):
    return name.split(".")[0] == "smcguide"


def calls(path):
    """(dotted text of what is called, node)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=[p.as_posix() for p in paths])


# ---- imports -------------------------------------------------------------------------------------


def test_every_module_has_a_level():
    unknown = {room_of(p) for p in MODULES if not is_top(p)} - LEVELS.keys()
    assert not unknown, f"say in LEVELS at which level {sorted(unknown)} live"


@each([p for p in MODULES if not is_top(p)])
def test_imports_follow_the_levels(path):
    room = room_of(path)
    level = LEVELS[room]
    for target, late in inner_imports(path):
        other = target[0]
        if other == room or (late and f"smcguide.{other}" in LATE.get(room, ())):
            continue
        named = (room, other, *target[1:]) in NAMED  # in annotations only
        allowed = named or LEVELS[other] in MAY_IMPORT[level]
        assert allowed, f"{path} (level {level}) imports {'.'.join(target)} ({LEVELS[other]})"


@each([p for p in MODULES if LEVELS.get(room_of(p)) == 2])
def test_level_two_sees_interfaces_of_level_one_only(path):
    for target, _ in inner_imports(path):
        if LEVELS[target[0]] == 1:
            if (str(path), *target) == ("draws.py", "kernels", "ddim"):
                continue  # the rehearsal's own chain, see docs/decisions.md
            assert target[1:] == ["base"], f"{path} imports {'.'.join(target)}, not a base.py"


@each([p for p in MODULES if room_of(p) != "testing"])
def test_nobody_inside_imports_the_testing_room(path):
    assert "testing" not in {target[0] for target, _ in inner_imports(path)}


@each(core())
def test_the_core_imports_torch_and_numpy_only(path):
    for name, late in imports(path):
        package = name.split(".")[0]
        known = {"smcguide", *THIRD_PARTY} | sys.stdlib_module_names
        known |= LATE.get(room_of(path), set()) if late else set()
        assert package in known, f"{path} imports {name}"


@pytest.fixture(scope="module")
def imported():
    """Top-level modules that `import smcguide` brings in, and those it adds to torch's."""
    program = (
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        "state = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state()\n"
        "import smcguide\n"
        "same = state[:2] == (torch.get_default_dtype(), torch.is_grad_enabled())\n"
        "same = same and torch.equal(state[2], torch.get_rng_state())\n"
        "top = lambda names: sorted({n.split('.')[0] for n in names})\n"
        "print(json.dumps([top(sys.modules), top(set(sys.modules) - before), same]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, check=False, cwd=PACKAGE.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_the_package_is_cheap(imported):
    heavy = {"xarray", "arviz", "diffusers", "pyro", "numpyro", "jax", "matplotlib", "sklearn"}
    heavy |= {"scipy", "pandas", "h5netcdf", "pytest", "typer", "rich", "transformers"}
    assert not heavy & set(imported[0])


def test_importing_the_package_adds_nothing_to_torch_but_itself(imported):
    added = {name for name in imported[1] if name not in sys.stdlib_module_names}
    assert {name.lstrip("_") for name in added} <= {"smcguide", *THIRD_PARTY}


def test_importing_the_package_changes_nothing_global(imported):
    assert imported[2] is True


# ---- sizes ---------------------------------------------------------------------------------------


@each(MODULES)
def test_files_are_short(path):
    lines = len((PACKAGE / path).read_text().splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines, the limit is {LONGEST_FILE}"


@each(MODULES)
def test_functions_are_short(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            lines = (
                node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node) or "").split("\n"))
            )
            assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


# ---- manners -------------------------------------------------------------------------------------


@each(core())
def test_the_core_neither_prints_nor_asserts(path):
    for name, node in calls(path):
        assert name not in ("print", "breakpoint", "input"), f"{path}:{node.lineno}: {name}"
    asserts = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Assert)]
    assert not asserts, f"{path} asserts in lines {asserts}; raise an error with a remedy"


def public_functions(body, inside=""):
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            dunder = node.name in ("__init__", "__call__")
            if dunder or not node.name.startswith("_"):
                yield inside + node.name, node


@each(core())
def test_public_signatures_swallow_no_keywords(path):
    for name, node in public_functions(tree(path).body):
        assert node.args.kwarg is None, (
            f"{path}:{node.lineno}: {name} takes **{node.args.kwarg.arg}"
        )


DRAWS = {
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson",
    "rand_like", "randn_like", "randint_like", "normal_", "uniform_", "bernoulli_", "exponential_",
    "random_", "cauchy_", "geometric_", "log_normal_",
}  # fmt: skip


@each([p for p in MODULES if not is_top(p) and LEVELS.get(room_of(p), 0) <= 7])
def test_nothing_is_drawn_without_a_generator(path):
    for name, node in calls(path):
        method = name.split(".")[-1]
        if method in DRAWS and (name.startswith("torch.") or method.endswith("_")):
            keywords = {keyword.arg for keyword in node.keywords}
            assert "generator" in keywords, f"{path}:{node.lineno}: {name} without generator="
        assert name not in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed"), (
            f"{path}:{node.lineno} touches a global generator"
        )


@each(core())
def test_only_the_look_ahead_differentiates(path):
    """`schedules.rates` differentiates a number of one number; the dry run of `boundary` only asks
    whether a graph is there."""
    text = {ast.unparse(n) for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)}
    found = {t for t in text if t.startswith(("torch.autograd", "torch.func"))}
    found |= {name for name, _ in calls(path) if name.endswith(".backward")}
    found |= {t for t in text if t.endswith((".enable_grad", ".requires_grad_"))}
    tolerated = {
        "lookahead.py": found,
        "density.py": {  # the divergence of its flow
            "torch.enable_grad", "x.requires_grad_", "torch.autograd", "torch.autograd.grad",
        },
        "schedules/base.py": {"torch.func", "torch.func.jvp"},
        "boundary.py": {t for t in found if t.endswith((".enable_grad", ".requires_grad_"))},
    }
    assert not found - tolerated.get(path.as_posix(), set()), f"{path}: {found}"


@each([p for p in MODULES if p.as_posix() != "weights.py"])
def test_only_weights_knows_logsumexp(path):
    names = {n.attr for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)}
    names |= {n.id for n in ast.walk(tree(path)) if isinstance(n, ast.Name)}
    assert not names & {"logsumexp", "logaddexp", "logcumsumexp"}, f"{path}: use weights.py"


# ---- rooms ---------------------------------------------------------------------------------------

BASES = {"kernels": "Kernel", "potentials": "Potential", "proposals": "Proposal"}
BASES |= {"moves": "Move", "starts": "Start", "parameter_moves": "ParameterMove"}
BASES |= {"resamplers": "Resampler", "priors": "Prior", "costs": "TerminalCost"}


def extensions(room):
    """Concrete public subclasses of a room's base class, by module."""
    base = getattr(importlib.import_module(f"smcguide.{room}.base"), BASES[room])
    for path in MODULES:
        if room_of(path) != room or path.name == "__init__.py":
            continue
        module = importlib.import_module(f"smcguide.{'.'.join(path.with_suffix('').parts)}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            own = kind.__module__ == module.__name__ and not name.startswith("_")
            if own and issubclass(kind, base) and not inspect.isabstract(kind):
                yield name, kind


@pytest.mark.parametrize("room", BASES)
def test_a_room_exports_its_extensions(room):
    public = importlib.import_module(f"smcguide.{room}").__all__
    found = [name for name, _ in extensions(room)]
    assert found, f"no extension found in {room}"
    assert not set(found) - set(public), f"smcguide.{room} does not export all of {found}"
    assert BASES[room] in public


@pytest.mark.parametrize("room", sorted(BASES.keys() - {"priors", "costs"}))
def test_extensions_are_frozen_dataclasses(room):
    for name, kind in extensions(room):
        assert dataclasses.is_dataclass(kind), f"{room}.{name} is no dataclass"
        assert kind.__dataclass_params__.frozen, f"{room}.{name} is not frozen"


def test_public_names_exist():
    for name in smcguide.__all__:
        assert hasattr(smcguide, name)
