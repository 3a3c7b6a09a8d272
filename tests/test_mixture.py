"""Gaussian mixtures: denoiser, marginals, posterior and evidence against independent integrals."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.priors import EmpiricalPrior, GaussianMixture
from smcguide.testing import PriorSuite, generator, z_test

F64 = torch.float64
SCHEDULES = [sg.schedules.VP(), sg.schedules.EDM(), sg.schedules.RectifiedFlow()]
TIMES = {"VP": (0.02, 0.3, 0.9), "EDM": (0.1, 1.0, 20.0), "RectifiedFlow": (0.05, 0.5, 1.0)}
LEVELS = [(s, t) for s in SCHEDULES for t in TIMES[type(s).__name__]]


def at(levels):
    ids = [f"{type(s).__name__} {t}" for s, t in levels]
    return pytest.mark.parametrize(("schedule", "t"), levels, ids=ids)


levels = at(LEVELS)
with_signal = at([(s, t) for s, t in LEVELS if s.level(t).alpha > 0])

MEANS = torch.tensor([[1.0, 0.0, -1.0], [-2.0, 1.0, 0.5], [0.0, -1.5, 2.0]], dtype=F64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
SCALES = torch.tensor([0.2, 0.7, 0.4], dtype=F64)


def covariances(K=3, d=3):
    root = torch.randn(K, d, d, generator=generator("roots"), dtype=F64)
    return 0.3 * root @ root.mT + 0.1 * torch.eye(d, dtype=F64)


METRICS = {
    "isotropic": {"scale": 0.6},
    "isotropic per component": {"scale": torch.tensor([0.3, 0.6, 1.1], dtype=F64)},
    "full shared": {"covariances": covariances()[0]},
    "full per component": {"covariances": covariances()},
}
metrics = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def mixture(metric, schedule=None, weights=WEIGHTS):
    return GaussianMixture(weights, MEANS, **metric, schedule=schedule)


def full(metric):
    """The (3, 3, 3) covariances that a metric means."""
    if "covariances" in metric:
        return metric["covariances"].expand(3, 3, 3)
    scale = torch.as_tensor(metric["scale"], dtype=F64).expand(3)
    return scale[:, None, None] ** 2 * torch.eye(3, dtype=F64)


def law(metric, alpha=1.0, sigma=0.0):
    """The noised mixture in torch.distributions."""
    cov = alpha**2 * full(metric) + sigma**2 * torch.eye(3, dtype=F64)
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(alpha * MEANS, cov))


def points(num=7, d=3):
    return 1.5 * torch.randn(num, d, generator=generator("points"), dtype=F64)


class TestGaussianMixture(PriorSuite):
    def instances(self):
        return [mixture(metric) for metric in METRICS.values()]


class TestMixtureOfImages(PriorSuite):
    def instances(self):
        means = torch.randn(4, 2, 3, 3, generator=generator("images"), dtype=F64)
        return [GaussianMixture(torch.ones(4), means, scale=0.4, schedule=s) for s in SCHEDULES]


class TestEmpiricalPrior(PriorSuite):
    def instances(self):
        data = torch.rand(30, 1, 4, 4, generator=generator("data"), dtype=F64)
        return [EmpiricalPrior(data, 0.1), EmpiricalPrior(data, 0.0)]


class StandardNormal(sg.priors.Prior):
    """A prior that derives from the base class only."""

    def __init__(self):
        self.schedule, self.event_shape = sg.schedules.VP(), (2,)
        self.dtype, self.device = F64, torch.device("cpu")

    def denoise(self, x, t):
        level = self.schedule.level(t)
        return level.alpha * x / (level.alpha**2 + level.sigma**2)


class TestOwnPrior(PriorSuite):
    def instances(self):
        return [StandardNormal()]


# ---- densities and denoisers ---------------------------------------------------------------------


@metrics
@levels
def test_log_prob_is_that_of_torch_distributions(metric, schedule, t):
    level = schedule.level(t)
    x = (level.alpha + level.sigma) * points()
    expected = law(metric, level.alpha, level.sigma).log_prob(x)
    found = mixture(metric, schedule).log_prob(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


@metrics
def test_log_prob_at_time_zero_is_the_data_law(metric):
    torch.testing.assert_close(mixture(metric).log_prob(points()), law(metric).log_prob(points()))


@metrics
@with_signal
def test_denoiser_is_tweedie_s_formula(metric, schedule, t):
    level = schedule.level(t)
    x = ((level.alpha + level.sigma) * points()).requires_grad_()
    (score,) = torch.autograd.grad(law(metric, level.alpha, level.sigma).log_prob(x).sum(), x)
    x = x.detach()
    prior = mixture(metric, schedule)
    expected = (x + level.sigma**2 * score) / level.alpha
    torch.testing.assert_close(prior.denoise(x, t), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.score(x, t), score, rtol=1e-8, atol=1e-8)


@metrics
def test_denoiser_at_pure_noise_is_the_mean(metric):
    prior = mixture(metric, sg.schedules.RectifiedFlow())
    expected = (WEIGHTS @ MEANS).expand(7, 3)
    torch.testing.assert_close(prior.denoise(points(), 1.0), expected, rtol=1e-12, atol=1e-12)


@levels
@pytest.mark.parametrize("scale", [0.25, SCALES], ids=["one", "K"])
def test_denoiser_in_one_dimension_is_a_ratio_of_integrals(scale, schedule, t):
    means = torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)
    prior = GaussianMixture(WEIGHTS, means, scale=scale, schedule=schedule)
    level = schedule.level(t)
    x = level.alpha * torch.linspace(-2, 2, 5, dtype=F64) + level.sigma * 0.3
    grid = torch.linspace(-9, 9, 40_001, dtype=F64)
    s = torch.as_tensor(scale, dtype=F64).expand(3)
    density = (WEIGHTS / s * torch.exp(-((grid[:, None] - means.T) ** 2) / (2 * s**2))).sum(-1)
    kernel = torch.exp(-((x[:, None] - level.alpha * grid) ** 2) / (2 * level.sigma**2))
    expected = (kernel * density * grid).sum(-1) / (kernel * density).sum(-1)
    torch.testing.assert_close(prior.denoise(x[:, None], t)[:, 0], expected, rtol=1e-8, atol=1e-8)


@metrics
def test_gradient_of_the_denoiser_is_its_derivative(metric):
    prior = mixture(metric)
    assert torch.autograd.gradcheck(
        lambda x: prior.denoise(x, 0.4), (points(3).requires_grad_(),), atol=1e-6
    )


@metrics
def test_denoiser_far_from_the_data_is_finite(metric):
    prior = mixture(metric)
    D = prior.denoise(1e6 * points(), 0.3)
    assert torch.isfinite(D).all()


@metrics
def test_float32_states_are_denoised_in_float64(metric):
    x = points().float()
    prior = mixture(metric).to(dtype=torch.float32)
    D = prior.denoise(x, 0.01)
    assert D.dtype == torch.float32
    exact = mixture(metric).denoise(x.double(), 0.01)
    torch.testing.assert_close(D, exact.float(), rtol=0, atol=0)


def test_weights_are_normalised_and_zero_is_allowed():
    one = mixture(METRICS["isotropic"], weights=10 * WEIGHTS)
    torch.testing.assert_close(one.log_prob(points()), law(METRICS["isotropic"]).log_prob(points()))
    without = GaussianMixture(torch.tensor([0.4, 0.0, 0.6]), MEANS, scale=0.6)
    kept = GaussianMixture(torch.tensor([0.4, 0.6]), MEANS[[0, 2]], scale=0.6)
    torch.testing.assert_close(without.denoise(points(), 0.3), kept.denoise(points(), 0.3))


def test_a_permutation_of_components_changes_nothing():
    order, cov = [2, 0, 1], covariances()
    one = GaussianMixture(WEIGHTS, MEANS, cov)
    other = GaussianMixture(WEIGHTS[order], MEANS[order], cov[order])
    torch.testing.assert_close(one.denoise(points(), 0.3), other.denoise(points(), 0.3))


# ---- draws and moments ---------------------------------------------------------------------------


@metrics
def test_draws_have_the_moments(metric):
    prior = mixture(metric)
    x = prior.sample(40_000, generator("draws"))
    moments = prior.moments()
    covariance = moments.basis @ torch.diag(moments.variance) @ moments.basis.T
    z_test(x, moments.mean, ceiling=0.02)
    centred = x - moments.mean
    products = (centred[:, :, None] * centred[:, None, :]).flatten(1)
    z_test(products, covariance.flatten(), ceiling=0.05)


@metrics
def test_moments_are_the_law_of_total_variance(metric):
    moments = mixture(metric).moments()
    mean = WEIGHTS @ MEANS
    squares = full(metric) + MEANS[:, :, None] * MEANS[:, None, :]
    second = torch.einsum("k,kde->de", WEIGHTS, squares)
    torch.testing.assert_close(moments.mean, mean)
    covariance = moments.basis @ torch.diag(moments.variance) @ moments.basis.T
    torch.testing.assert_close(covariance, second - mean[:, None] * mean, rtol=1e-10, atol=1e-10)


@metrics
def test_draws_reach_every_component_at_its_own_width(metric):
    prior = mixture(metric)
    x = prior.sample(20_000, generator("draws"))
    components = MultivariateNormal(MEANS, full(metric))
    r = torch.softmax(WEIGHTS.log() + components.log_prob(x[:, None]), -1)
    z_test(r, WEIGHTS, ceiling=0.01)
    within = torch.linalg.inv(full(metric))
    distance = torch.einsum("nkd,kde,nke->nk", x[:, None] - MEANS, within, x[:, None] - MEANS)
    z_test(r * distance, 3 * WEIGHTS, ceiling=0.03)


@metrics
def test_initial_draws_have_the_noised_marginal(metric):
    prior = mixture(metric)
    t = prior.schedule.level(0.25)
    x = prior.initial(40_000, t, generator("initial"))
    z_test(x, t.alpha * prior.moments().mean, ceiling=0.02)
    moments = prior.moments()
    variance = (moments.basis**2) @ moments.variance
    exact = t.alpha**2 * variance + t.sigma**2
    z_test((x - t.alpha * moments.mean) ** 2, exact, ceiling=0.05)


def test_draws_follow_the_generator():
    prior = mixture(METRICS["full per component"])
    first, again = (prior.sample(5, generator("a")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, prior.sample(5, generator("b")))


# ---- posterior and evidence ----------------------------------------------------------------------

A = torch.tensor([[1.0, -0.5, 0.2], [0.0, 0.7, 1.5]], dtype=F64)
Y = torch.tensor([0.4, 1.1], dtype=F64)
STDS = {"one": 0.6, "each": torch.tensor([0.4, 0.9], dtype=F64)}
stds = pytest.mark.parametrize("std", STDS.values(), ids=STDS)


@metrics
@stds
def test_evidence_is_the_mean_likelihood(metric, std):
    prior = mixture(metric)
    x = prior.sample(60_000, generator("evidence"))
    noise = torch.as_tensor(std, dtype=F64).expand(2)
    likelihood = MultivariateNormal(x @ A.T, torch.diag(noise**2)).log_prob(Y).exp()
    truth = float(prior.log_evidence(A, Y, std).exp())
    z_test(likelihood / truth, 1.0, ceiling=0.02)
    weighted = likelihood[:, None] / truth * x
    z_test(weighted, prior.posterior(A, Y, std).moments().mean, ceiling=0.03)


@metrics
@stds
def test_posterior_is_bayes_rule_pointwise(metric, std):
    prior = mixture(metric)
    noise = torch.as_tensor(std, dtype=F64).expand(2)
    x = points()
    likelihood = MultivariateNormal(x @ A.T, torch.diag(noise**2)).log_prob(Y)
    expected = prior.log_prob(x) + likelihood - prior.log_evidence(A, Y, std)
    torch.testing.assert_close(
        prior.posterior(A, Y, std).log_prob(x), expected, rtol=1e-9, atol=1e-9
    )


def test_evidence_in_one_dimension_is_an_integral():
    means = torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)
    prior = GaussianMixture(WEIGHTS, means, scale=SCALES)
    grid = torch.linspace(-9, 9, 20_001, dtype=F64)
    a, y, std = torch.tensor([[1.7]], dtype=F64), torch.tensor([0.9], dtype=F64), 0.5
    likelihood = torch.distributions.Normal(1.7 * grid, std).log_prob(y).exp()
    integral = torch.trapezoid(prior.log_prob(grid[:, None]).exp() * likelihood, grid)
    found = float(prior.log_evidence(a, y, std))
    assert found == pytest.approx(math.log(float(integral)), abs=1e-9)


def test_posterior_of_one_gaussian_is_the_kalman_update():
    mean, cov = MEANS[0], covariances()[0]
    post = GaussianMixture(torch.ones(1), mean[None], cov).posterior(A, Y, 0.6).moments()
    S = A @ cov @ A.T + 0.36 * torch.eye(2, dtype=F64)
    gain = cov @ A.T @ torch.linalg.inv(S)
    torch.testing.assert_close(post.mean, mean + gain @ (Y - A @ mean), rtol=1e-10, atol=1e-10)
    covariance = post.basis @ torch.diag(post.variance) @ post.basis.T
    torch.testing.assert_close(covariance, cov - gain @ A @ cov, rtol=1e-10, atol=1e-10)


def test_posterior_keeps_schedule_shape_and_dtype():
    schedule = sg.schedules.EDM()
    means = MEANS.reshape(3, 1, 3, 1).float()
    post = GaussianMixture(WEIGHTS, means, scale=0.5, schedule=schedule).posterior(A, Y, 0.6)
    assert (post.event_shape, post.dtype, post.schedule) == ((1, 3, 1), torch.float32, schedule)
    assert post.sample(2, generator("a")).shape == (2, 1, 3, 1)


def test_events_of_any_shape_are_flat_inside():
    flat = mixture(METRICS["full per component"])
    shaped = GaussianMixture(WEIGHTS, MEANS.reshape(3, 3, 1), covariances())
    x = points()
    torch.testing.assert_close(
        shaped.denoise(x.reshape(-1, 3, 1), 0.3).flatten(1), flat.denoise(x, 0.3), rtol=0, atol=0
    )
    torch.testing.assert_close(shaped.log_evidence(A, Y, 0.6), flat.log_evidence(A, Y, 0.6))


# ---- kernel density ------------------------------------------------------------------------------


def test_empirical_prior_is_an_equal_mixture_around_the_data():
    data = torch.randn(20, 3, generator=generator("data"), dtype=F64)
    prior = EmpiricalPrior(data, 0.3)
    same = GaussianMixture(torch.ones(20), data, scale=0.3)
    torch.testing.assert_close(prior.denoise(points(), 0.2), same.denoise(points(), 0.2))
    torch.testing.assert_close(prior.moments().mean, data.mean(0))


def test_empirical_prior_of_bandwidth_zero_answers_with_data():
    data = torch.randn(20, 3, generator=generator("data"), dtype=F64)
    prior = EmpiricalPrior(data, 0.0)
    t = prior.schedule.level(1e-3)
    torch.testing.assert_close(prior.denoise(t.alpha * data, t.time), data, rtol=0, atol=1e-6)
    draws = prior.sample(50, generator("draws"))
    nearest = (draws[:, None] - data).abs().amax(-1).min(1).values
    assert (nearest < 1e-12).all()


# ---- moving and refused input --------------------------------------------------------------------


@metrics
def test_a_moved_prior_is_the_same_prior(metric, device):
    prior = mixture(metric)
    moved = prior.to(device)
    x = points()
    torch.testing.assert_close(moved.denoise(x.to(device), 0.3).cpu(), prior.denoise(x, 0.3))
    torch.testing.assert_close(moved.log_evidence(A, Y, 0.6).cpu(), prior.log_evidence(A, Y, 0.6))


BAD = {
    "both metrics": (
        {"covariances": covariances(), "scale": 1.0},
        "either covariances or scale, not both or none",
    ),
    "no metric": ({}, "either covariances or scale, not both or none"),
    "negative scale": ({"scale": -0.1}, r"scale must be >= 0, a float or \(3,\)"),
    "two scales": ({"scale": torch.ones(2)}, r"scale must be >= 0, a float or \(3,\)"),
    "NaN scale": ({"scale": math.nan}, r"scale must be >= 0"),
    "small covariance": ({"covariances": torch.eye(2)}, r"\(3, 3\) or \(3, 3, 3\) .*\(2, 2\)"),
    "two covariances": ({"covariances": torch.eye(3).expand(2, 3, 3)}, r"got \(2, 3, 3\)"),
    "indefinite covariance": (
        {"covariances": torch.diag(torch.tensor([1.0, 1.0, -0.5]))},
        r"a covariance has eigenvalue -0.5",
    ),
}


@pytest.mark.parametrize(("metric", "message"), BAD.values(), ids=BAD)
def test_bad_metrics_are_refused(metric, message):
    with pytest.raises(InvalidInput, match=message):
        mixture(metric)


BAD_WEIGHTS = {
    "two": torch.ones(2),
    "negative": torch.tensor([0.5, 0.6, -0.1]),
    "zeros": torch.zeros(3),
    "a column": torch.ones(3, 1),
    "NaN": [0.5, math.nan, 1],
}


@pytest.mark.parametrize("weights", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused(weights):
    with pytest.raises(InvalidInput, match="weights must be 3 nonnegative numbers, one per mean"):
        mixture({"scale": 1.0}, weights=weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64], ids=str)
def test_means_of_another_dtype_are_refused(dtype):
    with pytest.raises(InvalidInput, match=r"must be torch.float32 or torch.float64, got"):
        GaussianMixture(torch.ones(3), MEANS.to(dtype), scale=1.0)


def test_repr_is_short():
    text = repr(mixture(METRICS["isotropic"]))
    assert text.startswith("GaussianMixture(3 components, event (3,)")
    assert repr(EmpiricalPrior(MEANS, 0.1)).startswith("EmpiricalPrior(3 components")
