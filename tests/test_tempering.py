"""Tempered potentials: given strengths, strengths chosen by the conditional ESS, frozen schedules."""

import math
from dataclasses import dataclass

import pytest
import torch

import smcguide as sg
from smcguide import tempering, weights
from smcguide.errors import InvalidInput
from smcguide.freezing import Recorded, freeze
from smcguide.moves import PCN, PCNL
from smcguide.potentials import (
    Adaptive,
    FKSteering,
    InflatedGaussian,
    Potential,
    SignalFraction,
    Tempered,
    Terminal,
    Tweedie,
)
from smcguide.testing import PotentialSuite, generator, seed, z_test
from smcguide.testing.quadrature import line_answer

F64 = torch.float64
PRIOR = sg.priors.GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[-1.5], [0.4], [1.8]], dtype=F64), scale=0.35
)
RATIOS = torch.logspace(1.3, -1.3, 16, dtype=F64)
TIMES = torch.cat([PRIOR.schedule.time(-2 * RATIOS.log()), torch.zeros(1, dtype=F64)])
RHO = 0.9


def cost(x):
    return 8 * (x[:, 0] - 1.5) ** 2


def build(potential, kind=sg.GuidedDiffusion, **parts):
    given = {
        "kernel": sg.kernels.DDPM(), "times": TIMES, "proposal": sg.proposals.Bootstrap()
    }  # fmt: skip
    return kind(PRIOR, cost, potential=potential, **given | parts)


ADAPTIVE = Tempered(Tweedie(1.0), Adaptive(RHO))


@pytest.fixture(scope="module")
def truth():
    model = build(Terminal())
    return line_answer(PRIOR, model.kernel, model.levels, model.cost)


def estimates(model, truth, num_particles=64, num_systems=1000, **settings):
    """Z_hat / Z and times the mean, their expectations, and the run."""
    post = sg.run(
        model, num_particles=num_particles, num_systems=num_systems, progress=False,
        **{"seed": seed("tempering"), "trigger": sg.triggers.ess_below(0.7)} | settings,
    )  # fmt: skip
    ratio = torch.exp(post.log_evidence - truth[0])[:, None]
    goal = torch.cat([torch.ones(1, dtype=F64), truth[1][:1]])
    return torch.cat([ratio, ratio * post.mean()], 1), goal, post


# ---- given strengths --------------------------------------------------------------------------------


class TestTempered(PotentialSuite):
    def instances(self):
        def rising(t):
            return 1 / (1 + t.ratio)

        return [Tempered(InflatedGaussian(), rising), ADAPTIVE, Tempered(Tweedie(1.0), 1)]


class TestHalfStrength(PotentialSuite):
    tends_to_cost = False

    def instances(self):
        return [Tempered(InflatedGaussian(), 0.5), Tempered(FKSteering("sum", 1, 0), 0.5)]


@pytest.mark.parametrize("strength", [0.3, lambda t: t.alpha])
@pytest.mark.parametrize("inner", [InflatedGaussian(), FKSteering("max", 2, 2)], ids=repr)
def test_a_power_of_any_potential_is_exact(inner, strength, truth):
    if isinstance(inner, InflatedGaussian):  # the same cost, as a likelihood
        likelihood = sg.costs.LinearGaussian(
            torch.eye(1, dtype=F64), torch.tensor([1.5], dtype=F64), 0.25
        )
        model = sg.GuidedDiffusion(
            PRIOR, likelihood, kernel=sg.kernels.DDPM(), times=TIMES,
            potential=Tempered(inner, strength), proposal=sg.proposals.Gradient(trust=1.0),
        )  # fmt: skip
        truth = (truth[0] - math.log(0.25 * math.sqrt(2 * math.pi)), truth[1])
    else:
        weak = 0.02 if strength == 0.3 else lambda t: 0.03 * t.alpha
        model = build(Tempered(inner, weak))
    assert model.exactness == "exact"
    z_test(*estimates(model, truth)[:2], ceiling=0.05)


def test_strength_one_and_tweedie_s_own():
    """Tweedie with a schedule is Tempered Tweedie."""
    runs = [
        sg.run(build(potential), num_particles=32, progress=False)
        for potential in (Tweedie(), Tempered(Tweedie(1.0), SignalFraction()))
    ]
    torch.testing.assert_close(runs[0].log_weights, runs[1].log_weights)


