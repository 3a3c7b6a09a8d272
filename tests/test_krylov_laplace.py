"""KrylovLaplace: where it is exact, where it is far better than the cost at the estimate, and that it is
legal everywhere."""

import math

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, TIMES, A, Y, ratios

import smcguide as sg
from smcguide.costs import LinearGaussian, as_cost
from smcguide.potentials import InflatedGaussian, KrylovLaplace, Terminal, Tweedie
from smcguide.testing import PotentialSuite, generator, z_test

F64 = torch.float64
P = sg.proposals
ISOTROPIC = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], scale=1.3)


class TestKrylovLaplace(PotentialSuite):
    """In three dimensions three iterations solve a quadratic."""

    gradient_is_derivative = False

    def instances(self):
        return [KrylovLaplace(num_steps=2), KrylovLaplace()]

    def gradient(self, model, look):
        """J^T V^-1 (x^ - D) = -J^T A^T (y - A x^) / s^2 at the minimiser in closed form."""
        m = sg.rehearse(model.prior).moments
        V = (m.basis * look.t.prior_width(m.variance)) @ m.basis.T
        A, cost = model.cost.matrix(model.event_shape), model.cost
        S = A @ V @ A.T + torch.diag(cost.std**2)
        r = (cost.y - look.x0_hat @ A.T) @ torch.linalg.inv(S) @ A
        _, J = look.step.linearise(look.step.denoise, look.x)
        return J(r)


def model(prior, cost, potential=None, proposal=None, **kwargs):
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=kwargs.pop("times", TIMES),
        potential=potential or KrylovLaplace(), proposal=proposal or P.Bootstrap(), **kwargs,
    )  # fmt: skip


def values(chain, k=1):
    x = 2 * torch.randn(1, 50, 2, generator=generator("states"), dtype=F64)
    return chain.look_at(k, x).log_psi, x


def test_exact_for_a_linear_cost_and_a_gaussian_prior() -> None:
    """log E exp(-b.x_0) = -b.D + b^T V_t b / 2."""
    b = torch.tensor([1.5, -0.7], dtype=F64)
    chain = model(PRIOR, lambda x: x @ b)
    value, x = values(chain)
    t = chain.levels[1]
    V = torch.linalg.inv(torch.linalg.inv(COV) + (t.alpha / t.sigma) ** 2 * torch.eye(2))
    torch.testing.assert_close(value, -chain.denoise(x, t) @ b + b @ V @ b / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("m", [1, 2])
def test_exact_for_linear_measurements_and_a_gaussian_prior(m) -> None:
    matrix = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=F64)[:m]
    cost = LinearGaussian(matrix, torch.tensor([2.0, -1.0], dtype=F64)[:m], 0.1)
    krylov, _ = values(model(PRIOR, cost))
    exact, _ = values(model(PRIOR, cost, InflatedGaussian()))
    torch.testing.assert_close(krylov, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("local", [0.5, 1.0])
def test_the_particle_s_own_covariance_is_the_prior_s_for_a_gaussian(local) -> None:
    cost = LinearGaussian(A, Y, 0.1)
    own, _ = values(model(PRIOR, cost, KrylovLaplace(local=local)))
    exact, _ = values(model(PRIOR, cost, InflatedGaussian()))
    torch.testing.assert_close(own, exact, rtol=0, atol=1e-6)


def test_exact_up_to_a_constant_for_an_isotropic_quadratic_in_high_dimension() -> None:
    """One distinct curvature: one direction tells the determinant up to its multiplicity."""
    d = 50
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, d, dtype=F64), scale=1.3)
    c = torch.randn(d, generator=generator("centre"), dtype=F64)
    x = 2 * torch.randn(1, 20, d, generator=generator("states"), dtype=F64)
    whole = model(prior, LinearGaussian(torch.eye(d, dtype=F64), c, 0.1), InflatedGaussian())
    krylov = model(prior, lambda x: 50 * (x - c).square().sum(1))
    gap = krylov.look_at(1, x).log_psi - whole.look_at(1, x).log_psi
    assert float(gap.std()) < 1e-5


@pytest.mark.parametrize("proposal", [P.Bootstrap(), P.Gradient(), P.DTM()], ids=repr)
@pytest.mark.parametrize("N", [16, 400])
@pytest.mark.parametrize("local", [0.0, 0.5])
def test_evidence_is_unbiased(proposal, N, local) -> None:
    chain = model(PRIOR, LinearGaussian(A, Y, 0.5), KrylovLaplace(local=local), proposal)
    ratio, _ = ratios(chain, num_systems=100 if N > 16 else 400, num_particles=N)
    z_test(ratio, 1.0, ceiling=0.05)


