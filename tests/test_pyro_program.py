"""A Pyro program as inference sees it: what its sites are, that its densities are right and the same
batched as one by one, and which programs are refused and why."""

import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from smcguide.errors import InvalidInput
from smcguide.priors import EmpiricalPrior, GaussianMixture, Prior
from smcguide.schedules import VP
from smcguide.testing import statistics

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from pyro import poutine  # noqa: E402
from pyro.nn import PyroModule, PyroSample  # noqa: E402
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK  # noqa: E402

from smcguide.bridges.pyro import DiffusionPrior, PyroProgram  # noqa: E402


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


ZERO, ONE = double(0.0)[0], double(1.0)[0]
PRIOR = GaussianMixture(torch.ones(1), torch.zeros(1, 3, dtype=torch.float64), scale=1.0)
A = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]], dtype=torch.float64)
Y = double(0.7, -0.4)


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(statistics.seed("pyro program"))
        yield
    pyro.clear_param_store()
    assert not _PYRO_STACK and not _DIM_ALLOCATOR._stack


def latent(prior=PRIOR):
    return pyro.sample("x", DiffusionPrior(prior, num_steps=3).mask(False))


def observe(mean, y=Y, scale=1.0):
    return pyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def particles(program, num=5, stream="particles"):
    """x, theta and choice for every method."""
    generator = statistics.generator(stream)
    x = {
        name: torch.randn(num, *site.shape, generator=generator, dtype=site.prior.dtype)
        for name, site in program.priors.items()
    }
    rows = torch.randint(len(program.choices), (num,), generator=generator)
    return x, program.draw(num, generator), program.choices[rows]


def one_by_one(program):
    other = copy.copy(program)
    other.loop_reason = "asked for"
    return other


def joint(program, model, x, theta, choice, args=()):
    """Pyro's own log-joint (M,), one particle after the other."""
    values = x | program.constrain(theta, choice)
    traces = [
        poutine.trace(
            poutine.condition(model, {name: v[i] for name, v in values.items()})
        ).get_trace(*args)
        for i in range(len(theta))
    ]
    return torch.stack([torch.as_tensor(t.log_prob_sum()).double() for t in traces])


# ---- programs that can be batched ----------------------------------------------------------------


def linear_gaussian():
    observe(A @ latent())


def plated_data():
    x = latent()
    with pyro.plate("data", 2):
        pyro.sample("y", dist.Normal(A @ x, 0.5), obs=Y)


def crossed_plates():
    x = latent()
    a, b = pyro.plate("a", 3, dim=-1), pyro.plate("b", 2, dim=-2)
    with a:
        u = pyro.sample("u", dist.Normal(ZERO, ONE))
    with b:
        v = pyro.sample("v", dist.Gamma(2 * ONE, ONE))
    with a, b:
        pyro.sample("y", dist.Normal(x * u + v, 0.5), obs=torch.outer(Y, double(1.0, 2.0, 3.0)))


def plated_prior():
    with pyro.plate("objects", 4):
        x = latent()
        pyro.sample("y", dist.Normal(x @ A.T, 0.5).to_event(1), obs=Y.expand(4, 2))


def hierarchical():
    x = latent()
    a = pyro.sample("a", dist.Normal(2 * ONE, 0.5))
    b = pyro.sample("b", dist.Normal(a, 3.0))
    observe(A @ x + a * b)


def positive():
    s = pyro.sample("s", dist.LogNormal(0.2 * ONE, 0.5))
    observe(A @ latent(), scale=s)


def many_supports():
    p = pyro.sample("p", dist.Beta(2 * ONE, 3.0))
    q = pyro.sample("q", dist.Dirichlet(double(1.0, 2.0, 3.0)))
    r = pyro.sample("r", dist.Uniform(-ONE, 2.0).expand([2]).to_event(1))
    g = pyro.sample("g", dist.Gamma(2 * ONE, 1.0))
    c = pyro.sample("c", dist.LKJCholesky(2, ONE))
    observe((A * q) @ latent() * p + c @ r, scale=g)


def bernoulli():
    x = latent()
    z = pyro.sample("z", dist.Bernoulli(0.3 * ONE))
    observe(A @ x + z)


