"""Values from the denoiser's Jacobian, from draws, from rollouts, from controls and by Laplace: what they
are in closed form, and that weights with them are exact."""

import math
from dataclasses import dataclass

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, STD, TIMES, A, Y, build, oracle, ratios
from test_potentials import LEVELS, SCHEDULES, conditional_evidence, gaussian
from test_potentials import STD as STD_3
from test_potentials import A as A_3
from test_potentials import Y as Y_3

import smcguide as sg
from smcguide.costs import GaussianLikelihood, LinearGaussian
from smcguide.errors import InvalidInput
from smcguide.potentials import (
    ControlValue,
    InflatedGaussian,
    Laplace,
    Lookahead,
    MomentMatched,
    MonteCarlo,
    Potential,
    Tweedie,
)
from smcguide.potentials import moment_matched as module
from smcguide.records import Look
from smcguide.testing import (
    PotentialSuite,
    brute_force,
    gaussian_chain,
    generator,
    seed,
    z_test,
)
from smcguide.testing.exact_value import ExactValue

F64 = torch.float64
P = sg.proposals
LINEAR_3 = LinearGaussian(A_3, Y_3, STD_3)
each = pytest.mark.parametrize(("schedule", "k"), [(name, k) for name in LEVELS for k in range(3)])


def randn(*shape, name="x"):
    return torch.randn(shape, generator=generator(name), dtype=F64)


def model_of(prior, cost, potential, times=None, **kwargs):
    times = torch.tensor([0.8, 0.4, 0.1, 0.0], dtype=F64) if times is None else times
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=times, potential=potential,
        proposal=kwargs.pop("proposal", P.Bootstrap()), **kwargs,
    )  # fmt: skip


def look_at(model, k=1, shape=(2, 3)):
    t = model.levels[k]
    x = (t.alpha + t.sigma) * randn(*shape, *model.event_shape)
    J = model.num_draws
    return model.look_at(k, x, {"psi_noise": randn(*shape, J, *model.event_shape)} if J else {})


def on_levels(schedule, cost, potential):
    """A model of the Gaussian prior, which is known, on the three levels of a schedule."""
    times = torch.tensor([t.time for t in LEVELS[schedule]] + [0.0], dtype=F64)
    prior = gaussian(SCHEDULES[schedule])
    return model_of(prior, cost, potential, times, rehearsal=sg.rehearse(prior))


def jacobian(look):
    """dD/dx (S, N, d, d) by rows, without help of the potential."""
    _, pull = look.step.linearise(look.step.denoise, look.x)
    units = torch.eye(look.x.shape[-1], dtype=F64)
    return torch.stack([pull(e.expand_as(look.x)) for e in units], -2)


def solve(S, r):
    return torch.linalg.solve(S, r[..., None])[..., 0]


# ---- what is promised of all potentials ----------------------------------------------------------


class TestMomentMatched(PotentialSuite):
    """With as many iterations as measurements, cg is dense."""

    gradient_is_derivative = False

    def instances(self):
        return [MomentMatched("dense"), MomentMatched("cg", 2)]

    def gradient(self, model, look):
        """J^T A^T (s^2 I + A Sigma A^T)^-1 (y - A D)."""
        return self.through(model, look, lambda W: W)

    @staticmethod
    def through(model, look, width):
        M, cost, J = model.cost.matrix(model.event_shape), model.cost, jacobian(look)
        W = look.t.sigma**2 / look.t.alpha * M @ J @ M.T
        weighed = solve(width(W) + torch.diag(cost.std**2), cost.y - look.x0_hat @ M.T)
        return (weighed @ M)[..., None, :].matmul(J)[..., 0, :]


class TestMomentMatchedByRowSums(PotentialSuite):
    gradient_is_derivative = False

    def instances(self):
        return [MomentMatched("diagonal")]

    def gradient(self, model, look):
        return TestMomentMatched.through(
            model, look, lambda W: torch.diag_embed(W.sum(-1).clamp(min=0))
        )


class TestMonteCarlo(PotentialSuite):
    def instances(self):
        return [MonteCarlo(), MonteCarlo(3, variance=1.0)]


class TestLookahead(PotentialSuite):
    def instances(self):
        return [Lookahead(), Lookahead(4, strength=1.0)]


class TestControlValue(PotentialSuite):
    tends_to_cost = False  # it is a step ahead of the level it is asked about

    def instances(self):
        return [
            ControlValue(P.DTM(), InflatedGaussian()),
            ControlValue(P.Bootstrap(), MonteCarlo(3, variance=1.0)),
        ]


