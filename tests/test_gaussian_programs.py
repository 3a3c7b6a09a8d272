"""Programs with normal data as Gaussian likelihoods: recognised where they are some, with the program's
own values; and never taken for what they only are near the origin."""

import math

import pytest
import torch

from smcguide.bridges.gaussian import as_gaussian
from smcguide.bridges.latents import ParametricProgramCost, program_cost
from smcguide.bridges.layout import Layout
from smcguide.costs import GaussianLikelihood, LinearGaussian
from smcguide.potentials import InflatedGaussian, KrylovLaplace
from smcguide.priors import GaussianMixture
from smcguide.sampling import default_potential
from smcguide.testing import generator

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from pyro import poutine  # noqa: E402

from smcguide.bridges.pyro import DiffusionPrior, PyroProgram  # noqa: E402

F64 = torch.float64
A = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]], dtype=F64)
B = torch.tensor([4.0, -3.0], dtype=F64)
Y = torch.tensor([0.7, -0.4], dtype=F64)
ZERO, ONE = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)


def gaussian(mean=0.0, scale=1.0, shape=(3,), dtype=F64):
    return GaussianMixture(torch.ones(1), torch.full((1, *shape), mean, dtype=dtype), scale=scale)


PRIOR, IMAGES = gaussian(), gaussian(shape=(1, 4, 4))
FAR, NARROW = gaussian(50.0, 10.0), gaussian(50.0, 0.5)
SINGLE = gaussian(dtype=torch.float32)


def latent(prior=PRIOR, name="x"):
    return pyro.sample(name, DiffusionPrior(prior).mask(False))


def observe(mean, scale=0.5, y=Y):
    return pyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def asked(model, *theta):
    """The program and what it is taken for at these parameters."""
    program = PyroProgram(model)
    return program, as_gaussian(program, Layout(program.priors), torch.tensor(theta, dtype=F64))


def values(program, cost, *theta):
    """Log-likelihoods at events near and far, by the cost and by the program itself."""
    layout, source = Layout(program.priors), generator("events")
    dtype = next(iter(program.example.values())).dtype
    x = torch.randn(40, *layout.event_shape, generator=source, dtype=dtype)
    x = x * torch.tensor([0.1, 1.0, 10.0, 100.0]).to(dtype).repeat(10).reshape(
        -1, *[1] * (x.dim() - 1)
    )
    theta = torch.tensor(theta, dtype=F64).expand(len(x), -1)
    choice = program.choices.expand(len(x), -1)
    own = program.log_probs(layout.sites_of(x, program), theta, choice).observed
    return -cost(x[None])[0], own


# ---- affine programs -----------------------------------------------------------------------------


def linear():
    observe(A @ latent())


def with_offset():
    observe(A @ latent() + B)


def with_a_derived_quantity():
    x = latent()
    pyro.deterministic("brightness", x.mean())
    observe(A @ x)


def plates():
    x = latent()
    with pyro.plate("a", 3, dim=-1), pyro.plate("b", 2, dim=-2):
        pyro.sample("y", dist.Normal(x + B[:, None], 0.5), obs=torch.outer(Y, torch.ones(3)))


def several_sites():
    """Data of shapes (2,), (3, 1) and (), with one, two and three noise levels."""
    x = latent()
    observe(A @ x, torch.tensor([0.2, 3.0]).double())
    pyro.sample("z", dist.Normal(2 * x[:, None], 0.1).to_event(2), obs=torch.ones(3, 1).double())
    pyro.sample("s", dist.Normal(x.sum(), 7.0), obs=ONE)


def one_mean_for_three_data():
    pyro.sample("y", dist.Normal(latent().sum(), 0.5), obs=torch.tensor([1.0, 2.0, 3.0]).double())


def nested_events():
    inner = dist.Normal(A @ latent(), 0.5).to_event(1)
    pyro.sample("y", inner.expand([4]).to_event(1), obs=Y.expand(4, 2))


def picture():
    x = latent(IMAGES)
    kernel = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]], dtype=F64)
    seen = torch.nn.functional.conv2d(x[None], kernel)[0] - x.mean()
    pyro.sample("y", dist.Normal(seen[:, ::2], 0.5).to_event(3), obs=torch.ones(1, 2, 3).double())