def categories():
    x = latent()
    with pyro.plate("data", 2):
        k = pyro.sample("k", dist.Categorical(double(0.2, 0.3, 0.5)))
        pyro.sample("y", dist.Normal(A @ x + double(-1.0, 0.0, 2.0)[k], 0.5), obs=Y)
    flip = pyro.sample("flip", dist.Bernoulli(torch.sigmoid(x[:2])).to_event(1))
    hot = pyro.sample("hot", dist.OneHotCategorical(double(0.5, 0.5)))
    pyro.factor("tilt", (flip * hot).sum() * x.sum())


def factor_only():
    pyro.factor("tilt", -latent().square().sum())


def scaled_and_masked():
    x = latent()
    with poutine.scale(scale=0.3):
        s = pyro.sample("s", dist.LogNormal(ZERO, ONE))
        z = pyro.sample("z", dist.Bernoulli(0.3 * ONE))
        observe(A @ x + z, scale=s)
    flat = pyro.sample("flat", dist.Normal(ZERO, ONE).expand([2]).mask(False).to_event(1))
    with pyro.plate("data", 2), poutine.mask(mask=torch.tensor([True, False])):
        m = pyro.sample("m", dist.Normal(ZERO, 2.0))
        pyro.sample("w", dist.Normal(x[:2] + m + flat, ONE), obs=double(1.0, 5.0))


def with_deterministic():
    x = latent()
    mean = pyro.deterministic("mean", A @ x)
    observe(mean)


def with_parameters():
    slope = pyro.param("slope", double(2.0, 3.0), constraint=dist.constraints.positive)
    observe(slope * (A @ latent()))


conditioned = pyro.condition(lambda: observe(A @ latent(), y=None), {"y": Y})

BATCHED = [
    linear_gaussian, plated_data, crossed_plates, plated_prior, hierarchical, positive, many_supports,
    bernoulli, categories, factor_only, scaled_and_masked, with_deterministic, with_parameters,
    conditioned,
]  # fmt: skip
batched = pytest.mark.parametrize(
    "model", BATCHED, ids=lambda m: getattr(m, "__name__", "condition")
)


@batched
def test_batched_particles_have_the_values_of_single_runs(model):
    program = PyroProgram(model)
    assert program.loop_reason is None
    at = particles(program)
    for a, b in zip(program.log_probs(*at), one_by_one(program).log_probs(*at), strict=True):
        assert a.shape == (5,) and a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@batched
def test_the_three_densities_add_up_to_pyros_joint(model):
    program = PyroProgram(model)
    x, theta, choice = particles(program)
    log_det = program._sites.constrain(theta, choice)[1]
    total = sum(program.log_probs(x, theta, choice)) - log_det
    own = joint(program, model, x, theta, choice)
    torch.testing.assert_close(total, own, rtol=1e-10, atol=1e-10)


@batched
def test_densities_are_differentiable_in_x_and_theta(model):
    program = PyroProgram(model)
    x, theta, choice = particles(program, num=2)
    name, value = next(iter(x.items()))

    def total(value, theta):
        return sum(program.log_probs({name: value}, theta, choice))

    value.requires_grad_()
    theta.requires_grad_(program.size > 0)
    assert torch.autograd.gradcheck(total, (value, theta))


# ---- values against formulas ---------------------------------------------------------------------


def test_a_linear_gaussian_likelihood():
    program = PyroProgram(linear_gaussian)
    assert program.size == 0 and program.choices.shape == (1, 0)
    assert list(program.observed) == ["y"] and torch.equal(program.observed["y"], Y)
    site = program.priors["x"]
    assert (site.prior, site.batch_shape, site.event_shape) == (PRIOR, (), (3,))
    x, theta, choice = particles(program)
    parameters, chosen, observed = program.log_probs(x, theta, choice)
    assert not parameters.any() and not chosen.any()
    torch.testing.assert_close(observed, Normal(x["x"] @ A.T, 1.0).log_prob(Y).sum(-1))


def test_a_positive_latent_lives_on_log_scale():
    program = PyroProgram(positive)
    _, theta, choice = at = particles(program)
    exact = Normal(0.2, 0.5).log_prob(theta[:, 0])  # a log-normal's logarithm
    torch.testing.assert_close(program.log_probs(*at).parameters, exact)
    torch.testing.assert_close(program.constrain(theta, choice)["s"], theta[:, 0].exp())