class TestLaplace(PotentialSuite):
    """Of a linear measurement."""

    gradient_is_derivative = False

    def instances(self):
        return [Laplace(1, variance=0.8), Laplace()]

    def gradient(self, model, look):
        """J^T A^T (s^2 I + v_t A A^T)^-1 (y - A D)."""
        M, cost, t = model.cost.matrix(model.event_shape), model.cost, look.t
        rehearsal = sg.rehearse(model.prior)
        v = min(float(rehearsal.interpolate(rehearsal.residual_variance, t)), t.ratio**2)
        if model.potential.variance:
            v = 1 / (1 / 0.8 + (t.alpha / t.sigma) ** 2)
        weighed = solve(v * M @ M.T + torch.diag(cost.std**2), cost.y - look.x0_hat @ M.T)
        return (weighed @ M)[..., None, :].matmul(jacobian(look))[..., 0, :]


def bend(x):
    return torch.stack([x[:, 0] + 0.2 * x[:, 1] ** 2, torch.tanh(x[:, 2])], -1)


class TestLaplaceOfANonlinearMeasurement(PotentialSuite):
    """Its gradient is the envelope theorem's, checked at a minimum found by gradient descent."""

    gradient_is_derivative = False

    def instances(self):
        return [Laplace(30, variance=0.8)]

    def cost(self, systems=False):
        y = torch.tensor([[0.7, -0.4], [-1.1, 0.3]], dtype=F64)
        return GaussianLikelihood(bend, y if systems else y[0], 0.7, batched=systems)

    def gradient(self, model, look):
        v = 1 / (1 / 0.8 + (look.t.alpha / look.t.sigma) ** 2)
        D = look.x0_hat.detach()

        def objective(x):
            return model.cost(x) + (x - D).square().sum(-1) / (2 * v)

        best = D
        for _ in range(1500):
            best = best - min(v, 0.2) * look.step.gradient(objective, best)
        return ((best - D) / v)[..., None, :].matmul(jacobian(look))[..., 0, :]


# ---- moment matching -----------------------------------------------------------------------------


@each
@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_moment_matching_is_exact_for_a_gaussian_prior_B16(schedule, k, solver):
    model = on_levels(schedule, LINEAR_3, MomentMatched(solver, 3))
    inflated = on_levels(schedule, LINEAR_3, InflatedGaussian())
    if model.levels[k].alpha < 1e-3:
        return  # no signal: the test after the next
    look = look_at(model, k)
    torch.testing.assert_close(look.value, conditional_evidence(look), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(look.value, look_at(inflated, k).value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", ["dense", "cg", "diagonal"])
def test_one_measurement_has_one_width_whatever_the_solver(solver):
    values = [
        look_at(model_of(PRIOR, LinearGaussian(A, Y, STD), p, rehearsal=sg.rehearse(PRIOR))).value
        for p in (MomentMatched(solver, 1), InflatedGaussian())
    ]
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "cg", "diagonal"])
def test_no_signal_no_value(solver):
    """alpha = 0: the Jacobian is 0, and Sigma would be 0 / 0."""
    times = torch.tensor([1.0, 0.5, 0.0], dtype=F64)
    prior = gaussian(SCHEDULES["RectifiedFlow"])
    model = model_of(prior, LINEAR_3, MomentMatched(solver), times, proposal=P.Gradient())
    assert bool((look_at(model, 0).value == 0).all())
    assert torch.isfinite(sg.run(model, num_particles=8, progress=False).log_evidence)


MODES = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[1.0, -0.5, 0.2], [-0.8, 0.9, 0.4]], dtype=F64),
    torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.4, -0.1], [0.0, -0.1, 0.2]], dtype=F64),
)  # fmt: skip


@pytest.mark.parametrize("solver", ["dense", "diagonal"])
def test_moment_matching_has_the_two_moments_of_a_mixture_E1(solver):
    """Mean and covariance of x_0 given x_t from the mixture's own posterior, particle by particle."""
    model = model_of(MODES, LINEAR_3, MomentMatched(solver))
    look, t = look_at(model), model.levels[1]
    for i in range(2):
        for j in range(3):
            m = MODES.posterior(t.alpha * torch.eye(3, dtype=F64), look.x[i, j], t.sigma).moments()
            W = A_3 @ (m.basis * m.variance) @ m.basis.T @ A_3.T
            W = W if solver == "dense" else torch.diag(W.sum(1).clamp(min=0))
            law = torch.distributions.MultivariateNormal(A_3 @ m.mean, W + torch.diag(STD_3**2))
            assert float(look.value[i, j]) == pytest.approx(float(law.log_prob(Y_3)), abs=1e-8)