def two_priors():
    observe(A @ latent() + latent(IMAGES, "z")[0, :2, 0])


def plated_prior():
    with pyro.plate("objects", 4):
        x = latent()
        pyro.sample("y", dist.Normal(x @ A.T, 0.5).to_event(1), obs=Y.expand(4, 2))


def single_precision():
    observe(A.float() @ latent(SINGLE) + 300.0, y=Y.float() + 300)


conditioned = pyro.condition(lambda: observe(A @ latent(), y=None), {"y": Y})


def through_numpy():
    observe(torch.as_tensor(A.numpy() @ latent().detach().numpy()))


AFFINE = [
    linear, with_offset, with_a_derived_quantity, plates, several_sites, one_mean_for_three_data,
    nested_events, picture,
    two_priors, plated_prior, single_precision, conditioned,
]  # fmt: skip


def named(model):
    return getattr(model, "__name__", "conditioned")


@pytest.mark.parametrize("model", AFFINE, ids=named)
def test_affine_programs_are_linear_measurements_with_their_own_values(model) -> None:
    program, cost = asked(model)
    assert isinstance(cost, LinearGaussian)
    tolerance = 1e-4 if model is single_precision else 1e-10
    torch.testing.assert_close(*values(program, cost), rtol=tolerance, atol=tolerance)
    assert isinstance(program_cost(program, Layout(program.priors)), LinearGaussian)


@pytest.mark.filterwarnings("ignore:The program is run for one particle after the other")
def test_an_affine_program_that_cannot_be_batched_needs_not_be_run_again() -> None:
    program, cost = asked(through_numpy)
    assert program.loop_reason is not None and isinstance(cost, LinearGaussian)
    torch.testing.assert_close(*values(program, cost), rtol=1e-10, atol=1e-10)


def test_the_matrix_is_the_programs_and_the_offset_is_in_the_data() -> None:
    _, cost = asked(with_offset)
    torch.testing.assert_close(cost.matrix((3,)), A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cost.y[0, 0], Y - B, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cost.std, torch.full((2,), 0.5).double())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 32, 32)])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_rounding_of_large_sums_in_single_precision_is_no_curvature(shape, mean) -> None:
    prior = gaussian(mean, shape=shape, dtype=torch.float32)
    blur = torch.rand(shape[1:], generator=generator("blur"))
    wide = torch.randn(50, prior.moments().mean.numel(), generator=generator("wide"))
    operators = {
        "matrix": lambda x: wide @ x.flatten(),
        "blur": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(blur), shape[1:]),
        "differences": lambda x: x[..., 1:] - x[..., :-1],
        "bytes": lambda x: 127.5 * (x + 1),
    }
    for name, f in operators.items():

        def model(f=f):
            mean = f(latent(prior))
            y = torch.zeros(mean.shape)
            pyro.sample("y", dist.Normal(mean, 0.5).to_event(mean.dim()), obs=y)

        assert isinstance(asked(model)[1], LinearGaussian), name


def test_noise_and_gain_may_be_parameters() -> None:
    def model():
        gain = pyro.sample("gain", dist.Normal(ONE, 0.5))
        sigma = pyro.sample("sigma", dist.LogNormal(ZERO, 0.5))
        observe(gain * (A @ latent()) + gain**2, sigma)

    program, cost = asked(model, 1.7, -0.4)
    assert isinstance(cost, LinearGaussian)
    torch.testing.assert_close(cost.matrix((3,)), 1.7 * A)
    torch.testing.assert_close(cost.std, torch.full((2,), math.exp(-0.4)).double())
    torch.testing.assert_close(*values(program, cost, 1.7, -0.4), rtol=1e-10, atol=1e-10)
    whole = program_cost(program, Layout(program.priors))
    assert type(whole) is ParametricProgramCost
    fixed = whole.fixed(torch.tensor([1.7, -0.4], dtype=F64))
    assert isinstance(fixed, LinearGaussian) and fixed.parameters is None


def test_parameters_in_a_program_of_another_kind_are_just_fixed() -> None:
    def model():
        sigma = pyro.sample("sigma", dist.LogNormal(ZERO, 0.5))
        pyro.sample("y", dist.StudentT(3 * ONE, A @ latent(), sigma).to_event(1), obs=Y)

    program = PyroProgram(model)
    cost = program_cost(program, Layout(program.priors))
    fixed = cost.fixed(torch.tensor([0.3], dtype=F64))
    assert fixed.parameters is None
    torch.testing.assert_close(*values(program, fixed, 0.3), rtol=1e-10, atol=1e-10)


