"""Proposals: the conformance suite, closed forms, multimodal evidence, and planted bugs."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

import smcguide as sg
from smcguide.gaussian import Gaussian
from smcguide.potentials import InflatedGaussian, Terminal, Tweedie
from smcguide.proposals import Bootstrap, Gradient, Proposal
from smcguide.schedules import VP, RectifiedFlow
from smcguide.testing import ProposalSuite, brute_force, generator, seed, z_test
from smcguide.testing.conformance.proposal import linear_gaussian_model
from smcguide.triggers import always, never

F64 = torch.float64
CPU = torch.device("cpu")


class TestBootstrap(ProposalSuite):
    def instances(self):
        return [Bootstrap()]


class TestGradient(ProposalSuite):
    def instances(self):
        return [Gradient(), Gradient(trust=0.5)]


class TestGradientOfTheEstimate(ProposalSuite):
    """The published image code's rule: far off on coarse grids, hence a wider ceiling."""

    ceilings = {"InflatedGaussian": 0.03, "Terminal": 0.015}  # noqa: RUF012

    def instances(self):
        return [Gradient(rule="x0_hat"), Gradient(rule="x0_hat", trust=1.0)]


@dataclass(frozen=True)
class Restless(Proposal):
    """Another mean and another standard deviation for each particle: legal, if pointless."""

    def propose(self, base, look, step):
        std = base.std * (1 + 0.3 * torch.tanh(look.x))
        return Gaussian(base.mean + 0.3 * base.std * torch.sin(look.x), std)


class TestAnyGaussianIsLegal(ProposalSuite):
    ceilings = {"InflatedGaussian": 0.03, "Terminal": 0.03}  # noqa: RUF012
    num_systems = 5000  # it is far from any good one

    def instances(self):
        return [Restless()]


# ---- closed forms --------------------------------------------------------------------------------


PRIOR = sg.priors.GaussianMixture(
    torch.ones(2),
    torch.tensor([[0.5, -0.3], [-1.0, 0.8]], dtype=F64),
    scale=torch.tensor([0.9, 0.5], dtype=F64),
)
COST = sg.costs.LinearGaussian(
    torch.tensor([[1.0, -0.4]], dtype=F64), torch.tensor([1.9], dtype=F64), 0.5
)


def kernels_at(proposal, potential):
    """Model, base kernel, proposal, states and what they carry, for one step from middle noise."""
    model = sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDPM(), times=torch.tensor([0.4, 0.25, 0.0], dtype=F64),
        potential=potential, proposal=proposal,
    )  # fmt: skip
    first = model.initial((2, 4), generator("population"))
    base, q = model.kernels(0, first.x, first.carry)
    return model, base, q, first.x, first.carry


def gradient_of_value(model, k, x):
    """d log psi_t / d x by autograd through the prior, from scratch."""
    x = x.clone().requires_grad_()
    value = model.look_at(k, x).log_psi
    return torch.autograd.grad(value.sum(), x)[0]


def test_bootstrap_is_the_base_itself():
    _, base, q, _, _ = kernels_at(Bootstrap(), InflatedGaussian())
    assert q is base


@pytest.mark.parametrize("potential", [InflatedGaussian(), Tweedie(1.0)], ids=repr)
def test_gradient_shifts_the_mean_by_the_variance_times_the_gradient(potential):
    model, base, q, x, _ = kernels_at(Gradient(), potential)
    shift = base.std**2 * gradient_of_value(model, 0, x)
    assert float(shift.abs().max()) > 1e-2
    torch.testing.assert_close(q.mean - base.mean, shift, rtol=1e-9, atol=1e-10)
    assert q.std == base.std


def test_gradient_of_the_estimate_is_the_published_shift():
    model, base, q, x, carry = kernels_at(Gradient(rule="x0_hat"), InflatedGaussian())
    t, s = model.levels[:2]
    shifted = carry["x0_hat"] + t.sigma**2 / t.alpha * gradient_of_value(model, 0, x)
    expected = sg.kernels.DDPM().step(x, shifted, t, s, None)
    torch.testing.assert_close(q.mean, expected.mean, rtol=1e-9, atol=1e-9)
    assert q.std == base.std


@pytest.mark.parametrize("rule", ["mean", "x0_hat"])
@pytest.mark.parametrize("radius", [0.05, 0.2])
def test_trust_bounds_the_shift_and_keeps_its_direction(rule, radius):
    _, base, free, _, _ = kernels_at(Gradient(rule), InflatedGaussian())
    _, _, held, _, _ = kernels_at(Gradient(rule, trust=radius), InflatedGaussian())
    long, short = ((q.mean - base.mean) / base.std for q in (free, held))
    norms = long.norm(dim=-1)
    assert float(norms.max()) > radius
    torch.testing.assert_close(short.norm(dim=-1), norms.clamp(max=radius))
    torch.testing.assert_close(short / short.norm(dim=-1)[..., None], long / norms[..., None])


