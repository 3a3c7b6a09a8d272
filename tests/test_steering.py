"""FK steering: tilted moments for all three modes, what a particle remembers, and planted bugs."""

import dataclasses
import math

import pytest
import torch

import smcguide as sg
from smcguide import weights
from smcguide.costs import as_cost
from smcguide.errors import InvalidInput
from smcguide.potentials import FKSteering
from smcguide.problem import Problem
from smcguide.records import Level, Look, Particles
from smcguide.testing import PotentialSuite, seed, z_test
from smcguide.testing.oracles import brute_force
from smcguide.testing.quadrature import line_answer

F64 = torch.float64
MODES = ("difference", "max", "sum")
each_mode = pytest.mark.parametrize("mode", MODES)

# ---- a mixture on the line, tilted by a reward, in ten coarse steps --------------------------------

PRIOR = sg.priors.GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[-1.5], [0.4], [1.8]], dtype=F64), scale=0.35
)
RATIOS = torch.tensor([20.0, 6.0, 3.0, 1.8, 1.2, 0.8, 0.5, 0.3, 0.15, 0.07], dtype=F64)
TIMES = torch.cat([PRIOR.schedule.time(-2 * RATIOS.log()), torch.zeros(1, dtype=F64)])


def cost(x):
    return 0.7 * (x[:, 0] - 1.5) ** 2 + 0.3 * torch.cos(3 * x[:, 0])


STRENGTH = {"difference": 0.5, "max": 0.2, "sum": 0.1}


def steering(mode, **settings):
    given = {"every": 2, "first": 2, "strength": STRENGTH[mode]}
    return FKSteering(mode, **given | settings)


def build(potential, kind=sg.GuidedDiffusion, cost=cost, **parts):
    given = {"kernel": sg.kernels.DDPM(), "times": TIMES, "proposal": sg.proposals.Bootstrap()}
    return kind(PRIOR, cost, potential=potential, **given | parts)


def answer(cost):
    """log Z, and the first two moments, of the chain."""
    model = build(sg.potentials.Terminal(), cost=cost)
    return line_answer(PRIOR, model.kernel, model.levels, model.cost)


@pytest.fixture(scope="module")
def truth():
    return answer(cost)


AT_REWARDS = sg.triggers.at_steps((2, 4, 6, 8))
TRIGGERS = {
    "interval": AT_REWARDS,
    "ess": sg.triggers.ess_below(0.7),
    "never": sg.triggers.never(),
}


def estimates(model, truth, trigger=AT_REWARDS, num_systems=2000, num_particles=64):
    """Z_hat / Z, and times the estimated moments: their expectations are 1 and the moments."""
    post = sg.run(
        model, num_particles=num_particles, num_systems=num_systems, trigger=trigger,
        seed=seed(f"{model.potential!r}"), progress=False,
    )  # fmt: skip
    ratio = torch.exp(post.log_evidence - truth[0])[:, None]
    moments = torch.cat([post.mean(), weights.mean(post.x**2, post.log_w)], 1)
    return torch.cat([ratio, ratio * moments], 1), torch.cat([torch.ones(1, dtype=F64), truth[1]])


def test_the_line_is_the_brute_force_answer(truth):
    """The oracle of this file against independent paths; and the tilt is far from the prior."""
    model = build(sg.potentials.Terminal())
    paths = brute_force(PRIOR, model.kernel, model.levels, model.cost, 2 * 10**5)
    assert abs(paths.log_z - truth[0]) < 5 * paths.se < 0.02
    flat = answer(lambda x: 0 * x[:, 0])
    assert abs(flat[0]) < 1e-10, "not normalised"
    assert float(truth[1][0] - flat[1][0]) > 1.0


@each_mode
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_tilted_moments_of_a_mixture_A8(mode, trigger, truth):
    got, exact = estimates(build(steering(mode)), truth, TRIGGERS[trigger])
    z_test(got, exact, ceiling=0.012)


def rare(x):
    return 3 * (x[:, 0] - 3) ** 2


GENTLE = {"difference": 0.1, "max": 0.05, "sum": 0.03}