@dataclass(frozen=True)
class Demanding(Potential):
    """Asks for everything."""

    needs_rehearsal = True
    needs_jacobian = True
    has_gradient = False
    is_markov = False
    num_draws = 2
    uses_cost = 3
    needs_cost_gradient = True
    exactness = "biased"

    def log_value(self, look):
        return look.noise.flatten(2).mean(-1).double()


def test_what_the_inner_potential_asks_for_is_forwarded():
    tempered, inner = Tempered(Demanding(), 0.5), Demanding()
    names = ("needs_rehearsal", "needs_jacobian", "has_gradient", "is_markov", "num_draws")
    names = (*names, "uses_cost", "needs_cost_gradient")
    for name in (*names, "exactness"):
        assert getattr(tempered, name) == getattr(inner, name), name
    public = {n for n in vars(Potential) if n[0] != "_" and not callable(getattr(Potential, n))}
    assert public <= {*names, "cost", "adaptive_cess"}, "a new one: is it forwarded?"
    model = build(tempered)
    look = model.look_at(1, randn(1, 3, 1), {"psi_noise": randn(1, 3, 2, 1)})
    half = look.log_psi
    look = model.look_at(1, randn(1, 3, 1), {"psi_noise": randn(1, 3, 2, 1)}, model.potential.inner)
    torch.testing.assert_close(2 * half, look.log_psi)


def randn(*shape):
    return torch.randn(shape, generator=generator("x"), dtype=F64)


# ---- chosen strengths -------------------------------------------------------------------------------


class Watched(sg.GuidedDiffusion):
    """Keeps, of every step, the conditional ESS as a fraction for a range of strengths."""

    def adapt(self, k, log_w, moved):
        out, N = super().adapt(k, log_w, moved), log_w.shape[1]
        strength, value = out.carry["strength"][:, 0], moved.carry["log_psi"]
        grid = torch.cat(
            [torch.linspace(0, 1, 201, dtype=F64), torch.logspace(-4, 0, 201, dtype=F64)]
        )
        every = [weights.cess(log_w, moved.log_g + (a - 1) * value) / N for a in grid]
        larger = torch.where(grid[:, None] > strength + 1e-6, torch.stack(every), 0.0).amax(0)
        row = torch.stack([strength, weights.cess(log_w, out.log_g) / N, larger, max_of(every)])
        self.seen = [*getattr(self, "seen", []), row]
        return out


def max_of(rows):
    return torch.stack(rows).amax(0)


@pytest.mark.parametrize(
    "proposal", [sg.proposals.Bootstrap(), sg.proposals.Gradient(trust=1.0)], ids=repr
)
@pytest.mark.parametrize("trigger", [sg.triggers.ess_below(0.7), sg.triggers.always()], ids=repr)
def test_the_conditional_ess_is_at_its_goal(trigger, proposal):
    """At rho N where the strength is below 1, and then no larger strength would do; where no strength
    reaches rho N, at the best of them."""
    model = build(ADAPTIVE, Watched, proposal=proposal)
    post = sg.run(model, num_particles=128, num_systems=20, trigger=trigger, progress=False)
    strength, cess, larger, best = torch.stack(model.seen, 2)[..., :-1]
    torch.testing.assert_close(strength, post.trace["strength"][:, :-1])
    assert bool((post.trace["strength"][:, -1] == 1).all())
    reached, one = cess >= RHO - 1e-6, strength == 1
    assert bool(((cess - RHO).abs() < 1e-6)[reached & ~one].all())
    assert bool((larger < RHO)[reached & ~one].all())
    assert bool((best < RHO)[~reached].all())
    if not proposal.is_guided:  # else there may be several hills
        assert bool((cess > best - 1e-3)[~reached].all())
        assert float((reached & ~one).double().mean()) > 0.6, "not in the corner"


def test_strengths_rise_to_one_as_the_noise_falls():
    strength = sg.run(build(ADAPTIVE), num_particles=512, progress=False).trace["strength"][0]
    assert bool((strength[6:].diff() > 0).all())
    assert float(strength[6]) < 0.05
    assert float(strength[-2]) > 0.7
    assert float(strength[-1]) == 1


