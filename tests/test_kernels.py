"""Reverse kernels: marginals of point masses, textbook formulas, and the law of whole chains.

The last section checks the oracles of `smcguide.testing` against kernels, since a chain is their joint.
"""

import math
from itertools import pairwise

import pytest
import torch

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.kernels import DDIM, DDPM, MatchedDDPM
from smcguide.records import Level
from smcguide.rehearsal import Moments, Rehearsal
from smcguide.schedules import EDM, VE, VP, Cosine, RectifiedFlow
from smcguide.testing import brute_force, gaussian_chain, generator, z_test

F64 = torch.float64
ETAS = [0.0, 0.3, 1.0]
etas = pytest.mark.parametrize("eta", ETAS)
STEPS = {
    "VP": (VP(), 0.8, 0.5),
    "VP almost data": (VP(), 0.01, 0.001),
    "Cosine": (Cosine(), 0.9, 0.2),
    "VE": (VE(), 1.0, 0.6),
    "EDM": (EDM(), 80.0, 0.002),
    "RectifiedFlow": (RectifiedFlow(), 0.7, 0.3),
    "RectifiedFlow from pure noise": (RectifiedFlow(), 1.0, 0.9),
}
steps = pytest.mark.parametrize(
    ("t", "s"),
    [(schedule.level(t), schedule.level(s)) for schedule, t, s in STEPS.values()],
    ids=STEPS,
)
DATA = Level(0.0, 1.0, 0.0)


def randn(*shape, name="x"):
    return torch.randn(shape, generator=generator(name), dtype=F64)


def slope(kernel, t, s):
    """d mean / d x at a fixed denoised estimate, and the mean at x = alpha_t x_0."""
    x0 = randn(1, 3, 2, name="x0")
    here = kernel.step(t.alpha * x0, x0, t, s, None)
    there = kernel.step(t.alpha * x0 + 1.0, x0, t, s, None)
    return float((there.mean - here.mean).mean()), here, x0


# ---- one step ------------------------------------------------------------------------------------


@steps
@etas
def test_marginals_of_a_point_mass_are_kept(t, s, eta):
    c_x, here, x0 = slope(DDIM(eta), t, s)
    torch.testing.assert_close(here.mean, s.alpha * x0, rtol=1e-10, atol=1e-10)
    variance = c_x**2 * t.sigma**2 + here.std**2
    assert variance == pytest.approx(s.sigma**2, rel=1e-9, abs=1e-14)


@steps
def test_eta_scales_the_standard_deviation(t, s):
    x = randn(1, 3, 2)
    full = DDIM(1.0).step(x, x, t, s).std
    assert DDIM(0.4).step(x, x, t, s).std == pytest.approx(0.4 * full, rel=1e-12)
    assert 0 < full <= s.sigma


@pytest.mark.parametrize(("t", "s"), [(0.8, 0.5), (0.3, 0.29), (0.01, 0.001)])
@pytest.mark.parametrize("schedule", [VP(), Cosine()], ids=repr)
def test_eta_one_is_the_textbook_ddpm_posterior(schedule, t, s):
    t, s = schedule.level(t), schedule.level(s)
    abar_t, abar_s = t.alpha**2, s.alpha**2
    beta = 1 - abar_t / abar_s
    x, x0 = randn(2, 3, 4), randn(2, 3, 4, name="x0")
    mean = math.sqrt(abar_s) * beta / (1 - abar_t) * x0
    mean = mean + math.sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t) * x
    base = DDPM().step(x, x0, t, s, None)
    torch.testing.assert_close(base.mean, mean, rtol=1e-9, atol=1e-9)
    assert base.std**2 == pytest.approx(beta * (1 - abar_s) / (1 - abar_t), rel=1e-8)


@steps
def test_eta_zero_keeps_the_noise_and_is_a_dirac(t, s):
    x, x0 = randn(2, 3, 4), randn(2, 3, 4, name="x0")
    base = DDIM(0.0).step(x, x0, t, s, None)
    eps = (x - t.alpha * x0) / t.sigma
    torch.testing.assert_close(base.mean, s.alpha * x0 + s.sigma * eps, rtol=1e-9, atol=1e-9)
    assert base.is_dirac


@etas
@pytest.mark.parametrize("t", [VP().level(0.5), VP().level(1e-3), RectifiedFlow().level(1.0)])
def test_the_step_to_data_is_the_denoised_estimate(eta, t):
    x, x0 = randn(2, 3, 4), randn(2, 3, 4, name="x0")
    base = DDIM(eta).step(x, x0, t, DATA, None)
    assert base.is_dirac
    torch.testing.assert_close(base.mean, x0, rtol=1e-12, atol=1e-12)


