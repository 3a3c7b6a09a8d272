"""Potentials: the conformance suite, and closed forms where a value is exact."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError
from torch.distributions import MultivariateNormal

import smcguide as sg
from smcguide.costs import GaussianLikelihood, LinearGaussian, as_cost
from smcguide.draws import rehearse
from smcguide.errors import InvalidInput
from smcguide.potentials import InflatedGaussian, Potential, SignalFraction, Terminal, Tweedie
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.rehearsal import Rehearsal
from smcguide.schedules import EDM, VP, RectifiedFlow
from smcguide.testing import PotentialSuite, generator

F64 = torch.float64
MEAN = torch.tensor([0.5, -0.3, 1.0], dtype=F64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.7, 0.0], [-0.2, 0.4, 0.9]], dtype=F64)
COVARIANCE = ROOT @ ROOT.T
A = torch.tensor([[1.0, -0.4, 0.3], [0.0, 1.2, -0.7]], dtype=F64)
Y = torch.tensor([1.4, -0.2], dtype=F64)
STD = torch.tensor([0.5, 0.8], dtype=F64)
LEVELS = {
    "VP": [VP().level(t) for t in (1.0, 0.5, 0.05)],
    "EDM": [EDM().level(t) for t in (80.0, 1.0, 0.01)],
    "RectifiedFlow": [RectifiedFlow().level(t) for t in (1.0, 0.5, 0.01)],
}
SCHEDULES = {"VP": VP(), "EDM": EDM(), "RectifiedFlow": RectifiedFlow()}
each = pytest.mark.parametrize(
    ("schedule", "t"),
    [(SCHEDULES[name], t) for name in LEVELS for t in LEVELS[name]],
    ids=[f"{name} {t.time}" for name in LEVELS for t in LEVELS[name]],
)


def randn(*shape, name="x"):
    return torch.randn(shape, generator=generator(name), dtype=F64)


def gaussian(schedule=None):
    return sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE, schedule=schedule)


def look_at(prior, t, shape=(2, 3)):
    x = (t.alpha + t.sigma) * randn(*shape, *prior.event_shape)
    return Look(x, prior.denoise(x.flatten(0, 1), t.time).unflatten(0, shape), t)


def rehearsal_of(prior):
    return rehearse(prior)


def bound(potential, cost, prior):
    rehearsal = rehearsal_of(prior) if potential.needs_rehearsal else None
    return potential.bind(Problem(cost, prior.event_shape, rehearsal))


class TestTerminal(PotentialSuite):
    tends_to_cost = False

    def instances(self):
        return [Terminal()]


class TestTweedie(PotentialSuite):
    def instances(self):
        return [Tweedie(), Tweedie(1.0), Tweedie(lambda t: 1 / (1 + t.ratio))]


class TestInflatedGaussian(PotentialSuite):
    def instances(self):
        return [InflatedGaussian(), InflatedGaussian(1.0), InflatedGaussian(math.inf)]


class TestInflatedGaussianOfANonlinearMeasurement(PotentialSuite):
    tends_to_cost = False  # its width is measured on levels of the run only

    def instances(self):
        return [InflatedGaussian()]

    def cost(self, systems=False):
        y = torch.tensor([[0.7, -0.4], [-1.1, 0.3]], dtype=F64)
        return GaussianLikelihood(self.saturate, y if systems else y[0], 0.7, batched=systems)

    @staticmethod
    def saturate(x):
        return torch.tanh(x[:, :2])


# ---- terminal and Tweedie ------------------------------------------------------------------------


def test_terminal_is_one_until_the_end():
    prior = gaussian()
    potential = bound(Terminal(), LinearGaussian(A, Y, STD), prior)
    assert (potential.log_value(look_at(prior, VP().level(0.1))) == 0).all()


@pytest.mark.parametrize("strength", [1.0, 1, 0.25])
def test_tweedie_is_the_cost_of_the_estimate_times_a_number(strength):
    prior, cost = gaussian(), LinearGaussian(A, Y, STD)
    look = look_at(prior, VP().level(0.4))
    value = bound(Tweedie(strength), cost, prior).log_value(look)
    torch.testing.assert_close(value, -strength * cost(look.x0_hat))


def test_tweedie_s_default_strength_is_the_signal_fraction():
    prior, cost = gaussian(), LinearGaussian(A, Y, STD)
    for time, expected in ((0.4, None), (1.0, None), (1e-6, 1.0)):
        look = look_at(prior, VP().level(time))
        fraction = look.t.alpha**2  # variance preserving
        value = bound(Tweedie(), cost, prior).log_value(look)
        torch.testing.assert_close(value, -fraction * cost(look.x0_hat))
        if expected is not None:
            assert fraction == pytest.approx(expected, rel=1e-6)


def test_signal_fraction_at_the_ends():
    fraction = SignalFraction()
    assert fraction(Level(0.0, 1.0, 0.0)) == 1.0
    assert fraction(Level(1.0, 0.0, 1.0)) == 0.0
    assert fraction(Level(0.5, 0.6, 0.8)) == pytest.approx(0.36)


def test_tweedie_serves_a_plain_function():
    prior = gaussian()
    cost = as_cost(lambda x: x.square().sum(1))
    look = look_at(prior, VP().level(0.4))
    value = bound(Tweedie(1.0), cost, prior).log_value(look)
    torch.testing.assert_close(value, -look.x0_hat.square().sum(-1))


# ---- inflated Gaussian ---------------------------------------------------------------------------


def conditional_evidence(look, std=STD):
    """log p(y | x_t) for the Gaussian prior: condition x_0 on x_t, then y on x_0."""
    t, joint = look.t, COVARIANCE
    noisy = t.alpha**2 * joint + t.sigma**2 * torch.eye(3, dtype=F64)
    gain = t.alpha * joint @ torch.linalg.inv(noisy)
    mean = MEAN + (look.x - t.alpha * MEAN) @ gain.T
    covariance = joint - t.alpha * gain @ joint
    law = MultivariateNormal(mean @ A.T, A @ covariance @ A.T + torch.diag(std**2))
    return law.log_prob(Y)


@each
def test_inflated_gaussian_is_exact_for_a_gaussian_prior(schedule, t):
    prior = gaussian(schedule)
    potential = bound(InflatedGaussian(), LinearGaussian(A, Y, STD), prior)
    look = look_at(prior, t)
    torch.testing.assert_close(
        potential.log_value(look), conditional_evidence(look), rtol=1e-8, atol=1e-8
    )


@each
def test_inflated_gaussian_is_a_martingale_s_value_by_the_mixture_s_own_posterior(schedule, t):
    if t.alpha < 1e-3:
        t = Level(t.time, 1e-3, t.sigma)
    prior = gaussian(schedule)
    x = (t.alpha + t.sigma) * randn(3)
    given = prior.posterior(t.alpha * torch.eye(3, dtype=F64), x, t.sigma)
    D = given.moments().mean
    potential = bound(InflatedGaussian(), LinearGaussian(A, Y, STD), prior)
    value = potential.log_value(Look(x[None, None], D[None, None], t))
    assert float(value) == pytest.approx(float(given.log_evidence(A, Y, STD)), rel=1e-8, abs=1e-8)


@each
@pytest.mark.parametrize("variance", [0.3, 1.0, 7.0])
def test_a_number_as_variance_is_an_isotropic_prior_covariance(schedule, t, variance):
    prior = gaussian(schedule)
    look = look_at(prior, t)
    value = bound(InflatedGaussian(variance), LinearGaussian(A, Y, STD), prior).log_value(look)
    width = 1 / (1 / variance + (t.alpha / t.sigma) ** 2)
    law = MultivariateNormal(look.x0_hat @ A.T, width * A @ A.T + torch.diag(STD**2))
    torch.testing.assert_close(value, law.log_prob(Y), rtol=1e-9, atol=1e-9)


def test_variance_one_is_pigdm_s_width():
    prior, t = gaussian(), VP().level(0.4)
    look = look_at(prior, t)
    pigdm = t.sigma**2 / (t.alpha**2 + t.sigma**2)
    law = MultivariateNormal(look.x0_hat @ A.T, pigdm * A @ A.T + torch.diag(STD**2))
    value = bound(InflatedGaussian(1.0), LinearGaussian(A, Y, STD), prior).log_value(look)
    torch.testing.assert_close(value, law.log_prob(Y), rtol=1e-10, atol=1e-10)


def test_infinite_variance_is_the_plain_noise_ratio():
    prior, t = gaussian(), VP().level(0.4)
    look = look_at(prior, t)
    law = MultivariateNormal(look.x0_hat @ A.T, t.ratio**2 * A @ A.T + torch.diag(STD**2))
    value = bound(InflatedGaussian(math.inf), LinearGaussian(A, Y, STD), prior).log_value(look)
    torch.testing.assert_close(value, law.log_prob(Y), rtol=1e-10, atol=1e-10)


def test_infinite_variance_at_pure_noise_is_refused_or_finite():
    """There the width is infinite, too; either answer is fine, an error of the algebra is not."""
    parts = {
        "kernel": sg.kernels.DDPM(),
        "times": sg.grids.uniform(4),
        "potential": InflatedGaussian(math.inf),
        "proposal": sg.proposals.Bootstrap(),
    }
    try:
        model = sg.GuidedDiffusion(gaussian(RectifiedFlow()), LinearGaussian(A, Y, STD), **parts)
    except InvalidInput:
        return
    assert torch.isfinite(sg.run(model, num_particles=8, progress=False).log_evidence)


def test_a_mask_is_its_matrix():
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN.reshape(1, 1, 3), COVARIANCE)
    mask = torch.tensor([[True, False, True]])
    y = torch.tensor([[0.4, math.nan, -1.0]], dtype=F64)
    matrix = torch.eye(3, dtype=F64)[[0, 2]]
    look = look_at(prior, VP().level(0.4))
    values = [
        bound(InflatedGaussian(), cost, prior).log_value(look)
        for cost in (LinearGaussian(mask, y, 0.5), LinearGaussian(matrix, y[mask], 0.5))
    ]
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)


def test_levels_in_any_order_give_the_same_values():
    prior = gaussian()
    potential = bound(InflatedGaussian(), LinearGaussian(A, Y, STD), prior)
    times = (0.8, 0.5, 0.2, 0.8, 0.1, 0.5)
    for time in times:
        look = look_at(prior, VP().level(time))
        torch.testing.assert_close(
            potential.log_value(look), conditional_evidence(look), rtol=1e-8, atol=1e-8
        )


def test_residual_is_the_square_root_of_the_value():
    prior = gaussian()
    potential = bound(InflatedGaussian(), LinearGaussian(A, Y, STD), prior)
    look = look_at(prior, VP().level(0.3))
    r, value = potential.residual(look), potential.log_value(look)
    assert r.shape == (2, 3, 2)
    constant = value + r.square().sum(-1) / 2
    torch.testing.assert_close(constant, constant[0, 0].expand(2, 3), rtol=1e-12, atol=1e-12)


def test_a_sum_of_a_gaussian_and_a_plain_cost_treats_each_by_its_own_rule():
    def penalty(x):
        return x.abs().sum(1)

    prior, linear = gaussian(), LinearGaussian(A, Y, STD)
    look = look_at(prior, VP().level(0.4))
    value = bound(InflatedGaussian(), linear + penalty, prior).log_value(look)
    extra = look.t.alpha**2 * look.x0_hat.abs().sum(-1)
    torch.testing.assert_close(value, conditional_evidence(look) - extra, rtol=1e-9, atol=1e-9)


def test_a_sum_of_two_gaussians_adds_their_values():
    prior = gaussian()
    first, second = LinearGaussian(A[:1], Y[:1], 0.5), LinearGaussian(A[1:], Y[1:], 0.8)
    look = look_at(prior, VP().level(0.4))
    total, *parts = (
        bound(InflatedGaussian(), cost, prior).log_value(look)
        for cost in (first + second, first, second)
    )
    torch.testing.assert_close(total, sum(parts), rtol=1e-10, atol=1e-10)


def test_the_width_measured_on_draws_is_that_of_a_linear_measurement_for_a_linear_one():
    prior, n = gaussian(), 50_000
    levels = [VP().level(t) for t in (0.9, 0.5, 0.2)]
    x0 = prior.sample(n, generator("draws"))
    noised = [t.alpha * x0 + t.sigma * randn(n, 3, name=f"{t.time}") for t in levels]
    x0_hat = [prior.denoise(x, t.time) for x, t in zip(noised, levels, strict=True)]
    log_snr = VP().log_snr(torch.tensor([t.time for t in levels], dtype=F64))
    rehearsal = Rehearsal(prior.moments(), x0, log_snr, torch.stack(x0_hat))
    disguised = GaussianLikelihood(lambda x: x @ A.T, Y, STD)
    potential = InflatedGaussian().bind(Problem(disguised, (3,), rehearsal))
    for t in levels:
        look = look_at(prior, t)
        gap = potential.log_value(look) - conditional_evidence(look)
        assert float(gap.abs().max()) < 0.1


def test_an_infinite_number_of_observations_pins_the_estimate():
    prior, many = gaussian(), A.repeat(200, 1)
    cost = LinearGaussian(many, Y.repeat(200), 0.5)
    look = look_at(prior, VP().level(0.2))
    potential = bound(InflatedGaussian(), cost, prior)
    t = look.t
    width = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + t.ratio**-2 * torch.eye(3, dtype=F64))
    law = MultivariateNormal(
        look.x0_hat @ many.T, many @ width @ many.T + 0.25 * torch.eye(400, dtype=F64)
    )
    torch.testing.assert_close(
        potential.log_value(look), law.log_prob(Y.repeat(200)), rtol=1e-7, atol=1e-7
    )


# ---- refused input -------------------------------------------------------------------------------


def test_inflated_gaussian_refuses_a_cost_without_a_gaussian_part():
    with pytest.raises(InvalidInput, match=r"InflatedGaussian needs a LinearGaussian.*Tweedie\(\)"):
        bound(InflatedGaussian(1.0), as_cost(lambda x: x[:, 0]), gaussian())


def test_inflated_gaussian_refuses_too_many_measurements():
    cost = LinearGaussian(torch.ones(2049, 3), torch.zeros(2049), 1.0)
    with pytest.raises(InvalidInput, match=r"2049 measurements .*limit is 2048.*Tweedie\(\)"):
        bound(InflatedGaussian(1.0), cost, gaussian())


def test_inflated_gaussian_refuses_to_guess_the_moments():
    with pytest.raises(InvalidInput, match=r"InflatedGaussian"):
        InflatedGaussian().bind(Problem(LinearGaussian(A, Y, STD), (3,), None))


def test_a_given_variance_is_refused_for_a_nonlinear_measurement():
    cost = GaussianLikelihood(torch.tanh, torch.zeros(3), 0.5)
    with pytest.raises(InvalidInput, match=r"needs a linear measurement"):
        bound(InflatedGaussian(1.0), cost, gaussian())


# ---- what the suite catches ----------------------------------------------------------------------


@dataclass(frozen=True)
class Coupled(Potential):
    """Planted: subtracts the population's mean."""

    def log_value(self, look):
        value = -self.cost(look.x0_hat)
        return value - value.mean(1, keepdim=True)