TWIST = torch.tensor([[0.5, 0.4, 0.0], [-0.1, 0.3, 0.2], [0.3, -0.2, 0.6]], dtype=F64)


class Crooked(sg.priors.Prior):
    """A denoiser whose Jacobian is not symmetric, as that of a network."""

    schedule, event_shape = SCHEDULES["VP"], (3,)
    dtype, device = F64, torch.device("cpu")

    def __init__(self, matrix):
        self.matrix = matrix

    def denoise(self, x, t):
        return x @ self.matrix.T


def crooked_value(look):
    """The value with the symmetric part of A Sigma A^T."""
    W = look.t.sigma**2 / look.t.alpha * A_3 @ (TWIST + TWIST.T) / 2 @ A_3.T
    law = torch.distributions.MultivariateNormal(look.x0_hat @ A_3.T, W + torch.diag(STD_3**2))
    return law.log_prob(Y_3)


def test_a_jacobian_that_is_not_symmetric_is_symmetrised():
    look = look_at(model_of(Crooked(TWIST), LINEAR_3, MomentMatched("dense")))
    torch.testing.assert_close(look.value, crooked_value(look), rtol=1e-9, atol=1e-9)


def test_planted_matrix_not_symmetrised_T6(monkeypatch):
    def wrong(product, r):
        units = torch.eye(r.shape[-1], dtype=r.dtype)
        return torch.stack([product(e.expand_as(r)) for e in units], -1)

    monkeypatch.setattr(module, "_matrix", wrong)
    look = look_at(model_of(Crooked(TWIST), LINEAR_3, MomentMatched("dense")))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(look.value, crooked_value(look), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "diagonal", "cg"])
def test_a_jacobian_with_the_wrong_sign_leaves_a_finite_value(solver):
    """What is no covariance does not narrow the likelihood; conjugate gradients stop."""
    model = model_of(Crooked(-torch.eye(3, dtype=F64)), LINEAR_3, MomentMatched(solver))
    look = look_at(model)
    assert bool(torch.isfinite(look.value).all())
    if solver == "dense":
        torch.testing.assert_close(look.value, -LINEAR_3(look.x0_hat))


def test_moment_matching_of_a_sum_and_of_a_mask():
    prior, mask = gaussian(), torch.tensor([True, False, True])
    y, M = torch.tensor([0.3, math.nan, -0.5], dtype=F64), torch.eye(3, dtype=F64)[[0, 2]]
    parts = LinearGaussian(M[:1], y[:1], 0.5) + LinearGaussian(M[1:], y[2:], 0.5)
    values = [
        look_at(model_of(prior, cost, MomentMatched("dense"))).value
        for cost in (LinearGaussian(mask, y, 0.5), LinearGaussian(M, y[mask], 0.5), parts)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        values[0], values[2], rtol=1e-10, atol=1e-10
    )  # jointly, not one by one

    def penalty(x):
        return x.abs().sum(1)

    look = look_at(model_of(prior, LinearGaussian(mask, y, 0.5) + penalty, MomentMatched("dense")))
    extra = look.t.alpha**2 * look.x0_hat.abs().sum(-1)
    torch.testing.assert_close(look.value, values[0] - extra, rtol=1e-10, atol=1e-10)


def test_passes_through_the_network_are_counted_B16():
    """One forward pass per value; m backward passes, one per iteration, one; one more for a gradient."""
    for potential, passes in (
        (MomentMatched("dense"), 2), (MomentMatched("cg", 3), 3), (MomentMatched("diagonal"), 1),
    ):  # fmt: skip
        for proposal, more in ((P.Bootstrap(), 0), (P.Gradient(), 1)):
            model = model_of(gaussian(), LINEAR_3, potential, proposal=proposal)
            model.initial((1, 5), generator("count"))
            assert model.evaluations["network_forward"] == 5
            assert model.evaluations["network_backward"] == 5 * (passes + more), potential