def test_a_mixed_covariance_lowers_the_variance_of_a_rare_event() -> None:
    """The tail of two components of a mixture."""
    means = torch.tensor([[0.0, -1.3], [1.4, 1.1], [-0.8, 1.2]], dtype=F64)
    prior = sg.priors.GaussianMixture(torch.tensor([0.5, 0.2, 0.3]), means, scale=0.35)

    def cost(x):
        return -torch.special.log_ndtr((x[:, 1] - 2.5) / 0.1)

    spread = []
    for local in (0.0, 0.5):
        post = sg.sample(
            prior, cost, num_particles=200, num_systems=100, num_steps=40, progress=False,
            potential=KrylovLaplace(local=local), trigger=sg.triggers.ess_below(0.9),
        )  # fmt: skip
        ratio = torch.exp(post.log_evidence - post.log_evidence.mean())
        spread.append(float(ratio.var() / ratio.mean() ** 2))
    assert spread[1] < 0.75 * spread[0]


def test_curvature_below_zero_is_taken_as_straight() -> None:
    """A hill in the cost: values stay finite and legal, evidence unbiased."""

    def hill(x):
        return 3 * torch.exp(-(x - MEAN).square().sum(1))

    chain = model(PRIOR, hill)
    value, _ = values(chain)
    assert bool(torch.isfinite(value).all())
    plain = sg.run(model(PRIOR, hill, Terminal()), num_particles=200_000, progress=False)
    post = sg.run(chain, num_particles=64, num_systems=400, progress=False)
    z_test(torch.exp(post.log_evidence - plain.log_evidence), 1.0, ceiling=0.04)


def test_far_better_than_the_cost_at_the_estimate_where_the_cost_is_sharp() -> None:
    """A quadratic reward of standard deviation 0.1, as a plain function: the default knows."""
    c, std = torch.tensor([1.2, -2.0], dtype=F64), 0.1

    def cost(x):
        return (x - c).square().sum(1) / (2 * std**2)

    log_z = PRIOR.log_evidence(torch.eye(2, dtype=F64), c, std) + math.log(2 * math.pi * std**2)
    errors = {}
    for potential in (None, Tweedie()):
        post = sg.sample(
            PRIOR, cost, num_particles=300, num_systems=20, num_steps=60, potential=potential,
            progress=False,
        )  # fmt: skip
        errors[potential] = float((post.log_evidence - log_z).square().mean().sqrt())
    assert errors[None] < 0.3
    assert errors[Tweedie()] > 5 * errors[None]


def test_float32_agrees_with_float64() -> None:
    c = torch.tensor([2.0, 0.5], dtype=F64)
    found = []
    for dtype in (torch.float32, F64):
        prior = ISOTROPIC.to(dtype=dtype)
        chain = model(prior, lambda x: 50 * (x - c.to(x)).square().sum(1))
        x = torch.randn(1, 50, 2, generator=generator("states"), dtype=F64).to(dtype)
        found.append(chain.look_at(1, x).log_psi)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-2)


def test_a_flat_cost_has_its_own_value() -> None:
    value, _ = values(model(PRIOR, lambda x: 0 * x[:, 0] + 3.0))
    torch.testing.assert_close(value, torch.full_like(value, -3.0))


@pytest.mark.parametrize("arguments", [{"num_iters": 0}, {"num_steps": 0}, {"local": 1.5}])
def test_bad_arguments_are_refused(arguments) -> None:
    with pytest.raises(sg.InvalidInput, match="must be at least 1"):
        KrylovLaplace(**arguments)


def test_a_cost_without_gradient_is_refused_with_the_remedy() -> None:
    with pytest.raises(sg.InvalidInput, match=r"cannot be differentiated. Use potentials\.Tweedie"):
        model(PRIOR, lambda x: x.detach()[:, 0] ** 2)


def test_defaults_follow_what_the_cost_can_do() -> None:
    from smcguide.sampling import default_potential

    linear, smooth = LinearGaussian(A, Y, 0.5), as_cost(lambda x: x.square().sum(1))
    stairs = as_cost(lambda x: x.detach()[:, 0] ** 2)
    assert default_potential(PRIOR, linear) == InflatedGaussian()
    assert default_potential(PRIOR, smooth) == KrylovLaplace()
    assert type(default_potential(PRIOR, stairs)) not in (InflatedGaussian, KrylovLaplace, Terminal)