@each_mode
def test_steering_pays_A8(mode):
    """Where exp(-C) is rare, selection by rewards on the way beats weights at the end; the two
    estimates are of the same number."""
    exact = answer(rare)
    steered = build(steering(mode, strength=GENTLE[mode]), cost=rare)
    weighted = build(sg.potentials.Terminal(), cost=rare)
    got, goal = estimates(steered, exact)
    z_test(got, goal, ceiling=0.1)
    plain = estimates(weighted, exact, sg.triggers.never())[0]
    assert bool((got.std(0) < 0.85 * plain.std(0)).all())


@each_mode
def test_a_guided_proposal_is_weighted_too(mode, truth):
    """Between rewards a value has no gradient, and the proposal is the base kernel."""
    model = build(steering(mode), proposal=sg.proposals.Gradient(trust=1.0))
    got, exact = estimates(model, truth)
    z_test(got, exact, ceiling=0.03)


# ---- planted bugs (T6) ------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("lost", ["psi_memory", "psi_past"])
def test_planted_memory_not_gathered_A8(mode, lost, truth, monkeypatch):
    """What a particle remembers must follow its ancestor. With the memory of another the product still
    telescopes: the variance gives it away, hence the ceiling. (`psi_past` is written anew in each step
    and read by moves only: here it does not matter.)"""
    right = Particles.take

    def wrong(self, ancestors, *log_w):
        taken = right(self, ancestors, *log_w)
        stale = {name: field for name, field in self.carry.items() if name == lost}
        return Particles(taken.x, taken.log_w, taken.eve, {**taken.carry, **stale})

    model = build(steering(mode, strength={"difference": 0.5, "max": 0.3, "sum": 0.1}[mode]))
    good = estimates(model, truth, sg.triggers.always())
    z_test(*good, ceiling=0.01)
    monkeypatch.setattr(Particles, "take", wrong)
    bad = estimates(model, truth, sg.triggers.always())
    if lost == "psi_past":
        assert torch.equal(bad[0], good[0])
        return
    with pytest.raises(AssertionError, match="above the ceiling"):
        z_test(*bad, ceiling=0.01)


class NoClosing(sg.GuidedDiffusion):
    """The last weight is left out: the target is the product of the rewards."""

    def look_ahead(self, k, x, carry):
        out = super().look_ahead(k, x, carry)
        return out if k < self.num_steps else out | {"log_psi": self.last_value(carry, out)}

    def last_value(self, carry, out):
        return carry["psi_past"][..., 0]


class RunningAtTheEnd(NoClosing):
    """The published closing: the running maximum, or sum, goes on to the last weight."""

    def last_value(self, carry, out):
        running, reward = carry["psi_past"][..., 1], out["log_psi"]
        mode = self.potential.mode
        return torch.maximum(running, reward) if mode == "max" else running + reward


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, NoClosing) for mode in MODES] + [("max", RunningAtTheEnd), ("sum", RunningAtTheEnd)],
)
def test_planted_closing_potentials_A8(mode, kind, truth):
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*estimates(build(steering(mode), kind), truth), ceiling=0.012)


@each_mode
def test_planted_weights_dropped_where_nothing_is_resampled_A8(mode, truth, monkeypatch):
    from smcguide import loop

    right = loop._resample

    def wrong(model, plan, state, fires):
        ancestors = right(model, plan, state, fires)
        log_w = torch.zeros_like(state.particles.log_w)
        state.particles = dataclasses.replace(state.particles, log_w=log_w)
        return ancestors

    model, trigger = build(steering(mode)), sg.triggers.ess_below(0.5)
    z_test(*estimates(model, truth, trigger), ceiling=0.012)
    monkeypatch.setattr(loop, "_resample", wrong)
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*estimates(model, truth, trigger), ceiling=0.012)


# ---- the values themselves --------------------------------------------------------------------------


class TestFKSteering(PotentialSuite):
    def instances(self):
        return [FKSteering(mode, every=1, first=0) for mode in MODES]


class TestFKSteeringBetweenRewards(PotentialSuite):
    tends_to_cost = False

    def instances(self):
        return [FKSteering(mode, every=4, first=1) for mode in MODES]