def test_trust_leaves_small_and_zero_shifts_alone():
    delta = torch.tensor([[[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]]], dtype=F64)
    base = Gaussian(torch.zeros_like(delta), 0.5)
    expected = torch.tensor([[[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]], dtype=F64)
    torch.testing.assert_close(base.moved(delta, 2.0).mean, expected)
    torch.testing.assert_close(base.moved(delta / 4, 2.0, times=4.0).mean, expected)
    torch.testing.assert_close(base.moved(delta, 2.0, times=-1.0).mean, -expected)
    assert torch.equal(base.moved(delta).mean, delta)


def test_trust_measures_in_the_metric_of_the_kernel():
    delta = torch.tensor([[[3.0, 0.0], [0.0, 3.0]]], dtype=F64)
    base = Gaussian(torch.zeros_like(delta), torch.tensor([1.0, 3.0], dtype=F64))
    held = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]], dtype=F64)
    torch.testing.assert_close(base.moved(delta, 1.0).mean, held)
    torch.testing.assert_close(base.moved(delta / 2, 1.0, times=torch.tensor(2.0)).mean, held)


@pytest.mark.parametrize("rule", ["mean", "x0_hat"])
def test_gradient_begins_at_pure_noise(rule):
    prior = sg.priors.GaussianMixture(
        torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0, schedule=RectifiedFlow()
    )
    model = sg.GuidedDiffusion(
        prior, lambda x: x[:, 0] ** 2, kernel=sg.kernels.DDPM(), times=sg.grids.uniform(4),
        potential=Tweedie(0.5), proposal=Gradient(rule),
    )  # fmt: skip
    assert model.levels[0].alpha == 0.0
    assert torch.isfinite(sg.run(model, num_particles=16, progress=False).log_evidence)


# ---- evidence of a multimodal problem, against brute force ---------------------------------------


def curved(x):
    """Not Gaussian, not convex."""
    return 2 * (x[:, 0].square() - x[:, 1]).square() + 0.5 * (x[:, 0] - 0.5).abs()


@pytest.fixture(scope="module")
def modes():
    means = torch.tensor([[-1.2, 0.3], [1.0, 1.0], [0.2, -1.5]], dtype=F64)
    prior = sg.priors.GaussianMixture(
        torch.tensor([0.3, 0.5, 0.2]), means, scale=torch.tensor([0.4, 0.3, 0.6])
    )
    times = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.02, 0.0], dtype=F64)
    levels = [prior.schedule.level(float(t)) for t in times]
    kernel = sg.kernels.DDIM(0.8)
    truth = brute_force(prior, kernel, levels, sg.costs.as_cost(curved), 10**6)
    assert truth.se < 0.003
    return prior, kernel, times, truth


@pytest.mark.parametrize("potential", [Tweedie(), Tweedie(0.5), Terminal()], ids=repr)
@pytest.mark.parametrize(
    "proposal", [Bootstrap(), Gradient(trust=1.0), Gradient("x0_hat", trust=1.0)], ids=repr
)
def test_evidence_of_a_multimodal_problem_is_brute_force_s(modes, proposal, potential):
    prior, kernel, times, truth = modes
    model = sg.GuidedDiffusion(
        prior, curved, kernel=kernel, times=times, potential=potential, proposal=proposal
    )
    for trigger in (sg.triggers.ess_below(0.7), always()):
        result = sg.run(
            model, num_particles=32, num_systems=2000, trigger=trigger, seed=seed("modes"),
            progress=False,
        )  # fmt: skip
        ratio = torch.exp(result.log_evidence - truth.log_z)
        z_test(ratio, 1.0, ceiling=0.03, truth_se=truth.se)


def test_error_of_the_evidence_falls_like_one_over_the_root_of_n(modes):
    prior, kernel, times, truth = modes
    model = sg.GuidedDiffusion(
        prior, curved, kernel=kernel, times=times, potential=Tweedie(), proposal=Bootstrap()
    )
    sizes, errors = (16, 64, 256), []
    for N in sizes:
        result = sg.run(
            model, num_particles=N, num_systems=600, seed=seed(f"rate {N}"), progress=False
        )
        ratio = torch.exp(result.log_evidence - truth.log_z)
        errors.append(float((ratio - 1).square().mean().sqrt()))
    rate = math.log(errors[-1] / errors[0]) / math.log(sizes[-1] / sizes[0])
    assert rate == pytest.approx(-0.5, abs=0.15)


# ---- planted bugs: proposals ---------------------------------------------------------------------


@dataclass(frozen=True)
class CoupledByAMean(Proposal):
    """Planted: the step length is shared, as with the gradient of a mean."""

    needs_gradient = True

    def propose(self, base, look, step):
        return Gaussian(base.mean + base.std**2 * look.slope / look.slope.norm(), base.std)


@dataclass(frozen=True)
class Dithering(Proposal):
    """Planted: samples inside the proposal, from the global generator."""

    def propose(self, base, look, step):
        return Gaussian(base.mean + 1e-3 * torch.randn(base.mean.shape), base.std)


@dataclass(frozen=True)
class Overconfident(Proposal):
    """Planted: no noise left."""

    def propose(self, base, look, step):
        return Gaussian(base.mean, 0.0)


class Planted(ProposalSuite):
    def __init__(self, proposal):
        self.proposal = proposal

    def instances(self):
        return [self.proposal]