def test_each_system_chooses_for_itself():
    """Two observations, one far out: its strengths are lower. Alone or together is the same."""
    y = torch.tensor([[-1.4], [4.0]], dtype=F64)
    both = sg.costs.LinearGaussian(torch.eye(1, dtype=F64), y, 0.3, batched=True)
    parts = {"kernel": sg.kernels.DDPM(), "times": TIMES, "proposal": sg.proposals.Bootstrap()}
    model = sg.GuidedDiffusion(PRIOR, both, potential=ADAPTIVE, **parts)
    strength = sg.run(model, num_particles=256, progress=False).trace["strength"]
    assert bool((strength[1, 8:-1] < 0.5 * strength[0, 8:-1]).all())


def test_planted_bisection_from_zero_collapses(monkeypatch):
    """At strength 0 a step takes back what was given: not a place to start a bisection from."""
    last = tempering._last

    def from_zero(holds, low, high):
        return low if holds.__name__ == "rising" else last(holds, torch.zeros_like(low), high)

    right = sg.run(build(ADAPTIVE), num_particles=512, progress=False).trace["strength"][0]
    monkeypatch.setattr(tempering, "_last", from_zero)
    wrong = sg.run(build(ADAPTIVE), num_particles=512, progress=False).trace["strength"][0]
    assert float(right[2:-1].min()) > 1e-2
    assert float(wrong[2:-1].min()) < 1e-6


def test_adaptive_strengths_are_consistent_and_say_so(truth):
    """Z_hat comes to Z as N grows, from a potential that alone is useless."""
    model = build(ADAPTIVE)
    assert model.exactness == "exact in the limit"
    spread = []
    for num_particles in (64, 256):
        got, goal, post = estimates(model, truth, num_particles, 400)
        assert post.exactness == "exact in the limit"
        z_test(got, goal, ceiling=0.03)
        spread.append(float(post.log_evidence.std()))
    assert spread[1] < 0.65 * spread[0]
    plain = estimates(build(Tweedie(1.0)), truth, 64, 400)[2].log_evidence
    assert float(plain.std()) > 5 * spread[0]


@pytest.mark.parametrize("move", [PCN(num_moves=2), PCNL(num_moves=2)], ids=repr)
def test_moves_know_the_chosen_strength(move, truth):
    """A move leaves p psi^l invariant: cached values and gradients agree with those of candidates."""
    got, goal, post = estimates(build(ADAPTIVE, move=move), truth, 64, 400)
    z_test(got, goal, ceiling=0.03)
    assert float(post.trace["acceptance"].nanmean()) > 0.5


def test_the_gradient_is_tempered_too():
    model = build(ADAPTIVE, proposal=sg.proposals.Gradient())
    source = generator("noise")
    moved = model.initial((2, 50), source)
    zero = torch.zeros_like(moved.log_g)
    moved = model.adapt(0, zero, moved)
    for k in range(8):
        moved = model.adapt(k + 1, zero, model.step(k, moved.x, moved.carry, source))
    x, carry = moved.x, moved.carry
    assert float(carry["strength"].max()) < 1
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        look = model.look_at(8, x, carry)
        (grad,) = torch.autograd.grad(look.value.sum(), x)
    torch.testing.assert_close(look.value, carry["log_psi"])
    torch.testing.assert_close(grad, carry["grad"])


# ---- frozen schedules -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pilot():
    model = build(ADAPTIVE)
    return model, sg.run(model, num_particles=64, num_systems=4, seed=99, progress=False)


def test_a_frozen_schedule_is_unbiased_for_any_number_of_particles(pilot, truth):
    frozen = freeze(*pilot)
    assert frozen.exactness == "exact"
    for num_particles, ceiling in ((4, 0.06), (64, 0.02)):
        got, goal, post = estimates(frozen, truth, num_particles, 2000)
        assert post.exactness == "exact"
        z_test(got, goal, ceiling)


class PlantedReplay(sg.GuidedDiffusion):
    """The frozen strength enters a value but is not divided out again."""

    def advance(self, k, x, carry, *given):
        strength = self.potential.strength(self.levels[k])
        moved = super().advance(k, x, carry, *given)
        lost = carry["log_psi"] * (1 - 1 / strength)
        return sg.Propagated(moved.x, moved.log_g + 0.1 * lost, moved.carry)


