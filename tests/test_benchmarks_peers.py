"""The comparison with other libraries: the tables say what our model says, who is missing is named, and
who computes something else gets no ratio."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import smcguide as sg

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "peers"))

import companions
import peers
import problem_tables
import side_by_side
from time_to_error import Point, seconds_to

F64 = torch.float64
STEPS = 12
LEVELS = [0, 5, 11]


@pytest.fixture
def problem(tmp_path):
    task = problem_tables.Task(1, 8, 2, STEPS)
    return task, task.save(tmp_path / "problem.npz")


def our_look(task, k):
    """States at level k (20, 8), and what our model sees there."""
    model = task.model(True, F64)
    level, g = model.levels[k], torch.Generator().manual_seed(k)
    x = level.alpha * task.prior.sample(20, g) + level.sigma
    seen = model.look_ahead(k, x[None], {})
    return x, {name: a[0] for name, a in seen.items()}


@pytest.mark.parametrize("k", LEVELS)
def test_pyro_s_model_sees_what_ours_sees(problem, k) -> None:
    pytest.importorskip("pyro")
    from pyro_side import Guided

    task, file = problem
    guided = Guided(file, gradient=True)
    guided.p = {name: torch.as_tensor(a) for name, a in np.load(file).items()}  # float64
    x, ours = our_look(task, k)
    seen = guided.look(k, x)
    for theirs, name in (("x0_hat", "x0_hat"), ("log_psi", "log_psi"), ("slope", "grad")):
        torch.testing.assert_close(seen[theirs], ours[name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("k", LEVELS)
def test_jax_s_model_sees_what_ours_sees(problem, k) -> None:
    jax = pytest.importorskip("jax")
    from jax_model import load, look

    task, file = problem
    x, ours = our_look(task, k)
    p, first, others, _ = load(file)
    level = first if k == 0 else {name: a[k - 1] for name, a in others.items()}
    seen = jax.vmap(lambda x: look(p, level, x, True))(jax.numpy.asarray(x.numpy()))
    for theirs, name in (("x0_hat", "x0_hat"), ("log_psi", "log_psi"), ("slope", "grad")):
        size = float(ours[name].abs().max())
        np.testing.assert_allclose(seen[theirs], ours[name], rtol=1e-3, atol=1e-3 * size)


def test_the_last_value_in_the_tables_is_the_terminal_cost(problem) -> None:
    task, file = problem
    p = dict(np.load(file))
    x0 = task.prior.sample(20, torch.Generator().manual_seed(0))
    found = -0.5 * ((p["c"][-1] - x0.numpy() @ p["B"][-1].T) ** 2).sum(1) - p["constant"][-1]
    cost = sg.costs.LinearGaussian(task.A, task.y, task.std)(x0[None])[0]
    np.testing.assert_allclose(found, -cost, rtol=1e-10)


def test_the_transitions_in_the_tables_are_those_of_our_model(problem) -> None:
    task, file = problem
    p, model = dict(np.load(file)), task.model(False, F64)
    x, x0_hat = torch.randn(2, 1, 20, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    for k in range(STEPS):
        law = model.base_kernel(k, x, x0_hat)
        torch.testing.assert_close(p["c_x"][k] * x + p["c_D"][k] * x0_hat, law.mean)
        assert p["std"][k] == pytest.approx(law.std)


def test_a_smoke_run_without_environments_names_who_is_missing(
    monkeypatch, capsys, tmp_path
) -> None:
    one_each = [p for p in companions.PEERS if p.dtype == "float64"]
    monkeypatch.setattr(peers, "PEERS", one_each)
    found = peers.main(["--fast", "--figure", str(tmp_path / "error.png")])
    said = capsys.readouterr().out
    for name in ("particles", "cuthbert", "blackjax", "azula"):
        assert f"MISSING: {name} needs --environments" in said
    assert {row["scheme"] for row in found["resampling"]} == set(side_by_side.SCHEMES)
    assert all(row["smcguide"] > 0 for row in found["resampling"])
    assert all(p.error > 0 for p in found["error"]["smcguide"])
    assert (tmp_path / "error.png").stat().st_size > 0
    pytest.importorskip("pyro")
    assert {row["peer"] for row in found["smc"]} == {"pyro float64"}
    assert all(row["agrees"] and row["theirs"] > 0 for row in found["smc"])


class Liar:
    """A peer that computes another evidence."""

    peer = companions.Peer("liar", None, "float64")

    def __init__(self, task):
        self.task = task

    def ask(self, seed, **request):
        return {"seconds": 1e-9, "log_z": self.task.log_z + 2 + 0.01 * seed}


def test_a_peer_with_another_law_of_the_evidence_gets_no_ratio(
    problem, capsys, monkeypatch
) -> None:
    task, file = problem
    row = side_by_side.smc(Liar(task), task, file, False, 256, 8)
    assert not row["agrees"]
    monkeypatch.setattr(peers, "smc", lambda *_: row)
    peers.all_smc([Liar(task)], True, file.parent)
    assert "other law" in capsys.readouterr().out


def test_a_peer_that_ends_is_named() -> None:
    nobody = companions.Peer("nobody", None, "float64")
    with pytest.raises(RuntimeError, match="nobody float64 ended with exit status 2"):
        companions.Process(nobody, None)


def test_the_time_to_an_error_is_read_off_between_the_points() -> None:
    line = [Point(n, 10, n / 100, n**-0.5) for n in (100, 400, 1600)]
    assert seconds_to(line, 1 / 30) == pytest.approx(9.0)  # N = 900
    assert seconds_to(line, 0.5) == 1.0  # the smallest N is better
    assert seconds_to(line, 0.01) is None
    slow = [Point(p.num, 20, 3 * p.seconds, p.error / 2) for p in line]
    assert seconds_to([*line, *slow], 1 / 60) == pytest.approx(27.0)  # N = 900 of the slow ones
    assert seconds_to([*line, *slow], 1 / 30) == pytest.approx(6.75)  # theirs at N = 225