def test_cg_knows_no_determinant_without_a_rehearsal_and_needs_none():
    """Where nothing else asks for the prior's moments the values differ by one number per level."""
    plain = model_of(gaussian(), LINEAR_3, MomentMatched("cg", 3))
    known = model_of(
        gaussian(), LINEAR_3, MomentMatched("cg", 3), rehearsal=sg.rehearse(gaussian())
    )
    gap = look_at(known).value - look_at(plain).value
    torch.testing.assert_close(gap, gap[0, 0].expand(2, 3), rtol=0, atol=1e-10)
    assert float(gap[0, 0]) < -0.1


# ---- Monte Carlo, rollouts, controls -------------------------------------------------------------


def test_monte_carlo_is_the_mean_over_its_draws_C31():
    cost = LinearGaussian(A, Y, STD)
    model = model_of(PRIOR, cost, MonteCarlo(5, variance=1.0))
    look = look_at(model)
    r = look.t.sigma / math.sqrt(look.t.alpha**2 + look.t.sigma**2)  # as published
    likelihoods = [torch.exp(-cost(look.x0_hat + r * look.noise[:, :, j])) for j in range(5)]
    torch.testing.assert_close(look.value, torch.stack(likelihoods).mean(0).log())
    assert model.evaluations["cost"] == 5 * 6


def test_monte_carlo_tends_to_the_gaussian_integral():
    """With the remaining variance of an isotropic prior, given or measured, it is InflatedGaussian."""
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], scale=1.3)
    cost = LinearGaussian(A, Y, STD)
    exact = look_at(model_of(prior, cost, InflatedGaussian())).value
    for variance, tolerance in ((1.69, 0.1), (None, 0.3)):
        value = look_at(model_of(prior, cost, MonteCarlo(40_000, variance))).value
        assert float((value - exact).abs().max()) < tolerance


def test_monte_carlo_uses_its_own_draws_only():
    """A proposal with more draws changes nothing."""
    cost = LinearGaussian(A, Y, STD)
    more = P.Gradient(guide=MonteCarlo(7, variance=1.0))
    few, many = (
        model_of(PRIOR, cost, MonteCarlo(3, variance=1.0), proposal=proposal)
        for proposal in (P.Bootstrap(), more)
    )
    assert (few.num_draws, many.num_draws) == (3, 7)
    x, noise = randn(1, 4, 2), randn(1, 4, 7, 2, name="noise")
    values = [m.look_at(1, x, {"psi_noise": noise[:, :, : m.num_draws]}).value for m in (few, many)]
    assert torch.equal(*values)


def test_lookahead_of_one_step_is_the_cost_of_the_estimate():
    one, tweedie = (
        model_of(PRIOR, LinearGaussian(A, Y, STD), potential)
        for potential in (Lookahead(1), Tweedie())
    )
    assert torch.equal(look_at(one).value, look_at(tweedie).value)
    assert one.evaluations["network_forward"] == 6


def test_lookahead_follows_the_probability_flow_A2():
    """For N(mu, v) the flow ends at mu + sqrt(v / (alpha^2 v + sigma^2)) (x - alpha mu)."""
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], scale=1.3)
    cost, errors = LinearGaussian(A, Y, STD), []
    for steps in (4, 40, 400):
        model = model_of(prior, cost, Lookahead(steps, strength=0.5))
        look = look_at(model)
        assert model.evaluations["network_forward"] == 6 * steps
        t, v = look.t, 1.69
        end = MEAN + math.sqrt(v / (t.alpha**2 * v + t.sigma**2)) * (look.x - t.alpha * MEAN)
        errors.append(float((look.value + 0.5 * cost(end)).abs().max()))
    assert errors[2] < errors[1] / 5 < errors[0] / 25
    assert errors[2] < 0.1  # the flow ends at t_min


def test_a_control_s_value_is_the_optimal_value_up_to_a_constant_A1():
    """With the exact value of the next level and the exact control, max_delta is E up to a constant."""
    exact = ExactValue(MEAN, COV)
    model = model_of(
        PRIOR, LinearGaussian(A, Y, STD), ControlValue(P.Adapted(), exact), times=TIMES
    )
    truth = model_of(PRIOR, LinearGaussian(A, Y, STD), exact, times=TIMES)
    for k in range(3):
        gap = look_at(model, k).value - look_at(truth, k).value
        torch.testing.assert_close(gap, gap[0, 0].expand(2, 3), rtol=0, atol=1e-9)
    last = model_of(PRIOR, LinearGaussian(A, Y, STD), ControlValue(P.DTM(), Tweedie()))
    inner = model_of(PRIOR, LinearGaussian(A, Y, STD), Tweedie())
    assert torch.equal(look_at(last, 2).value, look_at(inner, 2).value)