def walk(potential, costs):
    """log psi along a path whose denoised estimates cost `costs`, at levels 0, 1, ..."""
    levels = [Level(1 - k / 10, k / 10, 1 - k / 10) for k in range(len(costs))]
    levels.append(Level(0.0, 1.0, 0.0))
    asked = []

    def charge(x):
        asked.append(float(x[0, 0]))
        return x[:, 0]

    bound = potential.bind(Problem(as_cost(charge), (1,), None, levels, []))
    memory, values = None, []
    for t, c in zip(levels, costs, strict=False):
        x0_hat = torch.full((1, 1, 1), c, dtype=F64)
        value, memory = bound.evaluate(Look(x0_hat, x0_hat, t, memory=memory))
        values.append(float(value))
    return values, asked


WALKED = {  # costs 9, 1, 9, 3, 9, 2, 9 are asked at levels 1, 3, 5
    "difference": [0, -1, -1, -3, -3, -2, -2],
    "max": [0, -1, -1, -1 - 1, -2, -2 - 1, -3],
    "sum": [0, -1, -1, -1 - 4, -5, -5 - 6, -11],
}


@each_mode
def test_values_along_a_path_A8(mode):
    values, asked = walk(FKSteering(mode, every=2, first=1), [9.0, 1.0, 9.0, 3.0, 9.0, 2.0, 9.0])
    assert values == WALKED[mode]
    assert asked == [1.0, 3.0, 2.0]
    halved, _ = walk(FKSteering(mode, 2, 1, strength=0.5), [9.0, 1.0, 9.0, 3.0, 9.0, 2.0, 9.0])
    assert halved == [value / 2 for value in WALKED[mode]]


def test_rewards_from_first_to_last_only():
    _, asked = walk(FKSteering(every=1, first=1, last=3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert asked == [1.0, 2.0, 3.0]


def test_the_cost_is_counted_where_it_is_asked_A8():
    model = build(steering("sum"))
    post = sg.run(model, num_particles=10, progress=False)
    assert post.evaluations["cost"] == 10 * (4 + 1)  # levels 2, 4, 6, 8 and data
    assert post.evaluations["network_forward"] == 10 * 10


def test_any_function_is_a_reward():
    """Costs that leave torch, batches of observations, and any chunk size."""

    def scored(x):
        return torch.as_tensor([math.fabs(v) for v in x[:, 0].tolist()], dtype=F64)

    results = []
    for size in (None, 3):
        model = sg.GuidedDiffusion(
            PRIOR, scored, kernel=sg.kernels.DDPM(), times=TIMES, potential=steering("max"),
            proposal=sg.proposals.Bootstrap(), chunk_size=size,
        )  # fmt: skip
        results.append(sg.run(model, num_particles=7, num_systems=2, progress=False))
    torch.testing.assert_close(results[0].log_weights, results[1].log_weights)
    y = torch.tensor([[0.3], [1.2]], dtype=F64)
    batched = sg.costs.LinearGaussian(torch.eye(1, dtype=F64), y, 0.5, batched=True)
    post = sg.sample(PRIOR, batched, num_particles=256, progress=False, **sg_preset())
    assert post.x.shape == (2, 256, 1)
    assert float(post.mean()[0, 0]) < float(post.mean()[1, 0])


def sg_preset():
    from smcguide.presets import fk_steering

    preset = fk_steering("difference", num_steps=20)
    assert preset["trigger"] == sg.triggers.at_steps((4, 8, 12, 16))
    return preset


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "mean"}, {"every": 0}, {"every": 2.5}, {"first": -1}, {"first": 4, "last": 3},
        {"strength": 0.0}, {"strength": math.nan},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings):
    with pytest.raises(InvalidInput, match="FKSteering"):
        FKSteering(**settings)


def test_a_run_without_a_reward_is_refused():
    with pytest.raises(InvalidInput, match="no reward in a run of 10 steps"):
        build(FKSteering(first=10))


def test_the_label_is_exact():
    assert build(steering("max")).exactness == "exact"
