"""Moves of parameters: laws that stay, evidence and posterior means that stay unbiased.

Planted bugs are put where they would occur, and the assertion that passes above them must fail.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.distributions import HalfCauchy, LogNormal, Normal, Uniform

import smcguide as sg
from smcguide import parameter_refresh
from smcguide.parameter_moves import HMC, MALA, ParameterMove, RandomWalk
from smcguide.parameters import Independent
from smcguide.potentials import MonteCarlo, Terminal, Tweedie
from smcguide.records import Particles
from smcguide.testing import ParameterMoveSuite, generator, z_test
from smcguide.testing.unknown import BananaLaw, unknown_noise_estimates, unknown_noise_model

LIKE = torch.zeros((), dtype=torch.float64)
ALWAYS = sg.triggers.always()
OFTEN = sg.triggers.ess_below(0.9)
MOVES = [RandomWalk(), MALA(0.8), HMC(0.4, 3)]


@dataclass(frozen=True)
class SmallStep(ParameterMove):
    """The move of the docstring of `parameter_moves.base`, with steps that fit."""

    num_moves: int = 3

    def size(self, n, p):
        return 0.5


class TestRandomWalk(ParameterMoveSuite):
    def instances(self):
        return [RandomWalk()]


class TestMALA(ParameterMoveSuite):
    def instances(self):
        return [MALA(0.8), MALA(0.8, num_moves=3)]


class TestHMC(ParameterMoveSuite):
    def instances(self):
        return [HMC(0.4, 3)]


class TestSmallStep(ParameterMoveSuite):
    def instances(self):
        return [SmallStep()]


# ---- evidence and posterior means, further corners -------------------------------------------------


@pytest.mark.parametrize("potential", [Tweedie(), Terminal()], ids=repr)
@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_evidence_and_means_are_exact_for_many_particles(move, every_step, potential) -> None:
    model = unknown_noise_model(replace(move, every_step=every_step), potential)
    z_test(unknown_noise_estimates(model, OFTEN, 400, 120), 1.0, ceiling=0.06)


@pytest.mark.parametrize(
    "parts",
    [
        {"proposal": sg.proposals.Gradient(trust=2.0), "potential": sg.potentials.KrylovLaplace()},
        {"proposal": sg.proposals.DTM(warm_start=True)},
        {"potential": MonteCarlo(num_draws=8), "chunk_size": 7000},
        {"move": sg.moves.MALA(0.8, num_moves=3)},
        {"move": sg.moves.PCN(0.6, num_moves=3, waste_free=True)},
        {"start": sg.starts.TemperedStart(sg.moves.PCN(0.6, num_moves=2))},
    ],
    ids=lambda parts: " ".join(map(repr, parts.values())),
)
@pytest.mark.parametrize("move", [RandomWalk(), HMC(0.4, 3, every_step=True)], ids=repr)
def test_evidence_and_means_are_exact_beside_other_parts(move, parts) -> None:
    """Cached values, gradients and fields of every kind stay together with theta."""
    parts = {"proposal": sg.proposals.Bootstrap(), "potential": Tweedie()} | parts
    plain = unknown_noise_model(move, Tweedie())
    model = sg.GuidedDiffusion(
        plain.prior, plain.cost, kernel=plain.kernel, times=plain.parts["times"],
        parameter_move=move, **parts,
    )  # fmt: skip
    z_test(unknown_noise_estimates(model, OFTEN, 16, 1000), 1.0, ceiling=0.15)


# ---- who moves, and what it costs ------------------------------------------------------------------


def visited(move, fires, stream="who"):
    law = BananaLaw(move, 1, LIKE)
    x, before = law.population((3, 40), stream)
    silent = torch.full_like(before["log_psi"], torch.nan)
    before = before | {"parameter_acceptance": silent}
    after = parameter_refresh.refresh_parameters(law.model, 1, x, before, fires, generator("visit"))
    moved = (after["theta"] != before["theta"]).any(-1).any(-1)
    return moved.tolist(), after["parameter_acceptance"].isnan().all(-1).tolist()


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_only_systems_just_resampled_move(move) -> None:
    fires = torch.tensor([True, False, True])
    assert visited(move, fires) == ([True, False, True], [False, True, False])
    assert visited(move, ~fires) == ([False, True, False], [True, False, True])
    assert visited(move, torch.zeros(3, dtype=torch.bool)) == ([False] * 3, [True] * 3)
    assert visited(move, None) == ([False] * 3, [True] * 3)


@pytest.mark.parametrize("fires", [None, torch.tensor([True, False, True])])
def test_every_step_moves_every_system(fires) -> None:
    for move in MOVES:
        assert visited(replace(move, every_step=True), fires) == ([True] * 3, [False] * 3)


def test_the_trace_tells_acceptance_where_there_was_a_move() -> None:
    post = sg.run(
        unknown_noise_model(RandomWalk(), Tweedie()), num_particles=50, num_systems=20,
        trigger=sg.triggers.at_steps([1, 3]), progress=False,
    )  # fmt: skip
    rate = post.trace["parameter_acceptance"]
    assert rate.isfinite().tolist() == post.trace["resampled"].tolist()
    assert bool((rate.nan_to_num(0.5) > 0).all() and (rate.nan_to_num(0.5) <= 1).all())


def test_moves_need_no_network_and_their_costs_are_counted() -> None:
    """M candidates of L leapfrog steps, and with a gradient the force at the beginning."""
    N, K = 30, 4
    for move, per_visit in [(RandomWalk(), 8), (MALA(), 2), (HMC(0.1, 3, num_moves=2), 7)]:
        evaluations = {}
        for every_step in (False, True):
            model = unknown_noise_model(replace(move, every_step=every_step), Tweedie())
            post = sg.run(model, num_particles=N, trigger=sg.triggers.never(), progress=False)
            evaluations[every_step] = post.evaluations
        still, moved = evaluations[False], evaluations[True]
        assert moved["network_forward"] == still["network_forward"] == N * K
        assert moved.get("network_backward", 0) == 0
        assert moved["cost"] - still["cost"] == per_visit * N * K, move


@pytest.mark.parametrize("kind", [MALA, HMC])
def test_smaller_steps_are_accepted_more_often(kind) -> None:
    rates = []
    for step in (0.05, 0.5, 1.0):
        law = BananaLaw(kind(step), 1, LIKE)
        after = law.visit(*law.population((1, 4000), "sizes"), generator("sizes"))
        rates.append(float(after["parameter_acceptance"].mean()))
    assert rates[0] > 0.98 and rates[0] > rates[1] > rates[2] > 0


@pytest.mark.parametrize(
    "move", [HMC(1.0, 5), HMC(0.7, 10), MALA(3.0), RandomWalk((20.0, 0.3))], ids=repr
)
def test_paths_that_diverge_are_rejected_and_the_law_stays(move) -> None:
    """The bend makes forces grow without bound, until a scale is 0 or no number."""
    law = BananaLaw(move, 2, LIKE)
    x, fields = law.population((1, 8000), "diverge")
    source, rates = generator("diverging"), []
    for _ in range(20):
        fields = law.visit(x, fields, source)
        rates.append(fields["parameter_acceptance"])
    assert 0.0 < float(torch.stack(rates).mean()) < 0.9
    law.test(fields)


@pytest.mark.parametrize(
    "prior", [LogNormal(-2.0, 2.0), HalfCauchy(1.0), Uniform(0.01, 2.0)], ids=repr
)
def test_no_step_is_too_long_for_a_run(prior) -> None:
    def misfit(x0, sigma):
        return -Normal(x0, sigma[:, None]).log_prob(torch.tensor([0.3, -1.2])).sum(-1)

    cost = sg.costs.ParametricFunction(misfit, {"sigma": prior})
    plain = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)
    for move in (HMC(1.0), HMC(30.0, 2), MALA(10.0), RandomWalk((1e3,))):
        post = sg.sample(
            plain, cost, num_particles=64, num_steps=8, parameter_move=move, progress=False,
            trigger=ALWAYS,
        )  # fmt: skip
        assert bool(post.log_w.isfinite().all() and post.parameters["sigma"].isfinite().all())


def test_the_random_walk_takes_its_sizes_in_turn() -> None:
    sizes = [RandomWalk((1.0, 0.1)).size(n, 4) for n in range(4)]
    assert sizes == pytest.approx([1.2, 0.12, 1.2, 0.12])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomWalk(num_moves=0), "num_moves and num_leapfrog must be at least 1"),
        (lambda: RandomWalk(()), "sizes must be positive numbers"),
        (lambda: RandomWalk((1.0, 0.0)), "sizes must be positive numbers"),
        (lambda: MALA(0.0), "step must be positive"),
        (lambda: MALA(float("nan")), "step must be positive"),
        (lambda: HMC(-1.0), "step must be positive"),
        (lambda: HMC(num_leapfrog=0), "num_moves and num_leapfrog must be at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        make()


def test_sizes_are_in_widths_of_the_prior() -> None:
    """Another unit of the parameters changes nothing."""

    def run(move, unit):
        prior = Normal(torch.zeros(2).double(), unit * torch.tensor([1.0, 2.0]).double())

        def misfit(x0, b):
            return (x0 - b / unit).square().sum(-1)

        plain = unknown_noise_model(move, Tweedie())
        model = sg.GuidedDiffusion(
            plain.prior, sg.costs.ParametricFunction(misfit, {"b": prior}), kernel=plain.kernel,
            times=plain.parts["times"], potential=Tweedie(), proposal=sg.proposals.Bootstrap(),
            parameter_move=move,
        )  # fmt: skip
        post = sg.run(model, num_particles=50, trigger=ALWAYS, progress=False)
        return post.x, post.parameters["b"] / unit, post.trace["parameter_acceptance"]

    for move in MOVES:
        for one, other in zip(run(move, 1.0), run(move, 1000.0), strict=True):
            assert torch.allclose(one, other, rtol=1e-6, equal_nan=True), move


# ---- the force -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "potential",
    [
        Tweedie(),
        MonteCarlo(num_draws=2),
        sg.potentials.Lookahead(),
        sg.potentials.InflatedGaussian(),
        sg.potentials.MomentMatched(),
    ],
    ids=repr,
)
def test_the_force_is_the_derivative_in_widths_of_the_prior(potential) -> None:
    A, y = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([0.4]).double()
    model = unknown_noise_model(MALA(), Tweedie())
    cost = model.cost
    if isinstance(potential, (sg.potentials.InflatedGaussian, sg.potentials.MomentMatched)):
        cost = cost + sg.costs.LinearGaussian(A, y, 0.5)
    model = sg.GuidedDiffusion(
        model.prior, cost, kernel=model.kernel, times=model.parts["times"], potential=potential,
        proposal=sg.proposals.Bootstrap(), parameter_move=MALA(),
    )  # fmt: skip
    first = model.initial((2, 5), generator("force"))

    def value(theta):
        return model.value_of(0, first.x, {**first.carry, "theta": theta})

    target = parameter_refresh.Target(cost.parameters, value, model.pullback)
    theta = first.carry["theta"]
    with torch.no_grad():
        _, log_psi, force = target(theta, True)
        assert torch.allclose(log_psi, first.carry["log_psi"], rtol=1e-12)
        for i, width in enumerate(cost.parameters.scales):
            step = torch.zeros(2).double()
            step[i] = 1e-5 * width
            up, down = (sum(target(theta + sign * step, False)[:2]) for sign in (1, -1))
            slope = (up - down) / 2e-5
            assert torch.allclose(force[..., i], slope, rtol=1e-5, atol=1e-6)


def test_without_a_gradient_there_is_no_force() -> None:
    law = BananaLaw(RandomWalk(), 1, LIKE)
    x, fields = law.population((1, 5), "no force")
    value = lambda theta: law.model.value_of(1, x, {**fields, "theta": theta})  # noqa: E731
    target = parameter_refresh.Target(law.model.cost.parameters, value, law.model.pullback)
    assert not target(fields["theta"], False)[2].any()


# ---- planted bugs ----------------------------------------------------------------------------------


def prior_forgotten(self, theta):
    return 0.0 * theta.sum(-1)


def jacobian_forgotten(self, theta):
    values = self.constrain(theta)
    terms = [prior.log_prob(values[name]) for name, prior in self.priors.items()]
    return sum(term.reshape(len(theta), -1).sum(-1) for term in terms)


def psi_forgotten(target, move, theta, log_psi, z, u, right=parameter_refresh.walk):
    """Accepted by the prior alone; the new value is right."""
    flat = replace(target, value=lambda theta: 0.0 * theta.sum(-1))
    out = right(flat, move, theta, torch.zeros_like(log_psi), z, u)
    return out | {"log_psi": target.value(out["theta"])}


def value_kept(target, move, theta, log_psi, z, u, right=parameter_refresh.walk):
    """The cached value stays that of the old parameters."""
    return right(target, move, theta, log_psi, z, u) | {"log_psi": log_psi}


def kinetic_forgotten(target, move, theta, log_psi, z, u):
    """One leapfrog path, accepted without the momenta."""
    e, scales = move.size(0, theta.shape[-1]), target.parameters.scales
    there, (before, _, force) = theta, target(theta, move.needs_gradient)
    momentum = z[0]
    for _ in range(move.num_leapfrog):
        momentum = momentum + e / 2 * force
        there = there + e * scales * momentum
        there_prior, there_psi, force = target(there, move.needs_gradient)
        momentum = momentum + e / 2 * force
    taken = u[0].log() < there_prior + there_psi - before - log_psi
    return {
        "theta": torch.where(taken[..., None], there, theta),
        "log_psi": torch.where(taken, there_psi, log_psi),
        "parameter_acceptance": taken.double(),
    }


def theta_left_behind(self, ancestors, log_w=None, right=Particles.take):
    """theta is not gathered."""
    taken = right(self, ancestors, log_w)
    return replace(taken, carry={**taken.carry, "theta": self.carry["theta"]})


PRIOR, WALK, TAKE = (Independent, "log_prob"), (parameter_refresh, "walk"), (Particles, "take")
BUGS = {
    prior_forgotten: (PRIOR, MOVES),
    jacobian_forgotten: (PRIOR, MOVES),
    psi_forgotten: (WALK, MOVES),
    value_kept: (WALK, MOVES),
    kinetic_forgotten: (WALK, MOVES[2:]),
    theta_left_behind: (TAKE, MOVES[:2]),
}


def planted(*bugs):
    """Suites for each move that a bug is about, the bug in its place."""
    cases = [(bug, *BUGS[bug][0], move) for bug in bugs for move in BUGS[bug][1]]
    ids = [f"{bug.__name__}-{type(move).__name__}" for bug, _, _, move in cases]

    def decorate(test):
        return pytest.mark.parametrize(("bug", "where", "name", "move"), cases, ids=ids)(test)

    return decorate


def suite_of(move):
    suite = ParameterMoveSuite()
    suite.instances = lambda: [move]
    return suite


@planted(prior_forgotten, jacobian_forgotten, psi_forgotten, kinetic_forgotten)
def test_planted_bug_breaks_the_law(monkeypatch, bug, where, name, move) -> None:
    monkeypatch.setattr(where, name, bug)
    with pytest.raises(AssertionError, match="z_test"):
        suite_of(move).test_the_law_given_the_path_stays(LIKE.device, LIKE.dtype, 2)


@planted(value_kept)
def test_planted_bug_leaves_a_wrong_value(monkeypatch, bug, where, name, move) -> None:
    monkeypatch.setattr(where, name, bug)
    with pytest.raises(AssertionError, match="log_psi after"):
        suite_of(move).test_what_a_visit_leaves_behind_belongs_to_its_parameters(
            LIKE.device, LIKE.dtype
        )


@planted(*BUGS)
def test_planted_bug_shows_in_evidence_or_means(monkeypatch, bug, where, name, move) -> None:
    monkeypatch.setattr(where, name, bug)
    with pytest.raises(AssertionError, match="z_test"):
        suite_of(move).test_evidence_and_posterior_means_are_unbiased(
            LIKE.device, LIKE.dtype, Tweedie(), "resampled"
        )


@dataclass(frozen=True)
class Restless(RandomWalk):
    """Says another size every time it is asked, and one of them is 0."""

    def size(self, n, p):
        return max(0.0, torch.randn((), generator=SOURCE).item())


SOURCE = generator("restless")


@pytest.mark.parametrize(
    ("move", "message"),
    [(RandomWalk((1e-3,)), "hardly moves"), (RandomWalk((50.0,), num_moves=1), "accepts")],
)
def test_a_move_that_does_not_move_fails_the_suite(move, message) -> None:
    with pytest.raises(AssertionError, match=message):
        suite_of(move).test_the_law_given_the_path_stays(LIKE.device, LIKE.dtype, 2)


def test_sizes_by_chance_fail_the_suite() -> None:
    with pytest.raises(AssertionError, match="sizes"):
        suite_of(Restless()).test_sizes_are_positive_numbers()