def test_a_control_lowers_the_bound_of_no_control_A1():
    """More iterations find a better trade: the value is what they maximise, at the next level."""
    values = []
    for control in (P.Bootstrap(), P.DTM(trust=math.inf, learning_rate=0.3, num_iters=5)):
        model = build(None, ControlValue(control, InflatedGaussian()))
        values.append(look_at(model, 1, (1, 200)).value)
    assert float((values[1] >= values[0]).double().mean()) > 0.95
    assert float((values[1] - values[0]).mean()) > 0.05


# ---- Laplace -------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("num_iters", [1, 3])
def test_laplace_of_a_linear_measurement_is_the_inflated_gaussian(schedule, k, num_iters):
    disguised = GaussianLikelihood(lambda x: x @ A_3.T, Y_3, STD_3)
    value = look_at(on_levels(schedule, disguised, Laplace(num_iters, variance=0.6)), k).value
    expected = look_at(on_levels(schedule, LINEAR_3, InflatedGaussian(0.6)), k).value
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("time", [0.9, 0.4, 0.1])
def test_laplace_is_exact_for_an_isotropic_gaussian_prior(time):
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], scale=1.3)
    model = model_of(
        prior, LinearGaussian(A, Y, STD), Laplace(variance=1.69), torch.tensor([1.0, time, 0.0])
    )
    look = look_at(model)
    given = [
        prior.posterior(look.t.alpha * torch.eye(2, dtype=F64), x, look.t.sigma) for x in look.x[0]
    ]
    expected = torch.stack([g.log_evidence(A, Y, STD) for g in given])
    torch.testing.assert_close(look.value[0], expected, rtol=1e-8, atol=1e-8)


