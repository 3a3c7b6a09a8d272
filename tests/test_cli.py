"""The command line and the demo behind it."""

import dataclasses
import math
import re
import sys

import pytest
import torch

import smcguide as sg
from smcguide import cli
from smcguide.cli import demo


def call(monkeypatch, *arguments):
    """Run the command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["smcguide", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture
def small(monkeypatch):
    """The demo in seconds: eight particles, four steps, whatever the command says."""
    run = demo.run_demo

    def run_small(out, *, device, seed, **sizes):
        run_small.sizes = sizes
        return run(out, device=device, seed=seed, num_particles=8, num_steps=4)

    monkeypatch.setattr(demo, "run_demo", run_small)
    return run_small


def test_version(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"smcguide {sg.__version__}\n"


def test_help_names_the_options(monkeypatch, capsys):
    assert call(monkeypatch, "demo", "--help") == 0
    shown = capsys.readouterr().out
    for option in ("--fast", "--device", "--out", "--seed"):
        assert option in shown


def test_an_expected_error_is_one_line(monkeypatch, small):
    def fail(name):
        raise sg.InvalidInput("no such prior")

    monkeypatch.setattr(sg.priors, "load", fail)
    assert call(monkeypatch, "demo") == "smcguide: no such prior"


def test_demo_prints_tables_and_names_files_that_load(monkeypatch, capsys, small, tmp_path):
    out = tmp_path / "results"
    assert call(monkeypatch, "demo", "--fast", "--out", out, "--seed", 3) == 0
    shown = capsys.readouterr().out
    assert small.sizes["num_particles"] < 256 and small.sizes["num_steps"] < 80
    for label in ("digit 0", "digit 3", "digit 4", "digit 6", "90 % coverage", "unique ancestors"):
        assert shown.count(label) == 3, label
    assert len(re.findall(r"[\d,]+ forward and [\d,]+ backward network evaluations", shown)) == 3
    files = ["posterior-coarse.nc", "posterior-phaseless.nc", "posterior.nc", "posterior.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    for name in files:
        assert str(out / name) in shown
    assert (out / "posterior.png").read_bytes()[:4] == b"\x89PNG"
    for name in files[:3]:
        posterior = sg.Posterior.load(out / name)
        assert posterior.particles.shape == (4, 8, 1, 8, 8)
        assert posterior.settings["seed"] == 3 and not posterior.are_replicates


def test_digits_are_held_out_and_scaled():
    truth, labels = demo.digits()
    assert min(demo.HELD_OUT) >= 1797 - 297
    assert labels == ["digit 0", "digit 3", "digit 4", "digit 6"]
    assert truth.shape == (4, 1, 8, 8) and (truth.min(), truth.max()) == (-1, 1)


def test_measurements_have_the_noise_that_the_cost_claims():
    """At the truth, twice the cost without its constant is chi-square with m degrees of freedom."""
    truth, _ = demo.digits()
    for task, std, m in zip(demo.tasks(truth), (0.2, 0.1, 0.1), (32, 16, 32), strict=True):
        constant = m * (math.log(std) + 0.5 * math.log(2 * math.pi))
        square = 2 * (task.cost(truth[:, None]) - constant).sum()
        assert abs(square - 4 * m) < 5 * math.sqrt(2 * 4 * m), task.name


def test_measurements_are_what_the_titles_say():
    truth, _ = demo.digits()
    missing, coarse, phaseless = demo.tasks(truth)
    assert missing.shown[:, 4:].isnan().all() and missing.shown[:, :4].isfinite().all()
    blocks = truth[:, 0].unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    assert (coarse.shown - blocks).abs().max() < 0.5
    assert coarse.shown.shape == (4, 4, 4) and phaseless.shown.shape == (4, 32)
    x = truth[:, None]
    torch.testing.assert_close(phaseless.cost(x), phaseless.cost(-x))  # signs are lost


def test_scores_against_numbers_by_hand():
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    cost = sg.costs.LinearGaussian(torch.eye(2), torch.ones(1, 2), 1.0, batched=True)
    posterior = sg.sample(prior, cost, num_particles=101, num_steps=3)
    x = torch.stack([torch.linspace(0, 1, 101), torch.linspace(2, 4, 101)], -1)[None]
    posterior = dataclasses.replace(posterior, x=x, log_w=torch.zeros(1, 101).double())
    error, inside = demo.scores(posterior, torch.tensor([[0.5, 3.95]]))
    assert error[0] == pytest.approx(math.sqrt(0.95**2 / 2), abs=1e-6)  # means 0.5 and 3
    assert inside[0] == 0.5  # 0.5 is in [0.05, 0.95], 3.95 is not in [2.1, 3.9]
