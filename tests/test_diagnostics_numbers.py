"""Diagnostic numbers against ArviZ, scipy, brute force and identities."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

import smcguide as sg
from smcguide import evidence
from smcguide.diagnostics.agreement import rank_r_hat
from smcguide.errors import InvalidInput
from smcguide.testing import generator

F64 = torch.float64
MIXTURE = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=F64), scale=0.5
)
A = torch.tensor([[1.0, 0.5]], dtype=F64)
COST = sg.costs.LinearGaussian(A, torch.tensor([0.5], dtype=F64), 0.3)
BOTH = sg.costs.LinearGaussian(A, torch.tensor([[0.5], [1.0]], dtype=F64), 0.3, batched=True)


def run(cost=COST, num_particles=64, num_steps=8, **kwargs):
    return sg.sample(
        MIXTURE, cost, num_particles=num_particles, num_steps=num_steps, progress=False, **kwargs
    )


def arviz_function(name):
    arviz = pytest.importorskip("arviz")
    if not arviz.__version__.startswith("0."):
        pytest.skip("ArviZ 1.x computes these numbers on its own containers")
    return getattr(arviz, name)


# ---- tails ---------------------------------------------------------------------------------------


def weight_sets():
    rng = np.random.default_rng(3)
    half_dead = np.where(rng.uniform(size=300) < 0.5, -np.inf, rng.normal(size=300))
    return {
        "light": rng.normal(size=500),
        "wide": 3 * rng.normal(size=512),
        "pareto, k = 0.4": 0.4 * rng.exponential(size=1000),
        "pareto, k = 1.5": 1.5 * rng.exponential(size=1000),
        "bounded": np.log(rng.uniform(size=400)),
        "square of a student": np.log(rng.standard_t(1.2, size=2000) ** 2),
        "collapsed": 300 * rng.normal(size=300),
        "far from zero": rng.normal(size=300) - 1e5,
        "half dead": half_dead,
        "ties": np.repeat(rng.normal(size=100), 4),
        "few": rng.normal(size=25),
        "too few": rng.normal(size=20),
        "all but two dead": np.where(np.arange(300) < 2, 0.0, -np.inf),
    }


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", weight_sets())
def test_k_hat_is_that_of_arviz(name):
    log_w = weight_sets()[name]
    expected = float(arviz_function("psislw")(log_w.copy())[1])
    found = float(sg.diagnostics.pareto_k(torch.tensor(log_w)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_k_hat_finds_the_shape_of_a_pareto_law():
    """The shrinkage of the fit is 10 in 10 + M with M = 424."""
    u = torch.rand(8, 20_000, generator=generator("pareto"), dtype=F64)
    for k in (0.2, 0.6, 1.2):
        found = sg.diagnostics.pareto_k(-k * u.log())
        assert found.shape == (8,)
        shrunk = (424 * k + 5) / 434
        assert abs(float(found.mean()) - shrunk) < 5 * (1 + k) / math.sqrt(8 * 424)


def test_equal_weights_have_no_tail():
    log_w = torch.full((2, 100), -3.0, dtype=F64)
    log_w[1] += 1e-13 * torch.arange(100)
    assert sg.diagnostics.pareto_k(log_w).tolist() == [-math.inf, -math.inf]


def test_perplexity_and_largest_weight_are_those_of_the_definition():
    W = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=F64)
    found = sg.diagnostics.perplexity(W.log() + 7)
    assert found.tolist() == pytest.approx([math.exp(1.5 * math.log(2)) / 4, 1.0])
    assert sg.diagnostics.largest_weight(W.log() - 9).tolist() == pytest.approx([0.5, 0.25])
    assert sg.diagnostics.perplexity(W[0].log()).shape == ()


# ---- ancestry ------------------------------------------------------------------------------------


def with_tree(rows, N):
    """A posterior of one system whose generations 1, 2, ... have the parents `rows`."""
    ancestors = torch.tensor([[list(range(N)), *rows]])
    return dataclasses.replace(run(num_particles=N), recorded={"ancestors": ancestors})


def brute_force(ancestors):
    """(steps back to one ancestor, ancestors in each generation) of (K + 1, N) parents."""
    K, N = len(ancestors) - 1, len(ancestors[0])
    sets = [set(range(N))]
    for k in range(K, 0, -1):
        sets.append({int(ancestors[k][i]) for i in sets[-1]})
    alone = [back for back, members in enumerate(sets) if len(members) == 1]
    return (alone[0] if alone else math.inf), [len(members) for members in sets[::-1]]


@pytest.mark.parametrize(
    ("rows", "back"),
    [
        ([[0, 1, 2], [0, 1, 2]], math.inf),
        ([[0, 0, 0], [0, 1, 2]], 2),
        ([[0, 1, 2], [1, 1, 1]], 1),
        ([[2, 1, 2], [0, 0, 2], [0, 2, 2]], 3),
        ([[0, 0, 0], [2, 2, 2], [0, 1, 2]], 2),
        ([[0, 0, 1], [0, 0, 2], [0, 1, 2]], math.inf),
    ],
)
def test_coalescence_of_small_trees(rows, back):
    post = with_tree(rows, 3)
    assert float(sg.diagnostics.coalescence_time(post)) == back
    expected = brute_force([[0, 1, 2], *rows])
    assert (back, sg.diagnostics.lineages(post).tolist()) == expected


def test_coalescence_of_a_run_is_that_of_brute_force():
    post = run(
        num_particles=6, num_systems=5, num_steps=12, record=("ancestors",),
        trigger=sg.triggers.always(), resampler=sg.resamplers.Multinomial(),
    )  # fmt: skip
    found, lines = sg.diagnostics.coalescence_time(post), sg.diagnostics.lineages(post)
    for s in range(5):
        expected = brute_force(post.recorded["ancestors"][s])
        assert (float(found[s]), lines[s].tolist()) == expected
    assert torch.equal(lines[:, 0], post.trace["unique_eves"][:, -1])
    parents = sg.diagnostics.unique_ancestors(post)
    assert torch.equal(parents, post.trace["unique_ancestors"]) and int(parents.min()) < 6


def test_the_tree_must_have_been_recorded():
    with pytest.raises(InvalidInput, match=r'record=\("ancestors",\)'):
        sg.diagnostics.coalescence_time(run())


# ---- control -------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", [sg.proposals.Bootstrap(), sg.proposals.Gradient(trust=2.0)])
def test_bound_path_kl_and_cost_add_up(proposal):
    post = run(proposal=proposal, trigger=sg.triggers.never(), num_systems=3)
    mean_cost = COST(post.x).mean(1)
    paid = sg.diagnostics.path_kl(post)
    assert (float(paid.min()) > 0) == (proposal != sg.proposals.Bootstrap())
    torch.testing.assert_close(
        sg.diagnostics.bound_gap(post), post.log_z + mean_cost + paid, rtol=0, atol=1e-9
    )


def test_a_resampled_run_has_no_gap_and_other_models_no_path_kl():
    assert bool(sg.diagnostics.bound_gap(run(trigger=sg.triggers.always())).isnan())
    post = run()
    bare = {name: a for name, a in post.trace.items() if name != "path_kl"}
    with pytest.raises(InvalidInput, match="GuidedDiffusion"):
        sg.diagnostics.path_kl(dataclasses.replace(post, trace=bare))


# ---- agreement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 100), (2, 7), (3, 501), (8, 4)])
@pytest.mark.parametrize("kind", ["apart", "wider", "ties"])
def test_r_hat_is_that_of_arviz(shape, kind):
    draws = torch.randn(*shape, 2, generator=generator(f"r-hat {shape}"), dtype=F64)
    if kind == "apart":
        draws[0] += 1
    if kind == "wider":
        draws[0] *= 3
    if kind == "ties":
        draws = draws.round()
    r_hat = arviz_function("rhat")
    expected = [float(r_hat(draws[..., i].numpy())) for i in range(2)]
    assert rank_r_hat(draws).tolist() == pytest.approx(expected, rel=1e-9)


def test_r_hat_of_a_posterior_is_that_of_its_draws():
    post = run(num_systems=3, num_particles=40)
    found = sg.diagnostics.r_hat(post, lambda x: x[:, :1] ** 2)
    draws = post.draws(40)
    torch.testing.assert_close(found, rank_r_hat(draws[..., :1] ** 2), rtol=0, atol=0)
    assert sg.diagnostics.r_hat(post).shape == (2,)
    assert bool(sg.diagnostics.r_hat(post, lambda x: x * 0).isnan().all())
    assert bool(sg.diagnostics.r_hat(post, lambda x: x / 0).isnan().all())


@pytest.mark.parametrize("what", [sg.diagnostics.r_hat, sg.diagnostics.log_z_spread])
def test_only_replicates_are_compared(what):
    with pytest.raises(InvalidInput, match="num_systems=4"):
        what(run())
    with pytest.raises(InvalidInput, match="from before"):
        what(run(num_systems=3).pooled())
    with pytest.raises(InvalidInput, match="different observations"):
        what(run(BOTH))


def test_r_hat_wants_four_draws():
    with pytest.raises(InvalidInput, match="at least 4"):
        sg.diagnostics.r_hat(run(num_systems=2), num_draws=3)


def test_log_z_spread_is_a_chi_squared_test():
    post = run(num_systems=6, num_particles=32)
    own = [
        float(dataclasses.replace(post, are_replicates=False).log_evidence_se[s]) for s in range(6)
    ]
    found = sg.diagnostics.log_z_spread(post)
    assert found.spread == pytest.approx(float(post.log_z.std()))
    assert found.claimed == pytest.approx(sorted(own)[2])
    ratio = 5 * (found.spread / found.claimed) ** 2
    assert found.p_value == pytest.approx(float(stats.chi2.sf(ratio, 5)), rel=1e-6)


def test_errors_that_nobody_claims_are_not_judged():
    post = run(num_systems=3)
    silent = dataclasses.replace(post, eves=torch.zeros_like(post.eves))
    assert math.isnan(sg.diagnostics.log_z_spread(silent).p_value)


def test_the_evidence_error_names_its_estimator_and_says_why():
    multinomial = {"resampler": sg.resamplers.Multinomial()}
    cases = {
        evidence.REPLICATES: run(num_systems=3),
        evidence.POOL: run(num_systems=3).pooled(),
        evidence.LEE_WHITELEY: run(**multinomial),
        evidence.GENEALOGY: run(),
        evidence.WITHHELD: run().unweighted(),
    }
    said = set()
    for method, post in cases.items():
        error = sg.diagnostics.evidence_error(post)
        assert error.method == method and error.why
        torch.testing.assert_close(error.error, post.log_evidence_se, equal_nan=True)
        torch.testing.assert_close(error.log_evidence, post.log_evidence, equal_nan=True)
        torch.testing.assert_close(error.bound, post.dtm_bound, equal_nan=True)
        said.add(error.why)
    assert len(said) == len(cases)


# ---- what is refused -----------------------------------------------------------------------------


def test_weights_that_are_no_numbers_have_no_tail_shape():
    log_w = torch.zeros(3, 40, dtype=F64)
    log_w[0], log_w[1, 3] = math.nan, math.nan
    assert sg.diagnostics.pareto_k(log_w).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["largest_weight", "perplexity", "pareto_k"])
def test_numbers_about_weights_ask_for_weights(name):
    for wrong in (run(num_steps=2), [0.0, 1.0], torch.tensor(0.0)):
        with pytest.raises(InvalidInput, match=f"{name}: expected a tensor of log-weights"):
            getattr(sg.diagnostics, name)(wrong)


@pytest.mark.parametrize("name", ["r_hat", "log_z_spread", "evidence_error", "verdict"])
def test_chains_are_not_judged_as_populations(name):
    chains = object.__new__(sg.chains.Chains)
    with pytest.raises(InvalidInput, match=f"{name}: expected a Posterior, got Chains"):
        getattr(sg.diagnostics, name)(chains)


def test_half_a_draw_is_refused():
    with pytest.raises(InvalidInput, match=r"r_hat: num_draws must be a whole number .* got 4.5"):
        sg.diagnostics.r_hat(run(num_systems=2, num_steps=2), num_draws=4.5)