def test_laplace_integrates_a_curved_likelihood():
    """Against quadrature of exp(-C) over N(D, v_t), and far closer to it than one linearisation."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 1, dtype=F64), scale=1.0)
    cost = GaussianLikelihood(
        lambda x: x + 0.5 * torch.tanh(2 * x), torch.tensor([1.2], dtype=F64), 0.3
    )
    errors = []
    for num_iters in (1, 4):
        look = look_at(model_of(prior, cost, Laplace(num_iters, variance=1.0)), 1, (1, 50))
        v = look.t.sigma**2 / (look.t.alpha**2 + look.t.sigma**2)
        u = torch.linspace(-8, 8, 4001, dtype=F64)
        x0 = look.x0_hat[0] + math.sqrt(v) * u
        integrand = -cost(x0[..., None]) - u**2 / 2 - 0.5 * math.log(2 * math.pi)
        exact = torch.logsumexp(integrand, -1) + math.log(16 / 4000)
        errors.append(float((look.value[0] - exact).square().mean().sqrt()))
    assert errors[1] < 0.04 < errors[0] / 10


def test_laplace_ignores_what_a_nan_makes_of_one_particle():
    """The engine reports it; the others keep their values."""
    model = model_of(gaussian(), LINEAR_3, Laplace(variance=1.0))
    x = randn(1, 3, 3)
    clean = model.look_at(1, x).value
    x[0, 1] = math.nan
    value = model.look_at(1, x).value
    assert torch.equal(value.isnan(), torch.tensor([[False, True, False]]))
    torch.testing.assert_close(value[0, [0, 2]], clean[0, [0, 2]])
    dense = model_of(gaussian(), LINEAR_3, MomentMatched("dense")).look_at(1, x).value
    assert torch.equal(dense.isnan(), torch.tensor([[False, True, False]]))


# ---- weights with these values are exact ---------------------------------------------------------

VALUES = {
    "dense": MomentMatched("dense"),
    "cg": MomentMatched(),
    "monte carlo": MonteCarlo(variance=1.0),
    "monte carlo, measured": MonteCarlo(),
    "lookahead": Lookahead(3),
    "control": ControlValue(P.DTM(trust=1.0), InflatedGaussian()),
    "laplace": Laplace(),
}
CASES = [
    (name, guided)
    for name, value in VALUES.items()
    for guided in (False, True)
    if value.has_gradient or not guided
]


@pytest.mark.parametrize(("name", "guided"), CASES)
@pytest.mark.parametrize(("systems", "particles"), [(1500, 16), (100, 400)])
def test_evidence_and_mean_are_exact_A12(name, guided, systems, particles):
    model = build(P.Gradient() if guided else P.Bootstrap(), VALUES[name])
    ratio, post = ratios(model, systems, particles, seed=seed(f"{name} {guided} {particles}"))
    z_test(ratio, 1.0, ceiling=0.05)
    mean = oracle(model).posterior(A, Y, STD).mean
    for i in range(2):  # Z_hat times the self-normalised mean is unbiased for Z times the mean
        z_test(ratio * post.mean()[:, i], float(mean[i]), ceiling=0.1)


@pytest.mark.parametrize("guided", [False, True])
def test_evidence_of_a_nonlinear_measurement_is_exact(guided):
    """x_0 is Gaussian under the chain, so y = tanh(a.x_0) + noise is an integral over one number."""
    a = A[0]
    cost = GaussianLikelihood(
        lambda x: torch.tanh(x @ a)[:, None], torch.tensor([0.9], dtype=F64), 0.2
    )
    model = sg.GuidedDiffusion(
        PRIOR, cost, kernel=sg.kernels.DDPM(), times=TIMES, potential=Laplace(),
        proposal=P.Gradient(trust=2.0) if guided else P.Bootstrap(),
    )  # fmt: skip
    law = gaussian_chain(MEAN, COV, model.levels)
    u = torch.linspace(-9, 9, 20_001, dtype=F64)
    v = a @ law.mean + (a @ law.covariance @ a).sqrt() * u
    likelihood = torch.exp(-0.5 * ((0.9 - torch.tanh(v)) / 0.2) ** 2 - u**2 / 2)
    truth = float(likelihood.sum()) * 18 / 20_000 / (2 * math.pi * 0.2)
    post = sg.run(model, num_systems=1000, num_particles=16, seed=seed("tanh"), progress=False)
    z_test(torch.exp(post.log_evidence) / truth, 1.0, ceiling=0.05)


def test_a_value_does_not_depend_on_the_chunks():
    """Draws included."""
    for potential in (MonteCarlo(), MomentMatched("dense"), Lookahead(), Laplace()):
        estimates = [
            sg.run(build(None, potential, chunk_size=size), num_particles=20, progress=False)
            for size in (None, 7)
        ]
        torch.testing.assert_close(estimates[0].log_evidence, estimates[1].log_evidence)


SCALES = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.zeros(2, 2, dtype=F64), scale=torch.tensor([0.1, 3.0])
)


def test_without_the_determinant_of_the_particle_it_is_legal_B16():
    """With two iterations for two measurements cg is dense but for the determinant, which differs between
    particles that come from the narrow and from the wide component: other values, the same evidence."""
    cost, values = (
        LinearGaussian(torch.eye(2, dtype=F64), torch.full((2,), 0.1, dtype=F64), 0.1),
        [],
    )
    for potential in (MomentMatched("dense"), MomentMatched("cg", 2)):
        model = model_of(SCALES, cost, potential, TIMES)
        values.append(look_at(model, 2, (1, 200)).value)
        truth = brute_force(SCALES, model.kernel, model.levels, cost)
        post = sg.run(model, num_systems=800, num_particles=32, seed=seed("scales"), progress=False)
        ratio = torch.exp(post.log_evidence - truth.log_z)
        z_test(ratio, 1.0, ceiling=0.05, truth_se=truth.se)
    assert float((values[0] - values[1]).std()) > 0.5


# ---- planted bugs --------------------------------------------------------------------------------


class Redraws(sg.GuidedDiffusion):
    """The value that is divided out is computed again, with other draws than entered the weight."""

    def advance(self, k, x, carry, *given):
        moved = super().advance(k, x, carry, *given)
        noise = torch.randn(
            carry["psi_noise"].shape, generator=generator(f"redrawn {k}"), dtype=x.dtype
        )
        again = self.look_at(k, x, {**carry, "psi_noise": noise}).value
        return sg.Propagated(moved.x, moved.log_g + carry["log_psi"] - again, moved.carry)


def test_planted_draws_not_kept_T6():
    """They are kept: the same estimate passes. Redrawn, the mean of 1 / psi is not 1 / mean."""
    value = MonteCarlo(variance=1.0)
    z_test(ratios(build(None, value), 1500, 16)[0], 1.0, ceiling=0.05)
    with pytest.raises(AssertionError):
        z_test(ratios(build(None, value, kind=Redraws), 1500, 16)[0], 1.0, ceiling=0.05)


@dataclass(frozen=True)
class Derived(Laplace):
    """Planted: the gradient of the value at D, not at the minimum."""

    def log_value(self, look):
        value = super().log_value(look)
        return (
            value.detach() + Tweedie.log_value(self, look) - Tweedie.log_value(self, look).detach()
        )

    strength = 1.0


class Planted(TestLaplaceOfANonlinearMeasurement):
    __test__ = False

    def instances(self):
        return [Derived(30, variance=0.8)]


def test_suite_catches_a_gradient_that_is_not_the_one_meant():
    with pytest.raises(AssertionError, match="gradient of"):
        Planted().test_gradient_is_the_derivative(torch.device("cpu"))


# ---- refused input -------------------------------------------------------------------------------

CURVED = GaussianLikelihood(torch.tanh, torch.zeros(3, dtype=F64), 0.5)
WIDE = LinearGaussian(torch.ones(513, 3), torch.zeros(513), 1.0)


@pytest.mark.parametrize(
    ("potential", "cost", "words"),
    [
        (
            MomentMatched(),
            CURVED,
            r"Jacobian potential needs linear operators.*InflatedGaussian\(\)",
        ),
        (MomentMatched(), CURVED + LINEAR_3, r"Jacobian potential needs linear operators"),
        (MomentMatched(), lambda x: x[:, 0], r"Jacobian potential needs linear operators.*Tweedie"),
        (MomentMatched("dense"), WIDE, r"513 measurements.*limit is 512.*MomentMatched\('cg'\)"),
        (Laplace(), lambda x: x[:, 0], r"GaussianLikelihood of at most 512.*Tweedie\(\)"),
        (Laplace(), WIDE, r"at most 512 measurements.*with 513"),
        (ControlValue(P.DTM(), Laplace()), WIDE, r"at most 512 measurements"),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_a_cost_that_does_not_fit_is_refused(potential, cost, words):
    with pytest.raises(InvalidInput, match=words):
        model_of(gaussian(), cost, potential)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MomentMatched("svd"),
        lambda: MomentMatched(num_iters=0),
        lambda: MonteCarlo(0),
        lambda: MonteCarlo(variance=0.0),
        lambda: Lookahead(0),
        lambda: Laplace(0),
        lambda: Laplace(variance=-1.0),
        lambda: ControlValue(P.DTM(warm_start=True), Tweedie()),
        lambda: ControlValue(P.Gradient(), MomentMatched()),
    ],
)
def test_a_wrong_argument_is_refused(wrong):
    with pytest.raises(InvalidInput):
        wrong()


def test_nothing_is_known_of_the_prior():
    for potential in (MonteCarlo(), Laplace()):
        with pytest.raises(InvalidInput, match=r"nothing is known.*variance"):
            potential.bind(sg.problem.Problem(LINEAR_3, (3,), None))


def test_a_control_s_value_is_not_followed():
    with pytest.raises(InvalidInput, match=r"cannot be differentiated"):
        build(P.Gradient(), ControlValue(P.DTM(), Tweedie()))


def test_all_of_them_are_potentials():
    assert all(isinstance(value, Potential) for value in VALUES.values())


# ---- a matrix ------------------------------------------------------------------------------------


class Written:
    """A matrix as somebody's own operator."""

    def __init__(self, matrix):
        self.of = matrix

    def forward(self, x):
        return x @ self.of.mT

    def adjoint(self, y):
        return y @ self.of


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("m", [1, 3, 40])
def test_a_matrix_has_the_values_of_the_operator_that_it_is(m, dtype):
    S, N, d = 2, 5, 6
    matrix, y = randn(m, d, name="matrix").to(dtype), randn(S, m, name="y")
    x0_hat = randn(S, N, d).to(dtype).requires_grad_()
    look, found = Look(x0_hat, x0_hat, sg.schedules.VP().level(0.4)), []
    for operator in (matrix, Written(matrix)):
        cost = LinearGaussian(operator, y, 0.7, batched=True)
        cost.check((d,), x0_hat)
        potential = InflatedGaussian(1.0).bind(sg.problem.Problem(cost, (d,)))
        value = potential.log_value(look)
        (slope,) = torch.autograd.grad(value.sum(), x0_hat)
        found.append((value, potential.residual(look), slope))
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