@dataclass(frozen=True)
class Detached(Potential):
    """Planted: half of its value has lost its gradient."""

    def log_value(self, look):
        value = -0.5 * self.cost(look.x0_hat)
        return value + value.detach()


@dataclass(frozen=True)
class HalfHearted(Potential):
    """Planted: tends to half of the cost."""

    def log_value(self, look):
        return -0.5 * self.cost(look.x0_hat)


@dataclass(frozen=True)
class Single(Potential):
    """Planted: float32 values."""

    def log_value(self, look):
        return -self.cost(look.x0_hat).float()


class Planted(PotentialSuite):
    def __init__(self, potential):
        self.potential = potential

    def instances(self):
        return [self.potential]


CPU = torch.device("cpu")


def test_suite_catches_coupled_particles():
    with pytest.raises(AssertionError, match="others changed"):
        Planted(Coupled()).test_value_depends_on_its_own_particle_only(CPU, F64)


def test_suite_catches_a_lost_gradient():
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        Planted(Detached()).test_gradient_is_the_derivative(CPU)


def test_suite_catches_a_wrong_limit():
    with pytest.raises(AssertionError, match="as sigma -> 0"):
        Planted(HalfHearted()).test_value_tends_to_minus_the_cost(CPU)


def test_suite_catches_single_precision_values():
    with pytest.raises(AssertionError, match=r"torch\.float32"):
        Planted(Single()).test_values_are_finite_float64_one_per_particle(CPU, F64)


