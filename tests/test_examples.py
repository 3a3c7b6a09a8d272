"""The README runs as shown, examples and benchmarks run, the two commands are the two commands."""

import ast
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = {p.stem: p for p in sorted((ROOT / "examples").glob("*.py")) if p.stem != "pictures"}
TESTED_BELOW = {"compare_methods", "train_digits"}
DIAGNOSTICS = {p.stem: p for p in sorted((ROOT / "examples/diagnostics").glob("*.py"))}
SCRIPTS = [str(p.relative_to(ROOT)) for p in (*EXAMPLES.values(), *DIAGNOSTICS.values())]
ONE_AFTER_THE_OTHER = """
import os, runpy, sys
for script in sys.argv[1:]:
    name = os.path.splitext(os.path.basename(script))[0]
    os.mkdir(name)
    os.chdir(name)
    print(script, file=sys.stderr)
    runpy.run_path(script, run_name="__main__")
    os.chdir("..")
"""  # an import of everything takes longer than a script


def start(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    env["PYTHONWARNINGS"] = "ignore::FutureWarning:arviz"  # its news, on the first import of a day
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=env, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip


def run(*arguments: object, cwd: Path) -> str:
    done = start(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def promised_pictures(text: str) -> set[str]:
    """Names of the files that an example's docstring says it writes."""
    doc = ast.get_docstring(ast.parse(text)) or ""
    said = " ".join(re.findall(r"writes (.*)", doc))
    return set(re.findall(r"\w+\.(?:png|gif|html)", said))


def check_made(folder: Path, text: str) -> None:
    """Raise unless the folder holds the files that the example promises, and something is in them."""
    assert {p.name for p in folder.iterdir()} == promised_pictures(text)
    for p in folder.iterdir():
        if p.suffix == ".html":
            assert p.stat().st_size > 10_000
        else:
            assert imread(p)[..., :3].std() > 0.1, f"{p.name}: an empty picture"


def ends_in_a_check(text: str) -> bool:
    """Whether an example fails by a comparison of something it computed."""
    for node in ast.walk(ast.parse(text)):
        asserts = isinstance(node, ast.Assert)
        exits = isinstance(node, ast.If) and "SystemExit" in ast.unparse(node.body[0])
        if not asserts and not exits:
            continue
        for part in ast.walk(node.test):
            sides = [part.left, *part.comparators] if isinstance(part, ast.Compare) else []
            if any(isinstance(n, ast.Name) for side in sides for n in ast.walk(side)):
                return True
    return False


def test_readme_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 5
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "run.nc").exists()
    assert scope["post"].x.shape == (4, 64, 1, 8, 8)
    assert scope["info"].time == 0
    assert scope["samples"]["x"].shape == (64, 1, 8, 8)


def test_the_code_about_programs_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/programs.md").read_text(), re.S)
    assert len(blocks) == 3
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "programs.md", "exec"), scope)
    assert scope["new"].shape == (100, 1, 4, 8)
    assert scope["samples"]["x"].shape == (100, 1, 8, 8)


def test_readme_commands() -> None:
    commands = re.findall(r"^ *(pip install .*&& .*)$", README, re.M)
    assert commands == [
        "pip install -c constraints.txt -e '.[all]' && smcguide demo",
        "pip install -c constraints.txt -e '.[all]' && pytest",
    ]


def test_train_digits_saves_a_loadable_prior(tmp_path: Path) -> None:
    import smcguide as sg

    out = run(str(ROOT / "examples/train_digits.py"), "--steps", 20, "--out", "p", cwd=tmp_path)
    assert "20 steps in" in out
    assert sg.priors.from_diffusers(tmp_path / "p").event_shape == (1, 8, 8)


