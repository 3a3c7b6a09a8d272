"""Without the optional packages the core works, and what needs one says which extra to install."""

import json
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import importlib, json, sys, warnings
from pathlib import Path

EXTRAS = ("xarray", "h5netcdf", "h5py", "arviz", "matplotlib", "typer", "rich", "sklearn")
EXTRAS += ("pyro", "numpyro", "jax")
sys.modules.update(dict.fromkeys(EXTRAS))  # None there means: cannot be imported

def install(*names):
    for name in names:
        del sys.modules[name]

warnings.filterwarnings("ignore", message=r"\\s*ArviZ is undergoing")

import torch
torch.set_num_threads(1)
import smcguide as sg
from smcguide.cli import main

prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
cost = sg.costs.LinearGaussian(torch.eye(2), torch.ones(2), 1.0)
post = sg.sample(prior, cost, num_particles=8, num_steps=3)
folder = Path(sys.argv.pop())

def attempt(f):
    try:
        f()
    except (sg.MissingExtra, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "done"

def demo(name):
    import smcguide.cli.demo as module
    return getattr(module, name)

out = {"core": bool(torch.isfinite(post.mean()).all())}
out["save"] = attempt(lambda: post.save(folder / "a.nc"))
out["load"] = attempt(lambda: sg.Posterior.load(folder / "a.nc"))
out["to_arviz"] = attempt(post.to_arviz)
out["plot"] = attempt(post.plot)
out["command"] = attempt(main)
for name in ("pyro", "numpyro"):
    bridge = f"smcguide.bridges.{name}"
    out[name] = attempt(lambda: importlib.import_module(bridge))
install("numpyro")
out["numpyro without jax"] = attempt(lambda: importlib.import_module(bridge))
out["digits"] = attempt(lambda: demo("digits")())
out["demo without rich"] = attempt(lambda: demo("run_demo")(folder / "demo"))
install("rich", "matplotlib")
out["demo without xarray"] = attempt(lambda: demo("run_demo")(folder / "demo"))
install("xarray")
out["save without h5netcdf"] = attempt(lambda: post.save(folder / "a.nc"))
out["load without h5netcdf"] = attempt(lambda: sg.Posterior.load(folder / "a.nc"))
out["to_arviz without arviz"] = attempt(post.to_arviz)
out["files"] = sorted(p.name for p in folder.iterdir())
install("h5netcdf", "h5py")
out["save with all"] = attempt(lambda: post.save(folder / "a.nc"))
sys.modules["h5py"] = None
out["save without h5py"] = attempt(lambda: post.save(folder / "a.nc"))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("missing")
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    (folder / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", script, folder / "work"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("action", "package", "extra"),
    [
        ("save", "xarray", "arviz"),
        ("load", "xarray", "arviz"),
        ("to_arviz", "xarray", "arviz"),
        ("plot", "matplotlib", "plots"),
        ("digits", "scikit-learn", "cli"),
        ("demo without rich", "rich", "cli"),
        ("pyro", "pyro-ppl", "pyro"),
        ("numpyro", "numpyro", "numpyro"),
        ("numpyro without jax", "numpyro", "numpyro"),
        ("demo without xarray", "xarray", "arviz"),
        ("save without h5netcdf", "h5netcdf", "arviz"),
        ("load without h5netcdf", "h5netcdf", "arviz"),
        ("save without h5py", "h5py", "arviz"),
        ("to_arviz without arviz", "arviz", "arviz"),
    ],
)
def test_the_error_names_package_and_extra(outcome, action, package, extra):
    assert outcome[action].startswith("MissingExtra: ")
    assert f"needs the package '{package}', which is not installed" in outcome[action]
    assert outcome[action].endswith(f"pip install 'smcguide[{extra}]'")


def test_the_core_works_without_extras(outcome):
    assert outcome["core"]


def test_the_command_says_it_in_one_line_without_traceback(outcome):
    assert outcome["command"] == (
        "SystemExit: smcguide: The command line needs the package 'typer', which is not installed. "
        "Install it with: pip install 'smcguide[cli]'"
    )


def test_nothing_is_left_behind(outcome):
    assert outcome["files"] == []


def test_the_same_process_saves_once_the_packages_are_there(outcome):
    assert outcome["save with all"] == "done"
