"""Candidates per particle and budgeted search: exact with their weight, labelled without."""

import math

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, STD, TIMES, A, Y, build, oracle

import smcguide as sg
from smcguide.testing import z_test

F64 = torch.float64
P, Q = sg.proposals, sg.potentials
POTENTIALS = {"inflated": Q.InflatedGaussian(), "terminal": Q.Terminal()}


def reward(strength=1.0):
    """Costs of a black box: a staircase in the first coordinate."""
    return lambda x: strength * (2.0 - torch.floor(x[:, 0])).abs()


def chain(cost, potential, steps=20, proposal=None, schedule=None):
    prior = PRIOR if schedule is None else sg.priors.GaussianMixture(
        torch.ones(1), MEAN[None], COV, schedule=schedule
    )  # fmt: skip
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=sg.grids.karras(steps), potential=potential,
        proposal=proposal or P.Bootstrap(),
    )  # fmt: skip


def mean_cost(post, cost):
    return float(cost(post.x.flatten(0, 1)).mean())


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize(("num", "block"), [(1, 1), (4, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize("proposal", [P.Bootstrap(), P.Gradient()], ids=repr)
def test_weighted_candidates_are_exact_A14_A16_A19(num, block, proposal, potential) -> None:
    model = sg.Candidates(build(proposal, POTENTIALS[potential]), num, block)
    post = sg.run(model, num_systems=400, num_particles=16, progress=False)
    z, posterior = oracle(model.model), oracle(model.model).posterior(A, Y, STD)
    ratio = torch.exp(post.log_evidence - z.log_evidence(A, Y, STD))
    z_test(ratio, 1.0, ceiling=0.05)
    z_test(ratio[:, None] * post.mean(), posterior.mean, ceiling=0.1)
    assert post.exactness == "exact"


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_any_temperature_of_the_choice_is_exact_with_its_weight(temperature) -> None:
    model = sg.Candidates(build(), 4, temperature=temperature)
    post = sg.run(model, num_systems=400, num_particles=16, progress=False)
    truth = oracle(model.model).log_evidence(A, Y, STD)
    z_test(torch.exp(post.log_evidence - truth), 1.0, ceiling=0.05)


def test_large_population_of_candidates_is_exact() -> None:
    model = sg.Candidates(build(P.Gradient()), 4)
    post = sg.run(model, num_systems=100, num_particles=400, progress=False)
    truth = oracle(model.model).log_evidence(A, Y, STD)
    z_test(torch.exp(post.log_evidence - truth), 1.0, ceiling=0.03)


class WeighsLikeTheOnlyOne(sg.Candidates):
    """Planted: the best candidate's weight instead of the mean weight."""

    def _choose(self, x, wide, log_g, generator):
        moved = super()._choose(x, wide, log_g, generator)
        return sg.Propagated(moved.x, log_g.max(-1).values, moved.carry)


class DropsTheWeight(sg.Candidates):
    def _choose(self, x, wide, log_g, generator):
        moved = super()._choose(x, wide, log_g, generator)
        return sg.Propagated(moved.x, torch.zeros_like(moved.log_g), moved.carry)


class KeepsTheWrongCache(sg.Candidates):
    """Planted: the state of the chosen candidate with what the first one carried."""

    def _choose(self, x, wide, log_g, generator):
        moved = super()._choose(x, wide, log_g, generator)
        n = log_g.shape[-1]
        return sg.Propagated(moved.x, moved.log_g, {k: a[:, ::n] for k, a in wide.items()})


def unbiased_and_steady(kind) -> None:
    """Sixteen candidates, Z_hat / Z: the ceiling is where a wrong cache shows (T4)."""
    model = kind(build(), 16)
    post = sg.run(model, num_systems=400, num_particles=16, progress=False)
    ratio = torch.exp(post.log_evidence - oracle(model.model).log_evidence(A, Y, STD))
    z_test(ratio, 1.0, ceiling=0.0075)


def test_the_assertion_passes_without_a_mistake() -> None:
    unbiased_and_steady(sg.Candidates)


@pytest.mark.parametrize("bug", [WeighsLikeTheOnlyOne, DropsTheWeight, KeepsTheWrongCache])
def test_planted_bug_is_caught_T6(bug) -> None:
    with pytest.raises(AssertionError):
        unbiased_and_steady(bug)


def test_candidates_lower_the_variance_per_particle_not_per_evaluation() -> None:
    """Which is why they are no default: n candidates against n times the particles."""
    spread = {}
    for name, model, N in [
        ("few", build(), 16), ("candidates", sg.Candidates(build(), 4), 16), ("many", build(), 64)
    ]:  # fmt: skip
        post = sg.run(model, num_systems=400, num_particles=N, progress=False)
        spread[name] = float(post.log_evidence.std())
    assert spread["many"] < spread["few"]
    assert spread["candidates"] < spread["few"]
    assert spread["many"] < 1.05 * spread["candidates"]


@pytest.mark.parametrize(("rule", "label"), [("argmax", "search"), ("softmax", "biased")])
def test_unweighted_rules_are_labelled_and_have_no_evidence_A16_A19(rule, label) -> None:
    model = sg.Candidates(chain(reward(), Q.Tweedie(1.0)), 4, rule=rule, weighted=False)
    post = sg.run(model, num_particles=8, trigger=sg.triggers.never(), progress=False)
    assert post.exactness == label
    assert math.isnan(post.log_evidence)
    assert float(post.ess) == pytest.approx(8)
    assert f"exactness: {label}" in post.summary()


def test_mean_reward_rises_with_the_number_of_candidates_A16() -> None:
    costs = []
    for num in (1, 2, 4, 16):
        model = sg.Candidates(chain(reward(), Q.Tweedie(1.0)), num, rule="argmax")
        post = sg.run(model, num_particles=400, trigger=sg.triggers.never(), progress=False)
        costs.append(mean_cost(post, reward()))
    assert costs[0] > 1.3 * costs[1] > 1.3**2 * costs[2] > 1.3**2 * costs[3]


def test_step_function_rule_is_met_by_search_A19() -> None:
    """SCG: a rule without gradient, met by 95 % of the results where the prior meets it rarely."""

    def rule(x):
        return (x[:, 0] < 1.5).double() + (x[:, 1] < -0.5).double()

    base, met = chain(rule, Q.Tweedie(1.0)), []
    for num in (1, 4, 16, 64):
        model = sg.Candidates(base, num, rule="argmax")
        post = sg.run(model, num_particles=400, trigger=sg.triggers.never(), progress=False)
        met.append(float((rule(post.particles) == 0).double().mean()))
    assert met[0] < 0.15 < 0.4 < met[1] < 0.7 < met[2] < 0.85 < met[3]


def test_block_length_runs_from_greedy_to_best_of_n_A14() -> None:
    """B = K is best-of-n exactly: the best of n independent runs. Shorter blocks choose more often, find
    lower costs, and pay more KL."""
    base = chain(reward(), Q.Tweedie(1.0))
    costs, bounds = {}, {}
    for block in (1, 5, 20):
        model = sg.Candidates(base, 4, block, rule="argmax")
        post = sg.run(model, num_particles=1000, trigger=sg.triggers.never(), progress=False)
        costs[block], bounds[block] = mean_cost(post, reward()), model.kl_bound
    assert costs[1] < costs[5] < costs[20]
    assert bounds[1] > bounds[5] > bounds[20] == pytest.approx(math.log(4) - 3 / 4)
    plain = sg.run(base, num_particles=4000, trigger=sg.triggers.never(), seed=7, progress=False)
    best = reward()(plain.particles).reshape(1000, 4).min(1).values
    z_test(best - costs[20], 0.0, ceiling=0.1)


def test_evaluations_are_n_per_particle_and_step() -> None:
    model = sg.Candidates(build(), 3)
    post = sg.run(model, num_particles=10, progress=False)
    assert post.evaluations["network_forward"] == 3 * 10 * (len(TIMES) - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "argmax", "weighted": True}, "no log Z exists"),
        ({"num": 0}, "at least 1"),
        ({"block": 0}, "at least 1"),
        ({"temperature": 0.0}, "positive"),
        ({"rule": "best"}, "'softmax' or 'argmax'"),
    ],
)
def test_bad_candidates_are_refused(arguments, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        sg.Candidates(build(), **arguments)


class Hooks(sg.FeynmanKac):
    """A model with moves of its own."""

    num_steps, event_shape = 2, (1,)

    def initial(self, shape, generator):
        x = torch.zeros(*shape, 1, dtype=F64)
        return sg.Propagated(x, x[..., 0])

    def step(self, k, x, carry, generator):
        return sg.Propagated(x, x[..., 0])

    def refresh(self, k, x, carry, fires, generator):
        return x + 1, carry


MORE = {
    "moves": (build(move=sg.moves.PCN()), "move=PCN"),
    "a start": (build(start=sg.starts.TemperedStart(sg.moves.PCN())), "start=TemperedStart"),
    "its own hooks": (Hooks(), "its `refresh`"),
    "candidates": (sg.Candidates(build(), 2), "larger num instead of nesting"),
}


@pytest.mark.parametrize("case", MORE)
def test_a_model_that_does_more_than_propagate_is_refused(case) -> None:
    model, message = MORE[case]
    with pytest.raises(sg.InvalidInput, match=message):
        sg.Candidates(model, 2)


def test_what_is_no_model_is_refused_with_the_way_to_wrap() -> None:
    with pytest.raises(sg.InvalidInput, match=r"functools\.partial\(sg\.Candidates, num=4\)"):
        sg.Candidates(4)


def test_paths_of_candidates_are_refused_before_the_network() -> None:
    model = sg.Candidates(build(), 2)
    before = dict(model.evaluations)
    with pytest.raises(sg.InvalidInput, match="has no paths"):
        sg.run(model, num_particles=4, record=("paths",), progress=False)
    assert dict(model.evaluations) == before


# ---- rollover budget forcing ----------------------------------------------------------------------


class Counting(sg.priors.GaussianMixture):
    """Counts how many states the network really saw."""

    seen = 0

    def denoise(self, x, t):
        self.seen += len(x)
        return super().denoise(x, t)


@pytest.mark.parametrize("budget", [30, 64, 137])
def test_the_budget_is_never_exceeded_A17(budget) -> None:
    prior = Counting(torch.ones(1), MEAN[None], COV)
    model = sg.GuidedDiffusion(
        prior, reward(), kernel=sg.kernels.DDPM(), times=sg.grids.karras(20),
        potential=Q.Tweedie(1.0), proposal=P.Bootstrap(),
    )  # fmt: skip
    post = sg.rollover(model, budget=budget, num_chains=5, num_initial=4, progress=False)
    assert prior.seen == post.evaluations["network_forward"] <= 5 * budget
    assert post.exactness == "search" and math.isnan(post.log_evidence)
    assert post.particles.shape == (5, 2)


@pytest.mark.parametrize("schedule", ["flow", "vp"])
def test_rollover_beats_the_fixed_allocation_A17(schedule) -> None:
    """On a flow prior run as an SDE with the same marginals (DDIM(1) on its schedule), and converted to
    VP: lower cost within the same budget."""
    noise = sg.schedules.RectifiedFlow() if schedule == "flow" else sg.schedules.VP()

    prior = sg.priors.GaussianMixture(
        torch.ones(1), torch.zeros(1, 8, dtype=F64), scale=1.0, schedule=noise
    )

    def distance(x):
        return (x - 1.5).square().sum(1)

    costs, spent = {}, {}
    for rolls in (True, False):
        model = sg.GuidedDiffusion(
            prior, distance, kernel=sg.kernels.DDPM(), times=sg.grids.karras(10),
            potential=Q.Tweedie(1.0), proposal=P.Bootstrap(),
        )  # fmt: skip
        post = sg.rollover(
            model, budget=40, num_chains=8000, num_initial=10, rolls_over=rolls, progress=False
        )
        costs[rolls], spent[rolls] = distance(post.particles), post.evaluations["network_forward"]
    assert spent[False] <= spent[True] <= 8000 * 40
    gain = costs[False].mean() - costs[True].mean()
    se = (costs[False].var() / 8000 + costs[True].var() / 8000).sqrt()
    assert gain > 4 * se, f"{schedule}: {costs[False].mean():.3f} -> {costs[True].mean():.3f}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"budget": 10}, "cannot pay"), ({"budget": 100, "num_initial": 0}, "at least 1")],
)
def test_bad_budgets_are_refused(arguments, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        sg.rollover(chain(reward(), Q.Tweedie(1.0)), **arguments)


def test_rollover_refuses_a_guided_proposal() -> None:
    model = chain(lambda x: x.square().sum(1), Q.Tweedie(1.0), proposal=P.Gradient())
    with pytest.raises(sg.InvalidInput, match=r"needs proposals\.Bootstrap"):
        sg.rollover(model, budget=100)


@pytest.mark.parametrize("extra", [
    {"move": sg.moves.PCN()},
    {"start": sg.starts.TemperedStart(sg.moves.PCN())},
    {"potential": Q.Tempered(Q.Tweedie(1.0), Q.Adaptive(0.9))},
])  # fmt: skip
def test_rollover_refuses_what_it_would_ignore(extra) -> None:
    with pytest.raises(sg.InvalidInput, match="only propagates"):
        sg.rollover(build(**extra), budget=100)


def test_rollover_refuses_values_that_call_the_network_again() -> None:
    with pytest.raises(sg.InvalidInput, match="more than once per value"):
        sg.rollover(build(potential=Q.Lookahead(3)), budget=100, progress=False)


def test_the_budget_pays_for_steps_without_noise_too_A17() -> None:
    model = build(potential=Q.Tweedie(1.0), kernel=sg.kernels.DDIM(0.6))
    post = sg.rollover(model, budget=9, num_chains=3, num_initial=2, progress=False)
    assert post.evaluations["network_forward"] <= 27
    flat = build(potential=Q.Tweedie(1.0), kernel=sg.kernels.DDIM(0.0))
    with pytest.raises(sg.InvalidInput, match="cannot pay"):
        sg.rollover(flat, budget=100)