def test_benchmark_mixture25(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/mixture25.py")
    out = run(script, "--instances", 3, "--particles", 400, "--steps", 40, cwd=tmp_path)
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert [(int(r[0]), int(r[1])) for r in rows] == [(d, m) for d in (8, 80) for m in (1, 2, 4)]
    assert all(float(r[2]) < 0.6 for r in rows)  # log evidence
    assert all(float(r[5]) < 2.5 for r in rows)  # sliced Wasserstein ratio


def test_benchmark_digits_exact(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/digits_exact.py")
    out = run(script, "--digits", 2, "--particles", 64, "--steps", 10, cwd=tmp_path)
    rows = out.splitlines()[1:]
    assert len(rows) == 12
    errors = [float(row[39:].split()[0]) for row in rows]
    assert all(math.isfinite(e) and e < 40 for e in errors)


def test_benchmark_rare_event(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/rare_event.py")
    out = run(script, "--steps", 40, "--particles", 100, "--systems", 4, cwd=tmp_path)
    bias = float(out.splitlines()[1].split()[1])
    assert 0.0 < bias < 5.0  # the coarse chain's


@pytest.mark.parametrize("name", [n for n in EXAMPLES if n not in TESTED_BELOW])
def test_an_example_runs_to_its_end_and_makes_its_picture(name: str, tmp_path: Path) -> None:
    done = start(str(EXAMPLES[name]), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    check_made(tmp_path, EXAMPLES[name].read_text())


def test_the_examples_of_diagnostics_run_to_their_ends_and_make_their_pictures(
    tmp_path: Path,
) -> None:
    assert len(DIAGNOSTICS) == 14
    done = start("-c", ONE_AFTER_THE_OTHER, *DIAGNOSTICS.values(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    for name, path in DIAGNOSTICS.items():
        check_made(tmp_path / name, path.read_text())


def test_the_site_lists_the_examples_of_diagnostics() -> None:
    page = (ROOT / "docs/examples.md").read_text()
    assert re.findall(r"\(\.\./examples/diagnostics/(\w+)\.py\)", page) == list(DIAGNOSTICS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_says_what_it_shows_and_checks_it(script: str) -> None:
    text = (ROOT / script).read_text()
    doc = ast.get_docstring(ast.parse(text))
    assert re.match(r"[A-Z].{20,}[.?]$", doc.splitlines()[0])
    assert f"python {script}" in doc
    assert ends_in_a_check(text)


@pytest.mark.parametrize("test", ["True", "1 < 2", "error", "not math.isnan(1.0)"])
def test_an_assertion_about_nothing_computed_is_no_check(test: str) -> None:
    assert not ends_in_a_check(f"def main():\n    error = 1.0\n    assert {test}\n")
    assert not ends_in_a_check("if args.steps > 3:\n    print('long')\n")
    assert ends_in_a_check("assert abs(found - truth) < 0.1")
    assert ends_in_a_check("if worst > 0.1:\n    raise SystemExit('off')\n")


def test_compare_methods(tmp_path: Path) -> None:
    out = run(str(ROOT / "examples/compare_methods.py"), cwd=tmp_path)
    assert len(out.splitlines()) == 6


def test_benchmark_candidates(tmp_path: Path) -> None:
    out = run(str(ROOT / "benchmarks/candidates.py"), "--results", 300, cwd=tmp_path)
    rows = [[float(v) for v in line.split()] for line in out.splitlines()[1:]]
    best = {(int(n), int(block)): (cost, bound) for n, block, cost, bound, _ in rows}
    assert best[1, 1][0] > best[16, 20][0] > best[16, 5][0] > best[16, 1][0]
    assert best[16, 1][1] > best[16, 5][1] > best[16, 20][1]


def test_benchmark_ablation(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/digits_exact.py")
    out = run(script, "--digits", 2, "--particles", 16, "--steps", 6, "--ablation", cwd=tmp_path)
    assert len(out.splitlines()) == 1 + 2 * 7


def test_benchmark_phaseless(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/phaseless.py")
    out = run(
        script, "--digits", 2, "--replicates", 2, "--particles", 16, "--steps", 8, cwd=tmp_path
    )
    rows = [line.split() for line in out.splitlines()[1:]]
    assert len(rows) == 8
    assert all(math.isfinite(float(row[3])) and float(row[4]) > 0 for row in rows)


def test_benchmark_calibration(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/calibration.py")
    small = "--datasets", 6, "--particles", 100, "--steps", 10
    out = run(script, *small, cwd=tmp_path)
    rows = [line.split() for line in out.splitlines()[2:-1]]
    assert len(rows) == 4
    assert all(sum(map(int, row[-10:])) == 6 for row in rows)
    assert "at a false-alarm rate of 0.001" in out
    assert (tmp_path / "calibration.png").stat().st_size > 10_000


def test_benchmark_calibration_sees_ignored_weights(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/calibration.py")
    small = "--datasets", 10, "--particles", 100, "--steps", 10
    done = start(script, "--broken", *small, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "Not calibrated: log p(y)."


def test_benchmark_bridge(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/bridge.py")
    few = ("--particles", 20, "--steps", 3, "--repeats", 1, "--rows", 0, 4)
    out = run(script, *few, cwd=tmp_path)
    rows = [line.split("|")[1:-1] for line in out.splitlines()[2:]]
    assert [row[3].strip() for row in rows] == ["by hand", "Pyro", "NumPyro"] * 2
    assert all(float(row[4]) > 0 and math.isfinite(float(row[9])) for row in rows)