@etas
def test_clip_bounds_the_estimate_and_keeps_the_noise_direction(eta):
    t, s = VP().level(0.8), VP().level(0.5)
    x, x0 = randn(2, 3, 4), 2 * randn(2, 3, 4, name="x0")
    plain, clipped = (DDIM(eta, clip=c).step(x, x0, t, s) for c in (None, (-1.0, 0.5)))
    removed = x0 - x0.clamp(-1.0, 0.5)
    assert float(removed.abs().max()) > 0.5
    torch.testing.assert_close(plain.mean - clipped.mean, s.alpha * removed, rtol=1e-10, atol=1e-10)
    assert plain.std == clipped.std


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_zero_one_is_refused(eta):
    with pytest.raises(InvalidInput, match=r"eta must be in \[0, 1\]"):
        DDIM(eta)


@pytest.mark.parametrize("kernel", [DDIM(0.5), DDPM(), MatchedDDPM()], ids=repr)
def test_float32_states_stay_float32(kernel):
    x = randn(1, 3, 2).float()
    base = kernel.step(x, x, VP().level(0.8), VP().level(0.5), None)
    assert base.mean.dtype == torch.float32
    assert type(base.std) is float


def test_ddpm_is_the_member_of_the_family():
    assert DDPM() == DDIM(eta=1.0)


# ---- matched variance ----------------------------------------------------------------------------


def gaussian_rehearsal(variance, levels):
    """A rehearsal whose residuals have exactly the variance of x_0 given x_t under N(0, variance)."""
    levels = sorted(levels, key=lambda level: -level.ratio)
    unknown = [1 / (1 / variance + (t.alpha / t.sigma) ** 2) for t in levels]
    x0 = torch.zeros(4, 2, dtype=F64)
    x0_hat = torch.stack([math.sqrt(v) * torch.ones(4, 2, dtype=F64) for v in unknown])
    log_snr = torch.tensor([-2 * math.log(t.ratio) for t in levels], dtype=F64)
    moments = Moments(torch.zeros(2, dtype=F64), torch.full((2,), variance, dtype=F64))
    return Rehearsal(moments, x0, log_snr, x0_hat)


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_matched_variance_reproduces_an_isotropic_gaussian_on_a_coarse_grid(variance):
    schedule, times = VP(), (1.0, 0.6, 0.3, 0.1)
    levels = [schedule.level(t) for t in times]
    kernel = MatchedDDPM().bind(gaussian_rehearsal(variance, levels))
    law = levels[0].alpha ** 2 * variance + levels[0].sigma ** 2
    for t, s in pairwise(levels):
        gain = t.alpha * variance / (t.alpha**2 * variance + t.sigma**2)
        x = torch.ones(1, 1, 2, dtype=F64)
        base = kernel.step(x, gain * x, t, s, None)
        law = float(base.mean[0, 0, 0]) ** 2 * law + base.std**2
        assert law == pytest.approx(s.alpha**2 * variance + s.sigma**2, rel=1e-10)


def test_matched_variance_is_larger_than_ddpm_s_and_has_its_mean():
    t, s = VP().level(0.6), VP().level(0.3)
    x, x0 = randn(1, 3, 2), randn(1, 3, 2, name="x0")
    bound = MatchedDDPM().bind(gaussian_rehearsal(1.0, [t, s]))
    plain, matched = DDPM().step(x, x0, t, s), bound.step(x, x0, t, s)
    assert torch.equal(plain.mean, matched.mean)
    assert matched.std > 1.1 * plain.std
    assert bound.step(x, x0, s, DATA).is_dirac


def test_matched_variance_unbound_is_ddpm():
    t, s = VP().level(0.6), VP().level(0.3)
    x = randn(1, 3, 2)
    assert MatchedDDPM().step(x, x, t, s).std == DDPM().step(x, x, t, s).std


