"""The benchmark of all methods: its truths checked by other means, its budget, its numbers, its page."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

import smcguide as sg
from smcguide.testing import generator, z_test

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import digits_exact
import figures
import measuring
import methods
import problems
from problems import F64, PROBLEMS

BATCHES = 200
TINY = 0.05  # factor of instances, and of particles
PAGE = f"# Page\n\nbefore\n\n{figures.BEGIN}\nold\n{figures.END}\n\nafter\n"


@pytest.fixture(autouse=True)
def coarse_distances(monkeypatch):
    monkeypatch.setattr(measuring, "FLOOR_PAIRS", 5)
    monkeypatch.setattr(measuring, "SLICES", 50)


def features(x):
    """1, cos x, sin x of events (n, *E)."""
    flat = x.flatten(1)
    return torch.cat([torch.ones(len(x), 1, dtype=F64), flat.cos(), flat.sin()], 1)


def gaps_to_weighted_draws(p, num=3000):
    """Of batches: E_prior[exp(-C) f] / Z minus the exact sampler's E[f], for the features f."""
    g, rows = generator(f"weighted draws, {p.name}"), []
    cost = sg.costs.as_cost(p.cost)
    for _ in range(BATCHES):
        x = p.prior.sample(num, g)
        w = torch.exp(-cost(x[None])[0] - p.log_z[0])
        rows.append(w @ features(x) / num - features(p.exact(num // 5, g)[0]).mean(0))
    return torch.stack(rows)


def gaps_to_quadrature(p):
    """Of batches: exact f / Z on a fine grid minus the exact sampler's E[f]."""
    log_z, on_grid = problems.quadrature(p.prior, sg.costs.as_cost(p.cost), 5.0, 600)
    g, ratio = generator(f"quadrature, {p.name}"), torch.exp(log_z - p.log_z[0])
    gaps = [
        ratio * features(on_grid(500, g)[0]).mean(0) - features(p.exact(500, g)[0]).mean(0)
        for _ in range(BATCHES)
    ]
    return torch.stack(gaps)


GAPS = {
    "mixture25-d8": gaps_to_weighted_draws,
    "mixture25-d80": lambda p: gaps_to_weighted_draws(p, 500),
    "abs": gaps_to_weighted_draws,
    "tilt-1": gaps_to_weighted_draws,
    "tilt-10": gaps_to_weighted_draws,
    "tilt-100": gaps_to_quadrature,
    "rare": gaps_to_quadrature,
}


# ---- truths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GAPS)
def test_evidence_and_exact_draws(name: str) -> None:
    p = PROBLEMS[name](TINY)[0]
    z_test(GAPS[name](p), 0.0, ceiling=0.05)
    planted = {
        "log Z is off": replace(p, log_z=p.log_z + 0.3),
        "draws of the prior": replace(p, exact=lambda n, g: p.prior.sample(n, g)[None]),
    }
    for wrong in planted.values():
        with pytest.raises(AssertionError):
            z_test(GAPS[name](wrong), 0.0, ceiling=0.05)


@pytest.mark.parametrize("name", ["digits-half", "digits-pooled"])
def test_evidence_and_exact_draws_of_digits(name: str) -> None:
    """Component by component: y | k ~ N(A m_k, h^2 A A' + s^2 I), and the same joint with x."""
    p = PROBLEMS[name](0.1)[0]
    m, h2 = digits_exact.digits()[0].flatten(1), 0.3**2
    A, s = p.cost.matrix((1, 8, 8)), p.cost.std
    law = MultivariateNormal(m @ A.T, h2 * A @ A.T + torch.diag(s**2))
    log_joint = law.log_prob(p.cost.y) - math.log(len(m))  # (I, K)
    torch.testing.assert_close(p.log_z, log_joint.logsumexp(1), rtol=1e-9, atol=1e-9)
    # ridge regression towards each component
    precision = torch.eye(64, dtype=F64) / h2 + A.T @ (A / s[:, None] ** 2)
    pull = (m / h2)[None] + ((p.cost.y / s**2) @ A)
    means = torch.linalg.solve(precision, pull.mT).mT  # (I, K, 64)
    mean = (torch.softmax(log_joint, 1)[..., None] * means).sum(1)
    g = generator(name)
    draws = torch.stack([p.exact(50, g).flatten(2).mean(1) for _ in range(BATCHES)])
    z_test(draws, mean.flatten(), ceiling=0.05)
    with pytest.raises(AssertionError):  # the draws of another digit
        z_test(draws, mean.flip(0).flatten(), ceiling=0.05)


# ---- what is measured ----------------------------------------------------------------------------


def exact_method(p, law):
    """A method that returns draws of a law (n, generator) -> (I, n, *E), without evidence."""

    def run(num_particles, num_systems, seed):
        R, g = num_systems or 1, generator(f"exact method {seed}")
        x = torch.cat([law(num_particles, g) for _ in range(R)])
        return measuring.unweighted(x, len(x) * num_particles * p.num_steps)

    return lambda prior, cost, num_steps: run


@pytest.mark.parametrize("name", ["digits-pooled", "abs"])
def test_exact_draws_score_one_and_have_no_evidence(name: str) -> None:
    ps = PROBLEMS[name](0.1)
    numbers = measuring.measure(ps, exact_method(ps[0], ps[0].exact), 1.0)
    assert 0.7 < numbers["sw"] < 1.4
    assert numbers["N"] == ps[0].num_particles and numbers["budget"] == 1
    assert math.isnan(numbers["bias"]) and math.isnan(numbers["ess"])
    line = figures.table([{"problem": name, "method": "exact", **numbers}]).splitlines()[-1]
    assert line.split(" | ")[2:6] == ["-"] * 4

    def of_prior(n, g):
        return torch.stack([ps[0].prior.sample(n, g) for _ in ps[0].log_z])

    assert measuring.measure(ps, exact_method(ps[0], of_prior), 1.0)["sw"] > 3


def test_statistics() -> None:
    error = torch.tensor([[0.1, 0.3], [1.1, 1.3]], dtype=F64)
    found = measuring.statistics(error)
    assert found["bias"] == pytest.approx(0.7)
    assert found["spread"] == pytest.approx(0.02**0.5)  # differences between systems are not spread
    assert found["bias_se"] == pytest.approx(0.5)
    assert found["ratio"] == pytest.approx(float(error.exp().mean()) - 1)
    assert found["rms"] == pytest.approx(float(error.square().mean()) ** 0.5)
    single = measuring.statistics(error[:1])
    assert single["bias_se"] == pytest.approx(0.1)
    assert single["cv"] == pytest.approx(float(error[0].exp().std() / error[0].exp().mean()))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_runs_and_the_reference_is_the_budget(name: str) -> None:
    numbers = measuring.measure(PROBLEMS[name](TINY), methods.METHODS["Bootstrap"], TINY)
    assert all(math.isfinite(value) for value in numbers.values()), numbers
    assert (numbers["forward"], numbers["backward"], numbers["budget"]) == (1, 0, 1)


@pytest.mark.parametrize("method", ["Gradient, trust 2", "DTM", "DTM, Gauss-Newton", "KrylovLaplace"])
def test_budgets_are_equal(method: str) -> None:
    ps = PROBLEMS["abs"](TINY)
    numbers = measuring.measure(ps, methods.METHODS[method], 1.0)
    assert numbers["N"] < 0.6 * ps[0].num_particles
    assert 0.99 < numbers["budget"] < 1.01


def test_only_invalid_input_is_not_applicable() -> None:
    ps = PROBLEMS["tilt-1"](TINY)
    row = methods.row("tilt-1", "DTM, Gauss-Newton", ps, TINY)
    assert "N" not in row and "least-squares" in row["reason"]
    assert figures.table([row]).splitlines()[-1] == "Does not apply: DTM, Gauss-Newton."

    def broken(prior, cost, num_steps):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        measuring.measure(ps, broken, TINY)


# ---- the page ------------------------------------------------------------------------------------


def test_parts_merge_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    names = ["Bootstrap", "DTM, Gauss-Newton", "default"]
    files = [tmp_path / "rare.json", tmp_path / "tilt.json"]
    for problem, file in zip(["rare", "tilt-1"], files, strict=True):
        sizes = ["--instances", str(TINY), "--scale", str(TINY), "--out", str(file)]
        methods.main(["--problems", problem, "--methods", *names, *sizes])
    assert page.read_text() == PAGE
    assert len(json.loads(files[0].read_text())) == 3
    methods.main(["--merge", *map(str, files), "--docs", str(page)])
    text = page.read_text()
    assert text.startswith("# Page\n\nbefore\n") and text.endswith("\n\nafter\n")
    assert "old" not in text
    assert 0 < text.index("### tilt-1") < text.index("### rare")  # the order of the problems
    for problem in ("rare", "tilt-1"):
        assert f"](images/methods_{problem}.png)" in text
        assert (tmp_path / "images" / f"methods_{problem}.png").stat().st_size > 10_000
    methods.main(["--merge", *map(str, files), "--docs", str(page)])
    assert page.read_text() == text


@pytest.mark.parametrize(
    "page",
    ["no markers", figures.BEGIN, f"{figures.END} {figures.BEGIN}", PAGE + PAGE],
    ids=["none", "one", "reversed", "twice"],
)
def test_pages_without_a_place_are_refused(page: str, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(page)
    with pytest.raises(ValueError, match="once each"):
        figures.insert("text", file)
    assert file.read_text() == page