def test_a_beta_latent_lives_on_logit_scale():
    def model():
        observe(A @ latent() * pyro.sample("p", dist.Beta(2 * ONE, 3.0)))

    program = PyroProgram(model)
    x, theta, choice = particles(program)
    p = torch.sigmoid(theta[:, 0])
    exact = math.log(12) + p.log() + 2 * (1 - p).log() + (p * (1 - p)).log()
    torch.testing.assert_close(program.log_probs(x, theta, choice).parameters, exact)


def test_a_simplex_latent_has_one_coordinate_less_and_its_jacobian():
    def model():
        observe(A @ (latent() * pyro.sample("q", dist.Dirichlet(double(1.0, 2.0, 3.0)))))

    program = PyroProgram(model)
    assert program.size == 2
    x, theta, choice = particles(program)
    q = program.constrain(theta, choice)["q"]
    jacobian = torch.func.vmap(
        torch.func.jacrev(lambda u: program.constrain(u[None], choice[:1])["q"][0, :2])
    )(theta)
    exact = dist.Dirichlet(double(1.0, 2.0, 3.0)).log_prob(q) + jacobian.det().abs().log()
    torch.testing.assert_close(program.log_probs(x, theta, choice).parameters, exact)


def test_a_hierarchy_of_continuous_latents():
    program = PyroProgram(hierarchical)
    x, theta, choice = particles(program)
    a, b = theta.T
    exact = Normal(2.0, 0.5).log_prob(a) + Normal(a, 3.0).log_prob(b)
    torch.testing.assert_close(program.log_probs(x, theta, choice).parameters, exact)


def test_summing_over_the_table_of_choices_gives_the_mixture():
    program = PyroProgram(bernoulli)
    assert program.choices.tolist() == [[0.0], [1.0]]
    x = {"x": torch.randn(1, 3, dtype=torch.float64).expand(2, 3)}
    _, chosen, observed = program.log_probs(x, torch.zeros(2, 0), program.choices)
    mean = A @ x["x"][0]
    exact = 0.7 * Normal(mean, 1.0).log_prob(Y).sum().exp()
    exact = exact + 0.3 * Normal(mean + 1, 1.0).log_prob(Y).sum().exp()
    torch.testing.assert_close((chosen + observed).exp().sum(), exact)


def test_each_element_of_a_plate_and_of_an_event_is_enumerated():
    program = PyroProgram(categories)
    J = 3**2 * 2**2 * 2
    assert program.choices.shape == (J, 2 + 2 + 2)
    assert len(torch.unique(program.choices, dim=0)) == J
    x = {"x": torch.randn(1, 3, dtype=torch.float64).expand(J, 3)}
    chosen = program.log_probs(x, torch.zeros(J, 0), program.choices).choice
    assert float(chosen.exp().sum()) == pytest.approx(1.0)
    values = program.constrain(torch.zeros(J, 0), program.choices)
    assert values["k"].dtype == torch.int64 and values["k"].shape == (J, 2)
    assert bool((values["hot"].sum(-1) == 1).all())


def test_scales_and_masks_of_latents_count_as_observations():
    """theta and j keep the normalised laws they are drawn from."""
    program = PyroProgram(scaled_and_masked)
    x, theta, choice = particles(program)
    parameters, chosen, observed = program.log_probs(x, theta, choice)
    u, flat, m = theta[:, 0], theta[:, 1:3], theta[:, 3:]  # s on log scale
    torch.testing.assert_close(
        parameters,
        Normal(0.0, 1.0).log_prob(theta[:, :3]).sum(-1) + Normal(0.0, 2.0).log_prob(m).sum(-1),
    )
    z = choice[:, :1]
    prior_of_z = dist.Bernoulli(0.3).log_prob(choice[:, 0].float()).double()
    torch.testing.assert_close(chosen, prior_of_z, rtol=1e-6, atol=1e-6)
    y = Normal(x["x"] @ A.T + z, u.exp()[:, None]).log_prob(Y).sum(-1)
    s = dist.LogNormal(0.0, 1.0).log_prob(u.exp())
    w = Normal(x["x"][:, 0] + m[:, 0] + flat[:, 0], 1.0).log_prob(ONE)
    exact = 0.3 * y - 0.7 * s - 0.7 * prior_of_z + w
    exact = exact - Normal(0.0, 1.0).log_prob(flat).sum(-1) - Normal(0.0, 2.0).log_prob(m[:, 1])
    torch.testing.assert_close(observed, exact, rtol=1e-6, atol=1e-6)


