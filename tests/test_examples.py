"""The README runs as shown, examples and benchmarks run, the two commands are the two commands."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def run(script: str, *arguments: object, cwd: Path) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], cwd=cwd, env=env, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_readme_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 3
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "run.nc").exists()
    assert scope["post"].x.shape == (4, 64, 1, 8, 8)
    assert scope["info"].time == 0


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
    out = run(
        script, "--digits", 2, "--particles", 16, "--steps", 6, "--ablation", cwd=tmp_path
    )
    assert len(out.splitlines()) == 1 + 2 * 7


def test_benchmark_phaseless(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks/phaseless.py")
    out = run(
        script, "--digits", 2, "--replicates", 2, "--particles", 16, "--steps", 8, cwd=tmp_path
    )
    rows = [line.split() for line in out.splitlines()[1:]]
    assert len(rows) == 8
    assert all(math.isfinite(float(row[3])) and float(row[4]) > 0 for row in rows)
