"""NumPyro models as programs: log-densities by hand, draws, data, and every model that is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import torch
from jax import random
from numpyro import handlers
from numpyro.infer import log_likelihood
from torch.distributions import Beta, Categorical, Dirichlet, LogNormal, Normal

from smcguide.bridges.numpyro import DiffusionPrior, NumPyroProgram
from smcguide.bridges.numpyro.batches import precision
from smcguide.errors import InvalidInput
from smcguide.priors import GaussianMixture
from smcguide.testing.statistics import generator, z_test


class Unscorable(GaussianMixture):
    """Its log-density must not be asked for."""

    def log_prob(self, x, t=0.0):
        raise AssertionError("the log-density of a prior site was asked for")


def standard_normal(*event_shape, dtype=torch.float64):
    return Unscorable(torch.ones(1), torch.zeros(1, *event_shape, dtype=dtype), scale=1.0)


PRIOR, NARROW = standard_normal(2), standard_normal(2, dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def jax_stays_in_float32():
    yield
    assert not jax.config.jax_enable_x64


def inputs(program, num, stream="program"):
    """Values of x, theta and the choice for num particles."""
    source = generator(stream)
    x = {
        name: torch.randn(num, *site.shape, generator=source, dtype=program.example[name].dtype)
        for name, site in program.priors.items()
    }
    choice = program.choices[torch.arange(num) % len(program.choices)]
    return x, program.draw(num, source), choice


def observe(x, y=0.0, **settings):
    """A likelihood that is there so that something is observed."""
    numpyro.sample("y", dist.Normal(jnp.sum(x), 1.0), obs=y, **settings)


# ---- no other latents ----------------------------------------------------------------------------

A = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]])
Y = np.array([0.3, -1.0, 2.0])


def linear_gaussian(A, y=None, noise=1.0):
    x = numpyro.sample("x", DiffusionPrior(PRIOR))
    numpyro.deterministic("norm", jnp.sum(x**2))
    numpyro.sample("y", dist.Normal(A @ x, noise).to_event(1), obs=y)


@pytest.fixture(scope="module")
def linear():
    return NumPyroProgram(linear_gaussian, (A,), {"y": Y, "noise": 0.5})


def linear_log_likelihood(x):
    return Normal(x @ torch.tensor(A).T, 0.5).log_prob(torch.tensor(Y))


def test_what_the_sites_are_is_found_out(linear):
    (site,) = linear.priors.values()
    assert site.prior is PRIOR and (site.batch_shape, site.event_shape) == ((), (2,))
    assert (list(linear.priors), linear.size, linear.choices.shape) == (["x"], 0, (1, 0))
    assert list(linear.observed) == ["y"]
    assert torch.equal(linear.observed["y"], torch.tensor(Y))
    assert linear.example["x"].shape == (2,) and linear.example["x"].dtype == torch.float64
    assert linear.loop_reason is None


def test_a_linear_gaussian_likelihood_and_its_gradient(linear):
    x, theta, choice = inputs(linear, 300)  # more than a chunk
    found = linear.log_probs(x, theta, choice)
    torch.testing.assert_close(found.observed, linear_log_likelihood(x["x"]).sum(1))
    assert found.parameters.tolist() == found.choice.tolist() == [0.0] * 300
    few = x["x"][:3].requires_grad_()
    evaluate = lambda x: linear.log_probs({"x": x}, theta[:3], choice[:3]).observed  # noqa: E731
    assert torch.autograd.gradcheck(evaluate, (few,))


def test_without_other_latents_there_is_nothing_to_draw(linear):
    assert linear.draw(5, generator("nothing")).shape == (5, 0)
    assert linear.constrain(torch.zeros(5, 0), torch.zeros(5, 0)) == {}


def test_pointwise_likelihoods_are_of_independent_entries(linear):
    found = linear.pointwise(*inputs(linear, 4))
    assert list(found) == ["y"] and found["y"].shape == (4,)  # to_event(1): one entry


def test_new_data_have_the_law_of_the_likelihood(linear):
    x = {"x": torch.tensor([[1.0, -1.0]]).double().expand(4000, 2)}
    empty = torch.zeros(4000, 0)
    y = linear.simulate(x, empty, empty, generator("simulate"))["y"]
    mean = torch.tensor(A) @ torch.tensor([1.0, -1.0]).double()
    z_test(y, mean, 0.02)
    z_test((y - mean).square(), 0.25, 0.02)
    again = [linear.simulate(x, empty, empty, generator("simulate"))["y"] for _ in range(2)]
    assert torch.equal(y, again[0]) and torch.equal(y, again[1])
    other = linear.simulate(x, empty, empty, generator("another"))["y"]
    assert not torch.isclose(y, other).any()


@pytest.mark.parametrize(
    ("x", "theta", "message"),
    [
        ({}, torch.zeros(3, 0), r"site 'x' needs values of shape .* got none"),
        ({"x": torch.zeros(3, 5)}, torch.zeros(3, 0), r"site 'x' .* got \(3, 5\)"),
        ({"x": torch.zeros(2, 2)}, torch.zeros(3, 0), r"M = 3 as theta has; got \(2, 2\)"),
        ({"x": torch.zeros(3, 2)}, torch.zeros(3, 1), r"\(M, 0\), got \(3, 1\) and \(3, 0\)"),
    ],
)
def test_arrays_of_other_shapes_are_refused(linear, x, theta, message):
    with pytest.raises(InvalidInput, match=message):
        linear.log_probs(x, theta, torch.zeros(3, 0))


# ---- continuous latents --------------------------------------------------------------------------


def hierarchical(y):
    tau = numpyro.sample("tau", dist.LogNormal(0.3, 0.5))
    w = numpyro.sample("w", dist.Dirichlet(jnp.array([2.0, 1.0, 3.0])))
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    slope = numpyro.param("slope", random.uniform)
    with numpyro.plate("groups", 3):
        b = numpyro.sample("b", dist.Normal(1.0, tau))
        x = numpyro.sample("x", DiffusionPrior(PRIOR))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Normal(slope * b * x.sum(-1) + w, tau + p), obs=y)


@pytest.fixture(scope="module")
def nested():
    return NumPyroProgram(hierarchical, (np.arange(12.0).reshape(4, 3) / 5,))


def test_sites_in_plates_keep_their_shapes(nested):
    assert nested.priors["x"].batch_shape == (3,) and nested.priors["x"].shape == (3, 2)
    assert nested.size == 1 + 2 + 1 + 3
    latents = nested.constrain(*inputs(nested, 4)[1:])
    shapes = {name: tuple(value.shape[1:]) for name, value in latents.items()}
    assert shapes == {"tau": (), "w": (3,), "p": (), "b": (3,)}
    assert list(shapes) == ["tau", "w", "p", "b"]


def test_parameters_have_their_densities_on_unconstrained_space(nested):
    """Densities of values from torch, Jacobians from finite differences."""
    x, theta, choice = inputs(nested, 4)
    value = {name: a[:1] for name, a in nested.constrain(theta, choice).items()}
    terms = [
        LogNormal(0.3, 0.5).log_prob(value["tau"]),
        Dirichlet(torch.tensor([2.0, 1.0, 3.0]).double()).log_prob(value["w"]),
        Beta(2.0, 3.0).log_prob(value["p"]),
        Normal(1.0, value["tau"][:, None]).log_prob(value["b"]).sum(1),
    ]
    steps = theta[:1] + 1e-5 * torch.cat([torch.eye(7), -torch.eye(7)]).double()
    moved = nested.constrain(steps, torch.zeros(14, 0))
    parts = [v.reshape(14, -1)[:, : 2 if name == "w" else None] for name, v in moved.items()]
    flat = torch.cat(parts, 1)
    jacobian = (flat[:7] - flat[7:]) / 2e-5
    expected = sum(terms) + torch.linalg.slogdet(jacobian).logabsdet
    found = nested.log_probs(x, theta, choice).parameters[:1]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_the_likelihood_of_all_rows_is_summed(nested):
    x, theta, choice = inputs(nested, 4)
    value = nested.constrain(theta, choice)
    with precision(torch.float64):
        first = handlers.trace(handlers.seed(hierarchical, 0)).get_trace(None)
    mean = float(first["slope"]["value"]) * value["b"] * x["x"].sum(-1) + value["w"]
    law = Normal(mean[:, None], (value["tau"] + value["p"])[:, None, None])
    expected = law.log_prob(nested.observed["y"])
    torch.testing.assert_close(nested.pointwise(x, theta, choice)["y"], expected)
    torch.testing.assert_close(nested.log_probs(x, theta, choice).observed, expected.sum((1, 2)))


def test_gradients_in_x_and_theta_are_exact(nested):
    x, theta, choice = inputs(nested, 4)

    def evaluate(x, theta):
        return nested.log_probs({"x": x}, theta, choice)[::2]

    assert torch.autograd.gradcheck(evaluate, (x["x"].requires_grad_(), theta.requires_grad_()))


def test_theta_is_drawn_from_its_prior(nested):
    theta = nested.draw(2000, generator("draw"))
    assert theta.dtype == torch.float64
    assert torch.equal(theta, nested.draw(2000, generator("draw")))
    value = nested.constrain(theta, torch.zeros(2000, 0))
    z_test(value["tau"].log(), 0.3, 0.02)
    z_test((value["tau"].log() - 0.3).square(), 0.25, 0.02)
    z_test(value["w"], torch.tensor([2.0, 1.0, 3.0]) / 6, 0.01)
    z_test(value["p"], 0.4, 0.01)
    z_test((value["b"] - 1) / value["tau"][:, None], 0.0, 0.03)
    z_test(((value["b"] - 1) / value["tau"][:, None]).square(), 1.0, 0.05)


# ---- discrete latents, factors, conditioned sites ------------------------------------------------

WEIGHTS = np.array([0.2, 0.5, 0.3], dtype=np.float32)


def labelled(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    coin = numpyro.sample("coin", dist.Bernoulli(jax.nn.sigmoid(x[0])))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("data", 2):
        z = numpyro.sample("z", dist.Categorical(WEIGHTS))
        numpyro.sample("y", dist.Normal(x + z + coin, 1.0), obs=y)
    count = numpyro.sample("count", dist.Poisson(jnp.exp(coin + 0.0)), obs=3)
    numpyro.sample("more", dist.Poisson(1.0 + count), obs=jnp.array(2))
    numpyro.factor("soft", -sigma * x[1] ** 2)


@pytest.fixture(scope="module")
def labels():
    conditioned = handlers.condition(labelled, {"sigma": jnp.array(0.7)})
    return NumPyroProgram(conditioned, (jnp.array([0.5, -0.5]),))


def test_all_joint_values_of_discrete_latents_are_listed(labels):
    assert labels.choices.shape == (2 * 3 * 3, 3)
    assert len(labels.choices.unique(dim=0)) == 18
    value = labels.constrain(torch.zeros(18, 0), labels.choices)
    assert value["coin"].shape == (18,) and value["z"].shape == (18, 2)
    assert torch.equal(torch.cat([value["coin"][:, None], value["z"]], 1), labels.choices.int())


def test_labels_factors_and_conditioned_sites_by_hand(labels):
    x, theta, choice = inputs(labels, 18)
    found, a = labels.log_probs(x, theta, choice), x["x"].double()
    coin, z = choice[:, 0], choice[:, 1:]
    p = a[:, 0].sigmoid()
    expected = (coin * p + (1 - coin) * (1 - p)).log()
    expected = expected + Categorical(torch.tensor(WEIGHTS).double()).log_prob(z).sum(1)
    torch.testing.assert_close(found.choice, expected, rtol=1e-5, atol=1e-5)
    rate = coin.exp()
    observed = Normal(a + z + coin[:, None], 1.0).log_prob(torch.tensor([0.5, -0.5])).sum(1)
    observed = observed + 3 * rate.log() - rate - math.lgamma(4)
    observed = observed + 2 * math.log(4) - 4 - math.log(2) - 0.7 * a[:, 1] ** 2
    observed = observed + math.log(2) + Normal(0.0, 1.0).log_prob(torch.tensor(0.7))
    torch.testing.assert_close(found.observed, observed, rtol=1e-5, atol=1e-5)
    assert found.observed.dtype == torch.float64
    assert found.parameters.tolist() == [0.0] * 18


def test_float32_programs_have_gradients_in_float32(labels):
    x, theta, choice = inputs(labels, 5)
    assert x["x"].dtype == torch.float32
    x["x"].requires_grad_()
    labels.log_probs(x, theta, choice).observed.sum().backward()
    assert x["x"].grad.dtype == torch.float32
    y, a = torch.tensor([0.5, -0.5]), x["x"].detach()
    expected = y - a - choice[:, 1:] - choice[:, :1]
    expected[:, 1] -= 1.4 * a[:, 1]
    torch.testing.assert_close(x["x"].grad, expected.float(), rtol=1e-4, atol=1e-4)


def test_new_data_are_drawn_in_the_models_order_and_factors_give_none(labels):
    assert set(labels.observed) == {"sigma", "y", "count", "more"}
    num = 3000
    x, choice = {"x": torch.zeros(num, 2)}, torch.tensor([[1.0, 2.0, 0.0]]).expand(num, 3)
    data = labels.simulate(x, torch.zeros(num, 0), choice, generator("data"))
    assert set(data) == {"sigma", "y", "count", "more"}
    assert not data["count"].is_floating_point()
    z_test(data["y"], torch.tensor([3.0, 1.0]), 0.03)
    z_test(data["count"], math.e, 0.05)
    z_test(data["more"] - data["count"], 1.0, 0.05)  # of the new count, not of the datum
    z_test(data["sigma"], math.sqrt(2 / math.pi), 0.03)


def test_more_than_4096_joint_values_are_refused():
    def model(num):
        x = numpyro.sample("x", DiffusionPrior(NARROW))
        with numpyro.plate("n", num):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        observe(x + z.sum())

    with pytest.raises(InvalidInput, match=r"8192 joint values \('z' of shape \(13,\), 2 values\)"):
        NumPyroProgram(model, (13,))
    assert NumPyroProgram(model, (12,)).choices.shape == (4096, 12)


# ---- scales and masks ----------------------------------------------------------------------------


def scaled(y, scale):
    numpyro.sample("x", DiffusionPrior(NARROW))
    kept = handlers.mask(mask=jnp.array([True, True, False]))
    with handlers.scale(scale=scale), numpyro.plate("n", 3), kept:
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_scales_and_masks_of_observed_sites_count():
    """-9.19, where `numpyro.infer.log_likelihood` gives -1.84."""
    program = NumPyroProgram(scaled, (jnp.zeros(3), 5.0))
    x, theta, choice = inputs(program, 2)
    entry = -0.5 * math.log(2 * math.pi)
    found = program.log_probs(x, theta, choice).observed
    assert found.tolist() == pytest.approx([10 * entry] * 2, rel=1e-6)
    assert round(float(found[0]), 2) == -9.19
    entries = program.pointwise(x, theta, choice)["y"]
    torch.testing.assert_close(
        entries, torch.tensor([[5 * entry, 5 * entry, 0.0]]).double().expand(2, 3)
    )
    samples = {"x": jnp.zeros((1, 2))}
    theirs = log_likelihood(scaled, samples, jnp.zeros(3), 5.0)["y"].sum()
    assert round(float(theirs), 2) == -1.84


# ---- placeholders --------------------------------------------------------------------------------


def ordinary(y):
    with numpyro.plate("copies", 3):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    observe(x, y)


def test_any_site_can_hold_the_place_of_a_prior():
    known = NumPyroProgram(ordinary, (1.0,), placeholder={"x": PRIOR})
    assert known.priors["x"].prior is PRIOR and known.priors["x"].batch_shape == (3,)
    unknown = NumPyroProgram(ordinary, (1.0,), placeholder={"x": None})
    assert unknown.priors["x"].prior is None and unknown.priors["x"].event_shape == (3, 2)
    assert (known.example["x"].dtype, unknown.example["x"].dtype) == (torch.float64, torch.float32)
    for program in (known, unknown):
        x, theta, choice = inputs(program, 4)
        expected = Normal(x["x"].sum((1, 2)).double(), 1.0).log_prob(torch.tensor(1.0))
        found = program.log_probs(x, theta, choice)
        torch.testing.assert_close(found.observed, expected, rtol=1e-5, atol=1e-5)
        assert float(found.parameters.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ({"x": standard_normal(4)}, r"site 'x' has values of shape \(3, 2\).*shape \(4,\)"),
        ({"z": PRIOR}, r"no latents \['z'\]; it has the latents \['x'\]"),
        ({"y": PRIOR}, r"site 'y' has a diffusion prior and is observed"),
        ({}, r"no site has a diffusion prior.*one of the latents \['x'\]"),
    ],
)
def test_places_that_do_not_fit_are_refused(placeholder, message):
    with pytest.raises(InvalidInput, match=message):
        NumPyroProgram(ordinary, (1.0,), placeholder=placeholder)


# ---- models that JAX cannot trace ----------------------------------------------------------------


def branching(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    mean = x[0] if x[1] > 0 else x[0] ** 2
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def test_branches_on_latents_are_followed_one_particle_after_the_other():
    with pytest.warns(UserWarning, match=r"one particle after the other.*at or after site 'sigma'"):
        program = NumPyroProgram(branching, (0.5,))
    assert "Tracer" in program.loop_reason or "traced" in program.loop_reason
    x, theta, choice = inputs(program, 3)
    a = x["x"].requires_grad_()
    mean = torch.where(a[:, 1] > 0, a[:, 0], a[:, 0] ** 2)
    expected = Normal(mean, theta[:, 0].exp()).log_prob(torch.tensor(0.5))
    found = program.log_probs(x, theta, choice).observed
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(value.sum(), a)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)
    assert program.simulate(x, theta, choice, generator("loop"))["y"].shape == (3,)


def through_numpy(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    observe(np.asarray(x).sum(), y)


def batch_mean(x):
    return x - x.mean()


def careless_callback(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    centred = jax.pure_callback(batch_mean, shape, x, vmap_method="expand_dims")
    observe(centred[0] ** 2, y)


def dropout(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    observe(x * random.bernoulli(numpyro.prng_key(), 0.5, (2,)), y)


def numpy_noise(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    observe(x + np.random.standard_normal(2), y)  # noqa: NPY002


def hidden_site(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    with handlers.block():
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    observe(x + shift, y)


def changing_sites(y):
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    if numpyro.sample("u", dist.Normal(0.0, 1.0)) > 0:
        numpyro.sample("extra", dist.Normal(0.0, 1.0))
    observe(x, y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            through_numpy,
            r"neither trace nor differentiate the model, at or after site 'x'.*jnp.where",
        ),
        (careless_callback, r"site 'y' of three particles is .* together.*vmap_method"),
        (dropout, r"site 'y' of three particles .*numpyro.prng_key"),
        (numpy_noise, r"site 'y' of three particles .*np.random"),
        (hidden_site, r"site 'y' of three particles .*numpyro.handlers.block"),
        (changing_sites, r"sites \['extra'\] are in one run of the model and not in another"),
    ],
)
def test_models_that_are_not_functions_of_their_latents_are_refused(model, message):
    state = np.random.get_state()  # noqa: NPY002
    with pytest.raises(InvalidInput, match=message):
        NumPyroProgram(model, (0.0,))
    np.random.set_state(state)  # noqa: NPY002


# ---- models that inference cannot treat ----------------------------------------------------------


def latent(fn, **settings):
    def model():
        x = numpyro.sample("x", DiffusionPrior(NARROW))
        observe(x.sum() + jnp.sum(numpyro.sample("b", fn, **settings)))

    return model


def centred():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    observe(numpyro.sample("b", dist.Normal(x.mean(), 1.0)))


def dependent_support():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    high = numpyro.sample("high", dist.LogNormal(0.0, 1.0))
    observe(x * numpyro.sample("b", dist.Uniform(0.0, high)))


def dependent_values():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    high = numpyro.sample("high", dist.DiscreteUniform(1, 9))
    observe(x * numpyro.sample("b", dist.DiscreteUniform(0, high)))


def dependent_on_label():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    observe(x * numpyro.sample("b", dist.Normal(z, 1.0)))


def subsampled():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    with numpyro.plate("batch", 10, subsample_size=5):
        observe(x)


def with_mutable():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    numpyro.primitives.mutable("state", {"n": 1.0})
    observe(x)


def scaled_latent():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    with handlers.scale(scale=2.0):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    observe(x * b)


def scaled_prior():
    with handlers.scale(scale=2.0):
        x = numpyro.sample("x", DiffusionPrior(NARROW))
    observe(x)


def unobserved():
    numpyro.sample("x", DiffusionPrior(NARROW))


def observed_prior():
    observe(numpyro.sample("x", DiffusionPrior(NARROW), obs=jnp.zeros(2)))


def repeated_data():
    x = numpyro.sample("x", DiffusionPrior(NARROW))
    numpyro.sample("y", dist.Normal(x[:, None], 1.0), obs=jnp.zeros(3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dependent_support, r"support of site 'b' depends on other latents. Reparametrise"),
        (dependent_values, r"values of the discrete site 'b' depend on other latents"),
        (dependent_on_label, r"prior of the latent 'b' depends on a site with a discrete latent"),
        (centred, r"latent 'b' depends on .* Non-centre it"),
        (latent(dist.Poisson(1.0)), r"discrete latent 'b' \(Poisson\) has no finite list"),
        (latent(dist.Delta(1.0)), r"latent 'b' is a Delta.*numpyro.deterministic"),
        (latent(dist.ProjectedNormal(jnp.ones(3))), r"support .* of site 'b' has no transform"),
        (
            latent(dist.ImproperUniform(dist.constraints.real, (), ())),
            r"fails at or after site 'b'",
        ),
        (latent(dist.Normal(0.0, 1.0).mask(False)), r"latent 'b' is masked"),
        (
            latent(dist.Bernoulli(0.5), infer={"enumerate": "parallel"}),
            r"site 'b' has infer=.*smcguide enumerates",
        ),
        (scaled_latent, r"latent 'b' is inside numpyro.handlers.scale"),
        (scaled_prior, r"latent 'x' is inside numpyro.handlers.scale"),
        (subsampled, r"plate 'batch' subsamples 5 of 10"),
        (with_mutable, r"site 'state' is a numpyro mutable"),
        (unobserved, r"nothing is observed; the model has only the latents \['x'\]"),
        (observed_prior, r"site 'x' has a diffusion prior and is observed"),
        (
            repeated_data,
            r"site 'y' observes data of shape \(3,\) with a distribution of shape \(2, 1\)",
        ),
    ],
)
def test_what_inference_cannot_treat_is_refused(model, message):
    with pytest.raises(InvalidInput, match=message):
        NumPyroProgram(model)


def test_draws_on_the_boundary_of_their_support_are_refused():
    def model():
        x = numpyro.sample("x", DiffusionPrior(NARROW))
        observe(x * numpyro.sample("b", dist.Uniform(1.0, 1.0 + 2**-23)))  # neighbours in float32

    with pytest.raises(InvalidInput, match=r"draws of the latents \['b'\] lie on the boundary"):
        NumPyroProgram(model).draw(200, generator("boundary"))