def test_planted_replay_is_caught_T6(pilot, truth):
    frozen = freeze(*pilot)
    wrong = build(frozen.parts["potential"], PlantedReplay)
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*estimates(wrong, truth, 64, 2000)[:2], 0.02)


def test_replay_reproduces_bit_by_bit(pilot):
    runs = [
        sg.run(frozen, num_particles=32, seed=5, progress=False)
        for frozen in (freeze(*pilot), freeze(*pilot))
    ]
    assert torch.equal(runs[0].x, runs[1].x)
    assert torch.equal(runs[0].log_weights, runs[1].log_weights)


def test_a_frozen_run_is_its_pilot_again():
    """One system, the same seed: the same choices, hence the same particles."""
    model = build(ADAPTIVE)
    first = sg.run(model, num_particles=32, seed=5, progress=False)
    again = sg.run(freeze(model, first), num_particles=32, seed=5, progress=False)
    torch.testing.assert_close(again.x, first.x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(again.log_weights, first.log_weights, rtol=1e-8, atol=1e-8)


def test_freezing_leaves_the_model_alone(pilot):
    model, post = pilot
    before = dict(model.evaluations)
    frozen = freeze(model, post)
    assert frozen.evaluations["network_forward"] == 0
    sg.run(frozen, num_particles=8, progress=False)
    assert model.evaluations == before
    assert model.exactness == "exact in the limit"
    assert model.potential.strength == Adaptive(RHO)
    strength = frozen.potential.strength
    assert isinstance(strength, Recorded)
    table = torch.tensor([strength(t) for t in model.levels], dtype=F64)
    torch.testing.assert_close(table, post.trace["strength"].mean(0))
    settings = sg.run(frozen, num_particles=8, progress=False).settings
    assert "Recorded" in settings["potential"]


def test_freezing_what_is_not_adaptive_is_refused(pilot):
    model, post = pilot
    for potential in (Tweedie(), Tempered(Tweedie(), 0.5)):
        plain = build(potential)
        with pytest.raises(InvalidInput, match=r"nothing to freeze.*Adaptive"):
            freeze(plain, sg.run(plain, num_particles=4, progress=False))
    with pytest.raises(InvalidInput, match="nothing to freeze"):
        freeze(freeze(model, post), post)
    fewer = build(ADAPTIVE, times=TIMES[::2])
    with pytest.raises(InvalidInput, match="not of a run of this model"):
        freeze(fewer, post)
    with pytest.raises(InvalidInput, match="not of a run of this model"):
        freeze(model, sg.run(build(Tweedie()), num_particles=4, progress=False))


def test_a_level_visited_twice_has_no_frozen_strength():
    times = torch.cat([TIMES[:6], TIMES[3:]])
    model = build(ADAPTIVE, times=times)
    with pytest.raises(InvalidInput, match="visits a level twice"):
        freeze(model, sg.run(model, num_particles=8, progress=False))


# ---- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(InvalidInput, match="strength must be"):
        Tempered(Tweedie(), strength)


def test_wrong_parts_are_refused():
    for cess in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidInput, match=r"cess must be in \(0, 1\)"):
            Adaptive(cess)
    with pytest.raises(InvalidInput, match="not adaptively tempered itself"):
        Tempered(ADAPTIVE, 0.5)
    with pytest.raises(InvalidInput, match="inner must be a potential"):
        Tempered(Tweedie, 0.5)


def test_strength_zero_says_nothing_of_impossible_events() -> None:
    def hard(x):
        return torch.where(x[:, 0] > 0, 0.0, torch.inf)

    model = build(potential=sg.potentials.Tempered(sg.potentials.Tweedie(1.0), 0.0))
    chain = sg.GuidedDiffusion(
        model.prior, hard, kernel=sg.kernels.DDPM(), times=model.parts["times"],
        potential=sg.potentials.Tempered(sg.potentials.Tweedie(1.0), 0.0),
        proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    post = sg.run(chain, num_particles=64, progress=False)
    assert bool(torch.isfinite(post.log_evidence))