def test_default_values_are_chosen_by_what_the_program_is() -> None:
    kinds = {linear: InflatedGaussian, absolute: InflatedGaussian, poisson: KrylovLaplace}
    for model, kind in kinds.items():
        program = PyroProgram(model)
        potential = default_potential(PRIOR, program_cost(program, Layout(program.priors)))
        assert isinstance(potential, kind)


# ---- other normal programs -----------------------------------------------------------------------


def absolute():
    observe((A @ latent()).abs())


def squared():
    observe(A @ latent() ** 2)


def growing():
    """At far probes neither the mean nor the likelihood is finite."""
    observe(A.float() @ latent(SINGLE).exp(), y=Y.float())


def product_of_two():
    observe(latent() @ latent(name="z") * B)


@pytest.mark.parametrize("model", [absolute, squared, growing, product_of_two], ids=named)
def test_other_normal_programs_are_gaussian_likelihoods(model) -> None:
    program, cost = asked(model)
    assert isinstance(cost, GaussianLikelihood) and not isinstance(cost, LinearGaussian)
    tolerance = 1e-4 if model is growing else 1e-10
    by_cost, own = values(program, cost)
    seen = own.isfinite()
    torch.testing.assert_close(by_cost[seen], own[seen], rtol=tolerance, atol=tolerance)


def test_their_forward_model_is_differentiable() -> None:
    _, cost = asked(squared)
    x = torch.randn(1, 2, 3, generator=generator("x"), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(cost, (x,))


# ---- what only looks affine ----------------------------------------------------------------------


def saturates():
    observe((A @ latent()).clamp(-20.0, 20.0))


def saturates_late():
    observe((A @ latent()).clamp(-900.0, 900.0))


def one_pixel_saturates():
    x = latent(IMAGES)
    x = torch.cat([x.flatten()[:15], x.flatten()[15:].clamp(max=12.0)])
    pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=torch.zeros(16).double())


def rectified():
    observe((A @ latent() + 30).relu())


def slowly_bent():
    observe(1e3 * torch.tanh(A.float() @ latent(SINGLE) / 1e3), y=Y.float())


def slightly_bent():
    """A tenth of the noise, beside a large offset in single precision."""
    mean = A.float() @ latent(SINGLE)
    observe(1000 + mean + 0.05 * torch.sin(3 * mean), y=Y.float())


def far_from_the_origin():
    """Affine around 0, where no draw of this prior is."""
    observe((A @ latent(FAR)).clamp(max=40.0))


def bent_where_the_prior_is():
    x = latent(NARROW)
    observe(A @ x + torch.exp(-(x - 50).square().sum() / 9))


def quantised():
    observe(((A @ latent()) * 1e6).round() / 1e6)


def a_small_site_beside_a_large_one():
    x = latent(SINGLE)
    pyro.sample("large", dist.Normal(1e6 * x, 1e3).to_event(1), obs=torch.zeros(3))
    pyro.sample("small", dist.Normal(0.1 * x.abs(), 0.01).to_event(1), obs=torch.zeros(3))


SHAM = [
    saturates, saturates_late, one_pixel_saturates, rectified, slowly_bent, slightly_bent,
    far_from_the_origin, bent_where_the_prior_is, quantised, a_small_site_beside_a_large_one,
]  # fmt: skip


@pytest.mark.parametrize("model", SHAM, ids=named)
def test_what_is_affine_only_somewhere_is_not_taken_for_affine(model) -> None:
    program, cost = asked(model)
    assert isinstance(cost, GaussianLikelihood) and not isinstance(cost, LinearGaussian)
    single = model in (slowly_bent, slightly_bent, a_small_site_beside_a_large_one)
    tolerance = 1e-3 if single else 1e-10
    torch.testing.assert_close(*values(program, cost), rtol=tolerance, atol=tolerance)


def test_a_difference_where_no_particle_goes_does_not_matter() -> None:
    """The limit of what is looked at: a million times the prior's width."""

    def model():
        observe((A @ latent()).clamp(-1e6, 1e6))

    program, cost = asked(model)
    assert isinstance(cost, LinearGaussian)
    torch.testing.assert_close(*values(program, cost), rtol=1e-10, atol=1e-10)