def test_the_matrix_product_that_breaks_pyros_outer_plate_is_right():
    """Written for one x, x @ A.T in an outer plate counts each particle's likelihood M times and Pyro
    says nothing; here no plate is added."""
    M, x = 2, torch.randn(2, 3, dtype=torch.float64)
    exact = Normal(x @ A.T, 1.0).log_prob(Y).sum(-1)

    def model():
        x = latent()
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(x @ A.T, 1.0), obs=Y)

    def outer():
        with pyro.plate("particles", M, dim=-2):
            model()

    trace = poutine.trace(poutine.condition(outer, {"x": x[:, None]})).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["y"]["log_prob"].shape == (M, M, 2)
    assert float(trace.log_prob_sum()) == pytest.approx(float(M * exact.sum()))
    empty = torch.zeros(M, 0, dtype=torch.float64)
    observed = PyroProgram(model).log_probs({"x": x}, empty, empty).observed
    torch.testing.assert_close(observed, exact)


def test_a_masked_datum_that_is_missing_does_not_count():
    def model():
        x = latent()
        with pyro.plate("data", 2), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("y", dist.Normal(A @ x, 1.0), obs=double(1.0, math.nan))

    x, theta, choice = particles(program := PyroProgram(model))
    observed = program.log_probs(x, theta, choice).observed
    torch.testing.assert_close(observed, Normal(x["x"] @ A[0], 1.0).log_prob(ONE))
    assert not program.pointwise(x, theta, choice)["y"][:, 1].any()


# ---- draws, entries, new data --------------------------------------------------------------------


def test_draws_of_theta_have_its_prior():
    program = PyroProgram(hierarchical)
    theta = program.draw(2000, statistics.generator("draw"))
    assert theta.shape == (2000, 2) and theta.dtype == torch.float64
    a, b = theta.T
    moments = torch.stack([a, (a - 2).square(), (b - a), (b - a).square()], 1)
    statistics.z_test(moments, double(2.0, 0.25, 0.0, 9.0), ceiling=0.4)


def test_draws_are_unconstrained():
    theta = PyroProgram(positive).draw(1000, statistics.generator("log"))
    statistics.z_test(torch.cat([theta, (theta - 0.2).square()], 1), double(0.2, 0.25), ceiling=0.1)


def test_draws_and_new_data_come_from_the_generator_and_leave_the_global_one_alone():
    program = PyroProgram(positive)
    before = torch.get_rng_state()
    at = particles(program)
    outcomes = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        theta = program.draw(4, generator)
        outcomes.append([theta, *program.simulate(*at, generator).values()])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert not torch.equal(program.draw(4, generator), outcomes[0][0])


def test_entries_of_the_data_add_up_to_the_likelihood():
    def model():
        x = latent()
        with pyro.plate("a", 3, dim=-1), pyro.plate("b", 2, dim=-2):
            pyro.sample("y", dist.Normal(x, 0.5), obs=torch.outer(Y, double(1.0, 2.0, 3.0)))
        with pyro.plate("c", 2), poutine.scale(scale=0.5):
            pyro.sample("z", dist.Normal(A @ x, 0.5), obs=Y)
        pyro.factor("tilt", x.sum())

    at = particles(program := PyroProgram(model))
    entries = program.pointwise(*at)
    assert entries["y"].shape == (5, 2, 3) and entries["z"].shape == (5, 2) and len(entries) == 2
    x = at[0]["x"]
    total = entries["y"].sum((1, 2)) + entries["z"].sum(1) + x.sum(1)
    torch.testing.assert_close(total, program.log_probs(*at).observed)
    exact = Normal(x[:, 1], 0.5).log_prob(2 * Y[0])
    torch.testing.assert_close(entries["y"][:, 0, 1], exact)
    for name, value in one_by_one(program).pointwise(*at).items():
        torch.testing.assert_close(value, entries[name])


def test_new_data_have_the_law_of_the_data():
    def model(y):
        x = latent()
        k = pyro.sample("k", dist.Bernoulli(0.5 * ONE))
        observe(A @ x + 10 * k, y, scale=pyro.sample("s", dist.LogNormal(ZERO, ONE)))
        pyro.factor("tilt", x.sum())
        pyro.deterministic("mean", A @ x)

    program = PyroProgram(model, kwargs={"y": Y})
    M = 1000
    x = {"x": double(1.0, 0.0, 2.0).expand(M, 3)}
    theta, choice = torch.full((M, 1), math.log(2.0), dtype=torch.float64), double(1.0).expand(M, 1)
    new = program.simulate(x, theta, choice, statistics.generator("new"))
    assert list(new) == ["y"] and new["y"].shape == (M, 2)
    mean = A @ x["x"][0] + 10
    statistics.z_test(new["y"], mean, ceiling=0.1)
    statistics.z_test((new["y"] - mean).square(), 4.0, ceiling=0.3)