def test_suite_catches_coupled_particles():
    with pytest.raises(AssertionError, match="particle 0 alone"):
        Planted(CoupledByAMean()).test_particles_are_not_coupled(CPU, F64, InflatedGaussian())


def test_suite_catches_a_proposal_that_samples():
    state = torch.random.get_rng_state()
    try:
        with pytest.raises(AssertionError, match="is random"):
            Planted(Dithering()).test_proposing_draws_no_random_numbers(CPU, F64, Terminal())
    finally:
        torch.random.set_rng_state(state)


def test_suite_catches_a_proposal_without_noise():
    with pytest.raises(AssertionError, match="no noise where the base has"):
        Planted(Overconfident()).test_a_gaussian_of_the_base_shape(CPU, F64, Terminal())


# ---- planted bugs: weights -----------------------------------------------------------------------


class WrongWeights(sg.GuidedDiffusion):
    """A model with one classical mistake in its weights; "none" changes nothing."""

    mistake = "none"

    def initial(self, shape, generator):
        moved = super().initial(shape, generator)
        forgets = self.mistake == "psi_T missing from the initial weight"
        return replace(moved, log_g=0 * moved.log_g) if forgets else moved

    def advance(self, k, x, carry, *given):
        carry = dict(carry)
        if self.mistake == "caches not gathered after resampling":
            carry["log_psi"] = carry["log_psi"].roll(1, 1)
        moved = super().advance(k, x, carry, *given)
        log_g = moved.log_g
        if self.mistake == "10 % of -log psi_t lost":
            log_g = log_g + 0.1 * carry["log_psi"]
        if self.mistake == "density ratio forgotten":
            base, q = self.kernels(k, x, carry)
            log_g = log_g - base.log_ratio(q, given[0])
        if self.mistake == "last weight dropped" and k == self.num_steps - 1:
            log_g = 0 * log_g
        return replace(moved, log_g=log_g)


def estimates_with(mistake, potential, trigger):
    suite = Planted(Gradient())
    model = linear_gaussian_model(Gradient(), potential)
    model.__class__ = type("Wrong", (WrongWeights,), {"mistake": mistake})
    estimates, truth = suite._estimates(model, 1.0, trigger)
    return estimates, truth, suite.ceilings[type(potential).__name__]


@pytest.mark.parametrize("potential", [InflatedGaussian(), Terminal()], ids=repr)
@pytest.mark.parametrize("trigger", [always(), never()], ids=repr)
def test_the_assertion_passes_without_a_mistake(potential, trigger):
    z_test(*estimates_with("none", potential, trigger))


@pytest.mark.parametrize(
    ("mistake", "potential", "trigger"),
    [
        ("10 % of -log psi_t lost", InflatedGaussian(), never()),
        ("10 % of -log psi_t lost", InflatedGaussian(), always()),
        ("density ratio forgotten", InflatedGaussian(), never()),
        ("density ratio forgotten", InflatedGaussian(), always()),
        ("last weight dropped", Terminal(), always()),
        ("last weight dropped", InflatedGaussian(), always()),
        ("psi_T missing from the initial weight", InflatedGaussian(), always()),
        ("psi_T missing from the initial weight", InflatedGaussian(), never()),
        ("caches not gathered after resampling", InflatedGaussian(), always()),
    ],
    ids=str,
)
def test_the_assertion_fails_with_a_mistake(mistake, potential, trigger):
    estimates = estimates_with(mistake, potential, trigger)
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*estimates)


def test_z_test_has_a_ceiling_that_an_exploding_variance_cannot_pass():
    source = generator("explosion")
    wild = 1 + 30 * torch.randn(400, generator=source, dtype=F64)
    z_test(wild, 1.0, ceiling=math.inf)
    with pytest.raises(AssertionError, match=r"standard error .* above the ceiling"):
        z_test(wild, 1.0, ceiling=0.1)


def test_z_test_is_two_sided_and_refuses_what_is_not_finite():
    estimates = 1 + 0.1 * torch.randn(400, generator=generator("sides"), dtype=F64)
    z_test(estimates, 1.0, ceiling=0.01)
    for wrong in (0.95, 1.05):
        with pytest.raises(AssertionError, match=r"z = \["):
            z_test(estimates, wrong, ceiling=0.01)
    estimates[7] = math.nan
    with pytest.raises(AssertionError, match="1 of 400 estimates are not finite"):
        z_test(estimates, 1.0, ceiling=0.01)


def test_seeds_are_fixed_and_redrawn_by_the_environment(monkeypatch):
    monkeypatch.delenv("SMCGUIDE_TEST_SEED", raising=False)
    first, again, other = seed("a"), seed("a"), seed("b")
    monkeypatch.setenv("SMCGUIDE_TEST_SEED", "1")
    assert first == again
    assert len({first, other, seed("a"), seed("b")}) == 4


def test_levels_of_the_evidence_problem_are_four_coarse_steps():
    model = linear_gaussian_model(Bootstrap(), Terminal())
    assert model.num_steps == 4
    assert model.prior.schedule == VP()