def test_binding_a_kernel_leaves_the_original_alone():
    kernel = MatchedDDPM()
    kernel.bind(gaussian_rehearsal(1.0, [VP().level(0.6), VP().level(0.3)]))
    assert kernel == MatchedDDPM()
    assert kernel._rehearsal is None


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (RectifiedFlow(), sg.grids.uniform(6)),
        (VP(), sg.grids.uniform(2)),
        (VP(), torch.tensor([0.5, 0.0], dtype=F64)),
        (EDM(), sg.grids.karras(50)),
    ],
    ids=["from pure noise", "two steps", "one step", "fifty steps"],
)
def test_matched_variance_of_a_model_is_finite_on_every_grid(schedule, times):
    prior = sg.priors.GaussianMixture(
        torch.ones(2), randn(2, 2, name="means"), scale=0.5, schedule=schedule
    )
    model = sg.GuidedDiffusion(
        prior, lambda x: x[:, 0], kernel=MatchedDDPM(), times=times,
        potential=sg.potentials.Terminal(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    x = randn(1, 3, 2)
    for t, s in pairwise(model.levels):
        std = model.kernel.step(x, x, t, s, None).std
        assert math.isfinite(std)
        assert (std > 0) == (s.sigma > 0)


# ---- chains --------------------------------------------------------------------------------------

MEAN = torch.tensor([0.5, -0.3], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
A = torch.tensor([[1.0, -0.4]], dtype=F64)
Y = torch.tensor([1.9], dtype=F64)
CHAINS = {
    "VP": (VP(), (1.0, 0.55, 0.3, 0.12, 0.0)),
    "EDM": (EDM(), (80.0, 5.0, 1.0, 0.3, 0.0)),
    "RectifiedFlow": (RectifiedFlow(), (1.0, 0.7, 0.4, 0.1, 0.0)),
}
chains = pytest.mark.parametrize(("schedule", "times"), CHAINS.values(), ids=CHAINS)


def gaussian_prior(schedule):
    return sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE, schedule=schedule)


def push(prior, kernel, levels, mean, covariance):
    """Mean and covariance of the chain, from the affine map that prior and kernel perform."""
    for t, s in pairwise(levels):
        probes = torch.cat([torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)])
        base = kernel.step(probes[None], prior.denoise(probes, t.time)[None], t, s, None)
        offset = base.mean[0, 0]
        F = (base.mean[0, 1:] - offset).T
        mean = F @ mean + offset
        covariance = F @ covariance @ F.T + base.std**2 * torch.eye(2, dtype=F64)
    return mean, covariance


@chains
@etas
@pytest.mark.parametrize("start", ["marginal", "noise"])
def test_the_gaussian_oracle_is_the_law_of_prior_and_kernel(schedule, times, eta, start):
    levels, T = [schedule.level(t) for t in times], schedule.level(times[0])
    law = gaussian_chain(MEAN, COVARIANCE, levels, eta=eta, start=start)
    begin = torch.zeros(2, dtype=F64), T.sigma**2 * torch.eye(2, dtype=F64)
    if start == "marginal":
        begin = T.alpha * MEAN, T.alpha**2 * COVARIANCE + begin[1]
    mean, covariance = push(gaussian_prior(schedule), DDIM(eta), levels, *begin)
    torch.testing.assert_close(law.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.covariance, covariance, rtol=1e-9, atol=1e-9)


@chains
def test_draws_of_a_chain_have_the_oracle_s_moments(schedule, times):
    levels = [schedule.level(t) for t in times]
    law = gaussian_chain(MEAN, COVARIANCE, levels, eta=0.7)
    x = sg.draw(gaussian_prior(schedule), DDIM(0.7), levels, 40_000, generator("chain"), 40_000)
    z_test(x, law.mean, ceiling=0.01)
    centred = x - law.mean
    products = (centred[:, :, None] * centred[:, None, :]).flatten(1)
    z_test(products, law.covariance.flatten(), ceiling=0.02)


def test_a_coarse_ddpm_chain_contracts_and_the_error_falls_like_one_over_steps():
    errors = []
    for K in (32, 64, 128, 256):
        levels = [VP().level(float(t)) for t in sg.grids.log_snr(K)(VP())]
        law = gaussian_chain(MEAN, COVARIANCE, levels)
        errors.append(float((COVARIANCE - law.covariance).diagonal().mean()))
    assert errors[0] > 0.02
    slopes = [math.log2(b / a) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([-1.0, -1.0, -1.0], abs=0.3)


def test_the_gaussian_oracle_s_evidence_and_posterior_are_bayes_rule():
    law = gaussian_chain(MEAN, COVARIANCE, [VP().level(t) for t in CHAINS["VP"][1]])
    prior = torch.distributions.MultivariateNormal(law.mean, law.covariance)
    post = law.posterior(A, Y, 0.5)
    after = torch.distributions.MultivariateNormal(post.mean, post.covariance)
    x = randn(5, 2)
    likelihood = torch.distributions.Normal(x @ A[0], 0.5).log_prob(Y)
    log_z = prior.log_prob(x) + likelihood - after.log_prob(x)
    torch.testing.assert_close(log_z, torch.full_like(log_z, law.log_evidence(A, Y, 0.5)))


@etas
def test_brute_force_agrees_with_the_gaussian_oracle(eta):
    schedule, times = CHAINS["VP"]
    levels = [schedule.level(t) for t in times]
    exact = gaussian_chain(MEAN, COVARIANCE, levels, eta=eta).log_evidence(A, Y, 0.5)
    cost = sg.costs.LinearGaussian(A, Y, 0.5)
    found = brute_force(gaussian_prior(schedule), DDIM(eta), levels, cost, 200_000)
    assert found.se < 0.005
    assert abs(found.log_z - exact) < 5.5 * found.se


def test_the_oracle_tells_the_chain_from_its_continuous_limit():
    schedule, times = CHAINS["VP"]
    levels = [schedule.level(t) for t in times]
    discrete = gaussian_chain(MEAN, COVARIANCE, levels).log_evidence(A, Y, 0.5)
    continuous = float(gaussian_prior(schedule).log_evidence(A, Y, 0.5))
    assert abs(discrete - continuous) > 0.3