def test_a_large_mask_is_valued_by_its_diagonal() -> None:
    """More observed entries than a dense covariance allows: the default still serves them, and agrees
    with the dense value where the covariance is diagonal."""
    d = 3000
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, d, dtype=F64), scale=0.8)
    mask = torch.ones(d, dtype=torch.bool)
    y = torch.linspace(-1, 1, d, dtype=F64)
    cost = sg.costs.LinearGaussian(mask, y, 0.5)
    post = sg.sample(prior, cost, num_particles=4, num_steps=3, progress=False)
    assert post.settings["potential"] == "InflatedGaussian(variance=None)"
    few = sg.costs.LinearGaussian(mask[:5], y[:5], 0.5)
    V = torch.full((5,), 0.64, dtype=F64)
    t = prior.schedule.level(0.4)
    look = Look(randn(1, 3, 5), randn(1, 3, 5), t)
    diagonal = InflatedGaussian(V).bind(Problem(few, (5,), None)).log_value(look)
    dense = InflatedGaussian(torch.diag(V)).bind(Problem(few, (5,), None)).log_value(look)
    torch.testing.assert_close(diagonal, dense)
    isotropic = InflatedGaussian(0.64).bind(Problem(few, (5,), None)).log_value(look)
    torch.testing.assert_close(isotropic, dense)


def test_a_measured_width_keeps_no_graph() -> None:
    net = torch.nn.Linear(2, 2).double()
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
    cost = sg.costs.GaussianLikelihood(net, torch.zeros(2, dtype=F64), 0.3)
    bound = InflatedGaussian().bind(Problem(cost, (2,), rehearsal_of(prior)))
    assert not bound._terms[0].W.requires_grad