# ---- programs that are none ----------------------------------------------------------------------


def noise_depends():
    x = latent()
    observe(A @ x, 0.5 + x.square().sum())


def noise_depends_late():
    x = latent()
    observe(A @ x, 0.5 + (x.sum() - 20).relu())


def noise_depends_where_the_prior_is():
    x = latent(NARROW)
    observe(A @ x, 0.5 + torch.exp(-(x - 50).square().sum()))


def scaled():
    x = latent()
    with poutine.scale(scale=0.5):
        observe(A @ x)


def masked():
    x = latent()
    with pyro.plate("data", 2), poutine.mask(mask=torch.tensor([True, False])):
        pyro.sample("y", dist.Normal(A @ x, 0.5), obs=Y)


def masked_distribution():
    pyro.sample("y", dist.Normal(A @ latent(), 0.5).mask(False).to_event(1), obs=Y)


def with_factor():
    x = latent()
    observe(A @ x)
    pyro.factor("tilt", x.sum())


def factor_only():
    pyro.factor("tilt", -latent().square().sum())


def poisson():
    pyro.sample("y", dist.Poisson((A @ latent()).exp()).to_event(1), obs=Y.abs().round())


def student():
    pyro.sample("y", dist.StudentT(3 * ONE, A @ latent(), 0.5).to_event(1), obs=Y)


def log_normal():
    pyro.sample("y", dist.LogNormal(A @ latent(), 0.5).to_event(1), obs=Y.abs())


def correlated():
    pyro.sample("y", dist.MultivariateNormal(A @ latent(), torch.eye(2).double()), obs=Y)


def one_of_two():
    x = latent()
    observe(A @ x)
    pyro.sample("z", dist.Laplace(x.sum(), ONE), obs=ONE)


def discrete():
    observe(A @ latent() + pyro.sample("k", dist.Bernoulli(0.5 * ONE)))


def missing():
    """A masked NaN is legal, an unmasked one as well: the likelihood is NaN, and the run says so."""
    with pyro.validation_enabled(False):
        observe(A @ latent(), y=torch.tensor([0.7, math.nan]).double())


NONE = [
    noise_depends, noise_depends_late, noise_depends_where_the_prior_is, scaled, masked,
    masked_distribution, with_factor, factor_only, poisson, student, log_normal, correlated,
    one_of_two, discrete, missing,
]  # fmt: skip


@pytest.mark.parametrize("model", NONE, ids=named)
def test_programs_of_another_kind_are_none(model) -> None:
    program, cost = asked(model)
    assert cost is None
    assert not isinstance(program_cost(program, Layout(program.priors)), GaussianLikelihood)


def test_scaled_and_masked_parameters_are_none() -> None:
    def model():
        with poutine.scale(scale=0.5):
            sigma = pyro.sample("sigma", dist.LogNormal(ZERO, ONE))
        observe(A @ latent(), sigma)

    assert asked(model, 0.0)[1] is None


@pytest.mark.parametrize("log_sigma", [-800.0, 800.0])
def test_a_noise_level_beyond_the_numbers_is_none(log_sigma) -> None:
    def model():
        observe(A @ latent(), pyro.sample("sigma", dist.LogNormal(ZERO, ONE)))

    assert asked(model, log_sigma)[1] is None


def branches_to_another_law():
    x = latent()
    if x.sum() < 3:
        observe(A @ x)
    else:
        pyro.sample("y", dist.StudentT(3 * ONE, A @ x, 0.5).to_event(1), obs=Y)


def branches_to_another_mean():
    x = latent()
    observe(A @ x if x.sum() < 30 else -A @ x)


def branches_by_what_it_is_given():
    x = latent()
    observe((A @ x).abs() if x.sum() < 1e9 else pyro.sample("never", dist.Normal(ZERO, ONE)))


@pytest.mark.parametrize(
    "model",
    [branches_to_another_law, branches_to_another_mean, branches_by_what_it_is_given],
    ids=named,
)
@pytest.mark.filterwarnings("ignore:The program is run for one particle after the other")
def test_programs_that_branch_are_none_unless_they_are_affine(model) -> None:
    assert asked(model)[1] is None