def test_new_data_follow_each_other_and_have_the_shape_of_the_data():
    """y_2 given y_1, and three numbers of one distribution."""

    def model():
        first = pyro.sample("first", dist.Normal(latent().sum(), 0.01), obs=ZERO)
        pyro.sample("second", dist.Normal(100 + first, 0.01), obs=ZERO)
        pyro.sample("many", dist.Normal(first, 1.0), obs=double(1.0, 2.0, 3.0))

    x, theta, choice = particles(program := PyroProgram(model))
    new = program.simulate(x, theta, choice, statistics.generator("chain"))
    torch.testing.assert_close(new["first"], x["x"].sum(1), rtol=0, atol=0.1)
    torch.testing.assert_close(new["second"], 100 + new["first"], rtol=0, atol=0.1)
    assert new["many"].shape == (5, 3) and len(torch.unique(new["many"])) == 15
    assert program.pointwise(x, theta, choice)["many"].shape == (5, 3)


def test_values_come_in_the_programs_own_shape_and_dtype():
    def model():
        z = pyro.sample("z", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("y", dist.Normal(z.sum() * k + latent().sum(), ONE), obs=ONE)

    program = PyroProgram(model)
    values = program.constrain(program.draw(4, statistics.generator("z")), torch.ones(4, 1))
    assert program.size == 4 and list(values) == ["z", "k"]
    assert values["z"].shape == (4, 2, 3) and values["z"].dtype == torch.float32
    torch.testing.assert_close(values["z"].sum(-1), torch.ones(4, 2))
    assert torch.equal(values["k"], torch.ones(4))


# ---- programs that cannot be batched -------------------------------------------------------------


def branch():
    x = latent()
    mean = A @ x if x.sum() > 0 else -(A @ x)
    observe(mean)


def number():
    observe(A @ latent() + latent_number())


def latent_number():
    return float(pyro.sample("n", dist.Normal(ZERO, ONE)))


def numpy_inside():
    observe(torch.as_tensor(A.numpy() @ latent().detach().numpy()))


def in_place():
    x, out = latent(), torch.zeros(2, dtype=torch.float64)
    out[0] = x[0]
    observe(out)


def selection():
    x = latent()
    observe((A @ x) + x[x > 0].sum())


def idle_noise():
    torch.randn(3)
    observe(A @ latent())


class Scale(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def custom_function():
    observe(Scale.apply(A @ latent()))


class Wrong(torch.autograd.Function):
    """Its rule for vmap has a bug."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad

    @staticmethod
    def vmap(info, dims, x):
        return 3 * x, dims[0]


def wrong_rule():
    observe(Wrong.apply(A @ latent()))


LOOPED = [
    (branch, "branches on a latent", "mean = A @ x if x.sum()"),
    (number, "a Python number of a latent", "return float("),
    (numpy_inside, "takes the numbers out of a latent", "numpy()"),
    (in_place, "in place", "out[0] = x[0]"),
    (selection, "the shape of a result", "x[x > 0]"),
    (idle_noise, "draws random numbers", "torch.randn(3)"),
    (custom_function, "no rule for vmap", "Scale.apply"),
    (wrong_rule, "site 'y' has other values under torch.func.vmap", ""),
]


@pytest.mark.parametrize(
    ("model", "reason", "line"), LOOPED, ids=lambda v: getattr(v, "__name__", "")
)
def test_what_cannot_be_batched_is_run_one_by_one_and_says_why(model, reason, line):
    with pytest.warns(UserWarning, match="one particle after the other") as caught:
        program = PyroProgram(model)
    assert reason in program.loop_reason and line in program.loop_reason
    (warning,) = caught
    message = str(warning.message)
    assert program.loop_reason in message and "\n" not in message
    assert warning.filename == __file__
    x, theta, choice = particles(program)
    log_det = program._sites.constrain(theta, choice)[1]
    total = sum(program.log_probs(x, theta, choice)) - log_det
    torch.testing.assert_close(total, joint(program, model, x, theta, choice))
    assert program.pointwise(x, theta, choice)["y"].shape == (5,)
    assert program.simulate(x, theta, choice, statistics.generator("s"))["y"].shape == (5, 2)


def test_single_runs_are_differentiable():
    with pytest.warns(UserWarning, match="branches"):
        program = PyroProgram(branch)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    empty = torch.zeros(3, 0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: program.log_probs({"x": x}, empty, empty).observed, x)


# ---- programs that are refused -------------------------------------------------------------------


def subsampled():
    x = latent()
    with pyro.plate("data", 10, subsample_size=2):
        pyro.sample("y", dist.Normal(A @ x, 1.0), obs=Y)


def chosen_subsample():
    x = latent()
    with pyro.plate("data", 10, subsample=torch.tensor([1, 4])):
        pyro.sample("y", dist.Normal(A @ x, 1.0), obs=Y)


@pyro.infer.config_enumerate
def enumerated():
    observe(A @ latent() + pyro.sample("z", dist.Bernoulli(0.5 * ONE)))


def enumerated_by_hand():
    z = pyro.sample("z", dist.Bernoulli(0.5 * ONE), infer={"enumerate": "sequential"})
    observe(A @ latent() + z)


def no_prior():
    observe(A @ pyro.sample("x", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)))


def no_data():
    pyro.deterministic("mean", A @ latent())


def centred():
    x = latent()
    observe(A @ x + pyro.sample("bias", dist.Normal(x.sum(), 1.0)))


def missing_data():
    x = latent()
    with pyro.plate("data", 2):
        pyro.sample("y", dist.Normal(A @ x, 1.0), obs=Y, obs_mask=torch.tensor([True, False]))


def chosen_scale():
    z = pyro.sample("z", dist.Bernoulli(0.5 * ONE))
    observe(A @ latent() + pyro.sample("bias", dist.Normal(0.0, 1.0 + z)))


def moving_support():
    top = pyro.sample("top", dist.LogNormal(ZERO, ONE))
    observe(A @ latent() + pyro.sample("u", dist.Uniform(ZERO, top)))


def moving_range():
    n = pyro.sample("n", dist.Categorical(torch.ones(50)))
    observe(A @ latent() + pyro.sample("k", dist.Binomial(n, 0.5 * ONE)))


def counts():
    observe(A @ latent() + pyro.sample("count", dist.Poisson(2 * ONE)))


def too_many():
    with pyro.plate("data", 13):
        z = pyro.sample("z", dist.Bernoulli(0.5 * ONE))
    observe(A @ latent() + z.sum())


def degenerate():
    observe(A @ latent() + pyro.sample("d", dist.Delta(ONE)))


def direction():
    observe(A @ latent() + pyro.sample("d", dist.ProjectedNormal(double(1.0, 0.0))))


def noisy():
    observe(A @ latent() + torch.randn(2, dtype=torch.float64))


def numpy_noise():
    observe(A @ latent() + float(np.random.randn()))  # noqa: NPY002


class Counter:
    runs = 0

    def __call__(self):
        self.runs += 1
        observe(A @ latent(), scale=float(self.runs))


def tempered():
    with poutine.scale(scale=0.5):
        observe(A @ latent())


def built_inside():
    observe(A @ latent(EmpiricalPrior(torch.eye(3, dtype=torch.float64), 0.1)))


observed_prior = pyro.condition(linear_gaussian, {"x": torch.zeros(3).double()})


def broadcast_data():
    observe(A @ latent(), y=Y[:, None])


def wrong_data():
    pyro.sample("y", dist.Normal(A @ latent(), 1.0), obs=double(1.0, 2.0, 3.0))


REFUSED = [
    (subsampled, r"Site 'data': the plate takes 2 of its 10.*without subsample_size"),
    (chosen_subsample, r"Site 'data': the plate takes 2 of its 10"),
    (enumerated, r"Site 'z': it is marked for Pyro's enumeration.*remove config_enumerate"),
    (enumerated_by_hand, r"Site 'z': .*remove"),
    (no_prior, r"No site of the program has a diffusion prior \(sites: 'x', 'y'\)"),
    (no_data, r"observes nothing \(sites: 'x', 'mean'\).*obs=y"),
    (centred, r"Site 'bias': its prior depends on a diffusion latent.*f\(x\) \+ s \* e"),
    (missing_data, r"Site 'y_unobserved': its prior depends.*mask the likelihood"),
    (chosen_scale, r"Site 'bias': its prior depends on .* discrete"),
    (moving_support, r"Site 'u': its support depends on other latents.*b \* u"),
    (moving_range, r"Site 'k': its support depends on other latents"),
    (counts, r"Site 'count': the values of Poisson cannot be listed.*truncated"),
    (too_many, r"Site 'z': 13 elements with 2 values each .* to 8192; at most 4096"),
    (degenerate, r"Site 'd': a latent with Delta has no density.*pyro.deterministic"),
    (direction, r"Site 'd': torch has no bijection from R\^n to .*simplex"),
    (noisy, r"Site 'y': two evaluations with the same latents differ.*pyro.sample"),
    (numpy_noise, r"Site 'y': two evaluations with the same latents differ"),
    (Counter(), r"Site 'y': two evaluations .*no state between runs"),
    (tempered, r"Site 'x': its log-density is scaled by 0.5.*likelihood only"),
    (built_inside, r"Site 'x': two runs of the program have two prior objects"),
    (observed_prior, r"Site 'x': it has a diffusion prior and is observed.*as an argument"),
    (broadcast_data, r"Site 'y': data of shape \(2, 1\) do not fit .* shape \(2,\)"),
    (wrong_data, r"Site 'y': data of shape \(3,\) do not fit .* shape \(2,\)"),
]


@pytest.mark.parametrize(
    ("model", "message"), REFUSED, ids=[getattr(m, "__name__", "stateful") for m, _ in REFUSED]
)
def test_refusals_name_the_site_and_the_remedy(model, message):
    with pytest.raises(InvalidInput, match=message):
        PyroProgram(model)


def test_a_latent_that_comes_and_goes_is_refused():
    visits = iter([True, False, False])

    def model():
        if next(visits):
            pyro.sample("extra", dist.Normal(ZERO, ONE))
        observe(A @ latent())

    with pytest.raises(InvalidInput, match="Site 'extra': some runs of the program have it"):
        PyroProgram(model)


def test_a_latent_that_appears_for_rare_particles_is_refused_when_it_does():
    def model():
        x = latent()
        if x.sum() > 100:
            pyro.sample("extra", dist.Normal(ZERO, ONE))
        observe(A @ x)

    with pytest.warns(UserWarning, match="branches"):
        program = PyroProgram(model)
    empty = torch.zeros(1, 0, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="Site 'extra': some runs"):
        program.log_probs({"x": 99 * torch.ones(1, 3).double()}, empty, empty)


def test_data_that_disappear_for_rare_particles_are_refused_when_asked_for():
    def model():
        x = latent()
        pyro.factor("always", x.sum())
        if x.sum() < 100:
            observe(A @ x)

    with pytest.warns(UserWarning, match="branches"):
        program = PyroProgram(model)
    empty = torch.zeros(1, 0, dtype=torch.float64)
    x = {"x": 99 * torch.ones(1, 3).double()}
    assert program.log_probs(x, empty, empty).observed == 297
    with pytest.raises(InvalidInput, match="Site 'y': some runs"):
        program.pointwise(x, empty, empty)


# ---- placeholders --------------------------------------------------------------------------------


def with_placeholder():
    with pyro.plate("objects", 2):
        z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ A.T, 1.0).to_event(1), obs=Y.expand(2, 2))


def test_an_ordinary_site_can_stand_for_a_diffusion_prior():
    program = PyroProgram(with_placeholder, placeholder={"z": PRIOR})
    site = program.priors["z"]
    assert (site.prior, site.batch_shape, site.event_shape) == (PRIOR, (2,), (3,))
    assert program.size == 0
    x, theta, choice = particles(program)
    exact = Normal(x["z"] @ A.T, 1.0).log_prob(Y).sum((1, 2))
    torch.testing.assert_close(program.log_probs(x, theta, choice).observed, exact)


def test_a_placeholder_without_prior_has_the_shape_of_its_distribution():
    site = PyroProgram(with_placeholder, placeholder={"z": None}).priors["z"]
    assert (site.prior, site.batch_shape, site.event_shape) == (None, (2,), (3,))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("z", r"Site 'z': its values have shape \(2, 3\) and .* events of shape \(4,\)"),
        ("y", r"Site 'y': a prior was given for it and it is observed.*'z', 'y'"),
        ("w", r"Site 'w': a prior was given for it and it is absent.*'z', 'y'"),
    ],
)
def test_a_placeholder_that_does_not_fit_is_refused(name, message):
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 4), scale=1.0)
    with pytest.raises(InvalidInput, match=message):
        PyroProgram(with_placeholder, placeholder={name: prior})


# ---- what is left as it was ----------------------------------------------------------------------


def state():
    return (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        torch.distributions.Distribution._validate_args,
        dist.is_validation_enabled(),
        poutine.util.is_validation_enabled(),
        dict(pyro.get_param_store().named_parameters()),
    )


@pytest.mark.parametrize("model", [positive, branch, noisy, numpy_noise, categories])
@pytest.mark.parametrize("torch_validates", [True, False])
def test_nothing_global_changes(model, torch_validates):
    flag = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(torch_validates)
    try:
        before = state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                program = PyroProgram(model)
            except InvalidInput:
                program = None
        assert state() == before
        if program is not None:
            at = particles(program)
            program.log_probs(*at)
            program.pointwise(*at)
            program.simulate(*at, torch.Generator())
            assert state() == before
    finally:
        torch.distributions.Distribution.set_default_validate_args(flag)


@pytest.mark.parametrize("on", [True, False])
def test_validation_may_be_on_or_off(on):
    with pyro.validation_enabled(on):
        at = particles(program := PyroProgram(positive))
        value = program.log_probs(*at).observed
        assert dist.is_validation_enabled() is on
    torch.testing.assert_close(value, PyroProgram(positive).log_probs(*at).observed)


def test_values_are_the_same_with_and_without_gradients():
    at = particles(program := PyroProgram(with_parameters))
    with torch.no_grad():
        value = program.log_probs(*at).observed
        assert not value.requires_grad
        assert torch.equal(PyroProgram(with_parameters).log_probs(*at).observed, value)
    torch.testing.assert_close(program.log_probs(*at).observed, value)


def test_parameters_are_initialised_once_and_used_as_they_are():
    program = PyroProgram(with_parameters)
    assert program.loop_reason is None
    assert pyro.param("slope").tolist() == pytest.approx([2.0, 3.0])
    pyro.get_param_store()["slope"] = double(5.0, 1.0)
    x, theta, choice = particles(program)
    observed = program.log_probs(x, theta, choice).observed
    exact = Normal(double(5.0, 1.0) * (x["x"] @ A.T), 1.0).log_prob(Y).sum(-1)
    torch.testing.assert_close(observed, exact)
    assert list(pyro.get_param_store()) == ["slope"]


def test_random_initial_values_of_parameters_follow_the_users_seed():
    def model():
        observe(A @ latent() * pyro.param("w", lambda: torch.randn((), dtype=torch.float64)))

    found = []
    for seed in (1, 1, 2):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        PyroProgram(model)
        found.append(float(pyro.param("w").detach()))
    assert found[0] == found[1] != found[2]


def test_a_prior_is_asked_for_a_few_cheap_draws_and_never_for_its_density():
    calls = []

    class Denoiser(Prior):
        schedule, event_shape = VP(), (3,)
        dtype, device = torch.float64, torch.device("cpu")

        def denoise(self, x, t):
            calls.append(len(x))
            level = self.schedule.level(t)
            return level.alpha * x / (level.alpha**2 + level.sigma**2)

    prior = Denoiser()

    def model():
        with pyro.plate("objects", 2):
            x = pyro.sample("x", DiffusionPrior(prior))
            pyro.sample("y", dist.Normal(x @ A.T, 1.0).to_event(1), obs=Y.expand(2, 2))

    program = PyroProgram(model)
    assert sum(calls) <= 50 and prior.rehearsal is None
    calls.clear()
    program.log_probs(*particles(program))
    assert not calls


def test_a_bayesian_network_is_a_program():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](3, 2)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, y):
            mean = torch.tanh(self.linear(latent().float())) + self.bias
            pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    model = Regression()
    program = PyroProgram(model, (Y.float(),))
    assert program.loop_reason is None and program.size == 6
    assert list(program.constrain(torch.zeros(1, 6), torch.zeros(1, 0))) == ["linear.weight"]
    x, theta, choice = particles(program)
    total = sum(program.log_probs(x, theta, choice))
    own = joint(program, model, x, theta, choice, (Y.float(),))
    torch.testing.assert_close(total, own, rtol=1e-5, atol=1e-5)
