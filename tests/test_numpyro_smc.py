"""Inference of NumPyro programs: against closed forms, grids and NumPyro's own NUTS; what `SMC` answers,
and what NumPyro and ArviZ make of its answers; what it refuses."""

import math
import random as python_random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import LogNormal, Normal

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.grids import karras
from smcguide.kernels import MatchedDDPM
from smcguide.priors import GaussianMixture
from smcguide.priors.joint import JointPrior
from smcguide.testing import statistics, z_test

numpyro = pytest.importorskip("numpyro")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from jax import random  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.diagnostics import effective_sample_size  # noqa: E402
from numpyro.infer import MCMC, NUTS, Predictive  # noqa: E402

from smcguide.bridges.numpyro import (  # noqa: E402
    PMMH,
    SMC,
    DiffusionPrior,
    Gibbs,
    Particles,
    cost_from_numpyro,
)

F64 = torch.float64


def double(*values):
    return torch.tensor(values, dtype=F64)


def to_torch(a):
    return torch.from_numpy(np.array(a))


MEAN, WIDTH, STEPS = double(0.5, -0.25), 0.8, 6
ONE = GaussianMixture(torch.ones(1), MEAN[None].float(), scale=WIDTH)
MIXTURE = GaussianMixture(double(0.4, 0.6), double(0.8, -0.5, -0.5, 0.6).reshape(2, 2), scale=0.6)
# numbers that float32 has exactly; the program's and torch's
A = jnp.array([[1.0, 0.5], [-0.25, 1.0], [0.625, 0.625], [0.25, -1.0]])
Y, B = jnp.array([1.5, 0.125, 0.625, 0.25]), jnp.array([0.5, -1.0, 0.0, 2.0])
A64, Y64, B64 = (to_torch(a).double() for a in (A, Y, B))
SIGMA = LogNormal(double(-0.5)[0], 0.7)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def jax_stays_in_float32():
    yield
    assert not jax.config.jax_enable_x64 and jnp.zeros(1, float).dtype == jnp.float32


def key(stream):
    return random.key(statistics.seed(f"numpyro smc {stream}") % 2**31)


VALUES_ONLY = {"proposal": sg.proposals.Bootstrap(), "potential": sg.potentials.Tweedie()}


def infer(stream, model, *args, given=None, **options):
    defaults = {"num_particles": 30, "num_chains": 120, "num_steps": STEPS, "progress": False}
    smc = SMC(model, **defaults | options)
    smc.run(key(stream), *args, **given or {})
    return smc


def latent(prior=ONE, name="x"):
    return numpyro.sample(name, DiffusionPrior(prior))


def unknown_scale():
    return numpyro.sample("sigma", dist.LogNormal(-0.5, 0.7))


def observe(mean, scale=0.5, y=Y):
    return numpyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def by_datum(y=None):
    """Noise level unknown, a log-likelihood for each datum."""
    x, sigma = latent(), unknown_scale()
    with numpyro.plate("data", 4):
        numpyro.sample("y", dist.Normal(A @ x, sigma), obs=y)


# ---- closed forms --------------------------------------------------------------------------------


@cache
def law(*priors, steps=STEPS):
    """Of events of isotropic Gaussian priors of one width, as the chain draws them: its variance is that
    of a few draws, so that events are a percent or two too wide."""
    prior = priors[0] if len(priors) == 1 else JointPrior(list(priors))
    kernel = MatchedDDPM().bind(sg.rehearse(prior))
    levels = [prior.schedule.level(float(t)) for t in karras(steps)(prior.schedule)]
    x = torch.stack([torch.zeros(prior.event_shape), torch.ones(prior.event_shape)]).to(prior.dtype)
    variance = levels[0].alpha ** 2 * WIDTH**2 + levels[0].sigma ** 2
    for t, s in pairwise(levels):
        step = kernel.step(x, prior.denoise(x, t.time), t, s)
        slope = float((step.mean[1] - step.mean[0]).mean())
        variance = slope**2 * variance + float(step.std) ** 2
    mean = prior.moments().mean
    return GaussianMixture(torch.ones(1), mean[None], scale=variance**0.5)


def check(smc, log_z, expectations=(), ceiling=0.03, discretisation=0.0):
    """Z_hat / Z of the chains is 1 on average, and times the error of a posterior mean 0.

    Arguments:
        expectations: pairs of f, latents (S, N, ...) -> (S, N, ...), and its exact posterior mean.
    """
    Z = torch.exp(smc.result.log_z - log_z)
    z_test(Z, 1.0, ceiling, truth_se=discretisation)
    ZW = Z[:, None] * smc.outcome.found.log_w.softmax(1)
    for f, truth in expectations:
        error = f(smc.outcome.latents).double() - torch.as_tensor(truth)
        found = torch.einsum("sn,sn...->s...", ZW, error)
        z_test(found, 0.0, ceiling, truth_se=discretisation)


def mean_and_variance(prior, A, y, scale):
    law = prior.posterior(A, y, scale).moments()
    variance = law.variance if law.basis is None else law.basis.square() @ law.variance
    return law.mean, variance


def event(latents):
    return latents["x"]


def linear(y=None, prior=ONE):
    observe(A @ latent(prior) + B, y=y)


@pytest.mark.parametrize(("prior", "steps", "error"), [(ONE, 8, 0.0), (MIXTURE, 160, 0.004)])
def test_an_affine_program_has_its_evidence_and_moments(prior, steps, error) -> None:
    exact = law(ONE, steps=steps) if prior is ONE else MIXTURE
    smc = infer(
        f"linear {steps}",
        linear,
        Y,
        given={"prior": prior},
        num_particles=50,
        num_chains=300,
        num_steps=steps,
    )
    assert smc.result.settings["cost"].startswith("ProgramLinear")
    assert "InflatedGaussian" in smc.result.settings["potential"]
    assert event(smc.outcome.latents).dtype == prior.dtype
    mean, variance = mean_and_variance(exact, A64, Y64 - B64, 0.5)
    expectations = [(event, mean), (lambda v: event(v).square(), variance + mean.square())]
    check(smc, float(exact.log_evidence(A64, Y64 - B64, 0.5)), expectations, 0.03, error)


def test_draws_have_the_posteriors_mean_and_deviation() -> None:
    smc = infer("draws", linear, Y, num_particles=4000, num_chains=1)
    draws = to_torch(smc.get_samples(key("take"), 3000)["x"])
    mean, variance = mean_and_variance(law(ONE), A64, Y64 - B64, 0.5)
    z_test(draws, mean, 0.01)
    z_test((draws - mean).square(), variance, 0.01)


RATES = jnp.array([2.0, 1.0, 0.0, 3.0])


def counts():
    numpyro.sample("y", dist.Poisson(jnp.exp(A @ latent())).to_event(1), obs=RATES)


def tilted():
    x = latent()
    numpyro.factor("tilt", x @ jnp.array([0.75, -0.5]))
    observe(A @ x)


def tempered():
    x = latent()
    with handlers.scale(scale=0.5):
        observe(A @ x)


def exact_counts(prior):
    """log Z and E x by quadrature."""
    axis = torch.linspace(-6, 6, 241, dtype=F64)
    x = torch.cartesian_prod(axis, axis) + MEAN
    log_rate, k = x @ A64.T, to_torch(RATES).double()
    terms = prior.log_prob(x) + (k * log_rate - log_rate.exp() - torch.lgamma(k + 1)).sum(1)
    log_z = float(terms.logsumexp(0) + 2 * (axis[1] - axis[0]).log())
    return log_z, terms.softmax(0) @ x


def exact_tilted(prior):
    """exp(b x) moves a Gaussian prior by its variance times b."""
    b, variance = double(0.75, -0.5), float(prior.moments().variance[0])
    moved = GaussianMixture(torch.ones(1), (MEAN + variance * b)[None], scale=variance**0.5)
    log_z = b @ MEAN + variance * b @ b / 2 + moved.log_evidence(A64, Y64, 0.5)
    return float(log_z), mean_and_variance(moved, A64, Y64, 0.5)[0]


def exact_tempered(prior):
    """The root of a normal density is one of twice the variance, but for its constant."""
    constant = len(Y) * (math.log(4 * math.pi * 0.25) / 2 - math.log(2 * math.pi * 0.25) / 4)
    wide = 0.5 * 2**0.5
    log_z = float(prior.log_evidence(A64, Y64, wide)) + constant
    return log_z, mean_and_variance(prior, A64, Y64, wide)[0]


@pytest.mark.parametrize(
    ("model", "exact"),
    [(counts, exact_counts), (tilted, exact_tilted), (tempered, exact_tempered)],
)
def test_programs_that_are_not_normal_are_not_taken_for_it(model, exact) -> None:
    log_z, mean = exact(law(ONE))
    smc = infer(model.__name__, model)
    assert smc.result.settings["cost"] == "observations ['y']"
    assert "KrylovLaplace" in smc.result.settings["potential"]
    check(smc, log_z, [(event, mean)], ceiling=0.05)


def test_two_sites_are_one_joint_prior() -> None:
    """y = A x + z + noise, with z of another shape."""
    other = GaussianMixture(torch.ones(1), torch.tensor([[[1.0, 0.0], [-1.0, 0.5]]]), scale=WIDTH)

    def model():
        observe(A @ latent() + latent(other, "z").ravel())

    both = law(ONE, other)
    wide = torch.cat([A64, torch.eye(4).double()], 1)
    mean, _ = mean_and_variance(both, wide, Y64, 0.5)
    smc = infer("two sites", model, num_particles=50, num_chains=200)
    draws = smc.get_samples(key("two sites"), 7)
    assert {name: a.shape for name, a in draws.items()} == {"x": (7, 2), "z": (7, 2, 2)}
    expectations = [(event, mean[:2]), (lambda v: v["z"].flatten(2), mean[2:])]
    check(smc, float(both.log_evidence(wide, Y64, 0.5)), expectations)


# ---- discrete latents ----------------------------------------------------------------------------

ROWS, CHANCE = jnp.array([[0, 1], [1, 2], [2, 3]]), (0.25, 0.5, 0.25)


def which_mask(y=None):
    x = latent()
    k = numpyro.sample("k", dist.Categorical(jnp.array(CHANCE)))
    observe(A[ROWS[k]] @ x, y=y)


@pytest.fixture(scope="module")
def by_mask():
    """log p(k, y), p(k | y) and E[x | k, y]."""
    rows = to_torch(ROWS).long()
    prior = law(ONE)
    joint = torch.stack([prior.log_evidence(A64[r], Y64[:2], 0.5) for r in rows])
    joint = joint + double(*CHANCE).log()
    mean = torch.stack([mean_and_variance(prior, A64[r], Y64[:2], 0.5)[0] for r in rows])
    return joint, joint.softmax(0), mean


@pytest.fixture(scope="module")
def masks():
    return infer("mask", which_mask, Y[:2], num_particles=40)


def test_a_mask_is_summed_out_and_drawn_again(masks, by_mask) -> None:
    joint, p, mean = by_mask

    def one_hot(latents):
        return torch.nn.functional.one_hot(latents["k"].long(), 3)

    def event_if(latents):
        return (one_hot(latents)[..., None] * event(latents)[..., None, :]).flatten(2)

    expectations = [(one_hot, p), (event_if, (p[:, None] * mean).flatten())]
    check(masks, float(joint.logsumexp(0)), expectations, ceiling=0.04)


def test_draws_of_a_mask_belong_to_their_events(masks, by_mask) -> None:
    _, p, mean = by_mask
    draws = masks.get_samples(key("masks"), 3000)
    assert draws["k"].shape == (3000,) and jnp.issubdtype(draws["k"].dtype, jnp.integer)
    k, x = to_torch(draws["k"]), to_torch(draws["x"])
    for j in range(3):
        z_test((k == j).double(), float(p[j]), 0.02)
        z_test(x[k == j], mean[j], 0.05)


# ---- unknown parameters, three ways --------------------------------------------------------------


class Grid:
    """A fine grid of log sigma: posterior masses and the evidence."""

    def __init__(self, log_evidence, size=1001):
        self.log_sigma = torch.linspace(-6.0, 4.0, size, dtype=F64)
        sigma = self.log_sigma.exp()
        joint = SIGMA.log_prob(sigma) + self.log_sigma
        joint = joint + torch.stack([log_evidence(float(s)) for s in sigma])
        self.mass = joint.softmax(0)
        self.log_z = float(joint.logsumexp(0)) + math.log(10 / (size - 1))
        self.mean = float(self.mass @ self.log_sigma)
        self.square = float(self.mass @ self.log_sigma.square())

    def distance(self, smc):
        """Total variation on ten cells of equal mass."""
        levels = torch.linspace(0, 1, 11).double()[1:-1]
        cells = self.log_sigma[torch.searchsorted(self.mass.cumsum(0), levels)].exp()
        particles, log_W = smc.get_weighted_samples()
        cell = torch.bucketize(to_torch(particles["sigma"]).double(), cells)
        W = to_torch(log_W).double().exp()
        share = torch.zeros(10, dtype=F64).index_add(0, cell, W)
        true = torch.zeros(10, dtype=F64)
        true.index_add_(0, torch.bucketize(self.log_sigma.exp(), cells), self.mass)
        return float((share - true).abs().sum() / 2)


@pytest.fixture(scope="module")
def grid():
    return Grid(lambda s: law(ONE).log_evidence(A64, Y64, s))


def log_sigma(latents):
    return latents["sigma"].double().log()


@pytest.fixture(scope="module")
def large():
    return infer("large", by_datum, Y, num_particles=1000, num_chains=6)


def test_an_unknown_noise_level_by_particles(large, grid) -> None:
    assert grid.distance(large) <= 0.05
    assert float(large.get_log_normalizer()) == pytest.approx(grid.log_z, abs=0.2)


def test_evidence_and_noise_level_are_unbiased(grid) -> None:
    expectations = [(log_sigma, grid.mean), (lambda v: log_sigma(v).square(), grid.square)]
    check(infer("unbiased", by_datum, Y), grid.log_z, expectations, ceiling=0.1)


def test_moves_by_mala_follow_the_gradient_of_jax(grid) -> None:
    asked = []

    @jax.custom_vjp
    def watched(a):
        return a

    watched.defvjp(lambda a: (a, None), lambda _, g: (asked.append(g), (g,))[1])

    def model():
        x, sigma = latent(), watched(unknown_scale())
        observe(A @ x, sigma)

    infer("walk", model, num_particles=5, num_chains=2, num_steps=2, **VALUES_ONLY)
    walk = len(asked)  # whether there is a gradient is asked once
    move = sg.parameter_moves.MALA(0.3, num_moves=4)
    smc = infer("mala", model, nuisance=Particles(move))
    assert len(asked) > 2 * walk
    assert smc.result.settings["parameter_move"] == repr(move)
    check(smc, grid.log_z, [(log_sigma, grid.mean)], ceiling=0.1)


@pytest.fixture(scope="module")
def chains():
    """PMMH and Gibbs."""
    return {
        "pmmh": infer(
            "pmmh", by_datum, Y, nuisance=PMMH(6, 2, 120), num_particles=10, num_chains=10,
        ),
        "gibbs": infer(
            "gibbs", by_datum, Y, nuisance=Gibbs(6, 6), num_particles=6, num_chains=100,
        ),
    }  # fmt: skip


def test_an_unknown_noise_level_by_pmmh(chains, grid) -> None:
    smc = chains["pmmh"]
    means = log_sigma(smc.outcome.latents).mean(1)
    assert float(means.std()) / len(means) ** 0.5 < 0.2
    assert float(means.mean()) == pytest.approx(grid.mean, abs=0.4)  # chains are short
    assert 0.1 < float(smc.result.acceptance_rate.mean()) < 0.7
    theta = smc.result.theta[..., 0]
    torch.testing.assert_close(theta.exp().float(), smc.outcome.latents["sigma"])
    expected = SIGMA.log_prob(theta.exp()) + theta
    torch.testing.assert_close(smc.result.log_prior, expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_noise_level_by_gibbs(chains, grid) -> None:
    values = log_sigma(chains["gibbs"].outcome.latents)
    found = torch.stack([values.mean(1), values.square().mean(1)], 1)
    z_test(found, double(grid.mean, grid.square), 0.08)


def test_three_events_of_a_plate_share_a_parameter() -> None:
    data = jnp.stack([Y, 0.5 * Y, A @ jnp.array([0.0, -0.5])])

    def model():
        sigma = unknown_scale()
        with numpyro.plate("objects", 3):
            observe(latent() @ A.T, sigma, data)

    joint = law(ONE, ONE, ONE, steps=10)
    y, wide = to_torch(data).double().flatten(), torch.block_diag(A64, A64, A64)
    grid = Grid(lambda s: joint.log_evidence(wide, y, s), 201)
    by_level = [mean_and_variance(joint, wide, y, float(s))[0] for s in grid.log_sigma.exp()]
    smc = infer("plate", model, num_particles=40, num_chains=100, num_steps=10)
    assert smc.outcome.latents["x"].shape == (100, 40, 3, 2)
    expectations = [
        (log_sigma, grid.mean),
        (lambda v: event(v).flatten(2), grid.mass @ torch.stack(by_level)),
    ]
    check(smc, grid.log_z, expectations, ceiling=0.15)


# ---- NumPyro's NUTS ------------------------------------------------------------------------------


def ordinary(y=None):
    """The same written in NumPyro alone."""
    x = numpyro.sample("x", dist.Normal(jnp.array([0.5, -0.25]), WIDTH).to_event(1))
    observe(A @ x, unknown_scale(), y)


def test_nuts_agrees(large) -> None:
    chain = MCMC(NUTS(ordinary), num_warmup=500, num_samples=8000, progress_bar=False)
    chain.run(key("their own"), Y)
    theirs = chain.get_samples(group_by_chain=True)
    W = large.get_normalized_weights().reshape(6, 1000)
    for name, f in (("x", lambda a: a.double()), ("sigma", lambda a: a.double().log()[..., None])):
        drawn, own = f(to_torch(theirs[name])), f(large.outcome.latents[name])
        std = drawn.flatten(0, 1).std(0)
        their_error = torch.from_numpy(effective_sample_size(drawn.numpy())) ** -0.5
        mean = torch.einsum("sn,snd->d", W, own)
        # of a ratio of sums over independent chains
        own_error = torch.einsum("sn,snd->sd", W, own - mean).square().sum(0).sqrt() / std
        gap = (mean - drawn.mean((0, 1))) / std
        assert bool((their_error < 0.03).all()) and bool((own_error < 0.05).all())
        assert bool((gap.abs() < 0.1).all()), gap


# ---- simulators, float64 -------------------------------------------------------------------------


def simulator(x):
    """NumPy called back from JAX; no gradient."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.asarray(v) ** 3, shape, x, vmap_method="expand_dims")


def simulated(scale=0.5):
    observe(A @ simulator(latent()) + jnp.sum(scale), 0.5)


def test_a_program_without_gradient_is_sampled_by_values_alone() -> None:
    smc = infer("simulator", simulated, num_particles=200)
    assert smc.result.settings["proposal"] == "Bootstrap()"
    axis = torch.linspace(-6, 6, 241, dtype=F64)
    x = torch.cartesian_prod(axis, axis) + MEAN
    terms = law(ONE).log_prob(x) + Normal(x**3 @ A64.T + 0.5, 0.5).log_prob(Y64).sum(1)
    log_z = float(terms.logsumexp(0) + 2 * (axis[1] - axis[0]).log())
    check(smc, log_z, [(event, terms.softmax(0) @ x)], ceiling=0.1)


def test_moves_that_need_a_gradient_say_so() -> None:
    move = sg.parameter_moves.MALA()
    with pytest.raises(InvalidInput, match=r"MALA.* follows the gradient .* there is none"):
        infer("no gradient", lambda: simulated(unknown_scale()), nuisance=Particles(move))


def test_a_program_that_branches_has_the_answer_of_one_that_does_not() -> None:
    """Neither has a gradient."""

    def branching():
        x = simulator(latent())
        observe(A @ x if x[0] > 0.5 else A @ x - 1)

    def straight():
        x = simulator(latent())
        observe(A @ x - jnp.where(x[0] > 0.5, 0.0, 1.0))

    common = {"num_particles": 8, "num_chains": 1, "num_steps": 2}
    with pytest.warns(UserWarning, match="one particle after the other"):
        slow = infer("both", branching, **common)
    fast = infer("both", straight, **common)
    assert slow.result.settings["proposal"] == "Bootstrap()"
    torch.testing.assert_close(slow.outcome.latents["x"], fast.outcome.latents["x"])
    torch.testing.assert_close(slow.result.log_w, fast.result.log_w, rtol=1e-4, atol=1e-4)


DOUBLE = GaussianMixture(torch.ones(1), MEAN[None], scale=WIDTH)


def test_data_in_double_precision_serve_jax_before_and_after() -> None:
    """JAX remembers the precision in which it first met a NumPy array."""
    before, after = np.array(Y, dtype=np.float64), np.array(Y, dtype=np.float64)
    compiled = jax.jit(lambda x: before + x)
    compiled(jnp.zeros(4))

    def model(y):
        observe(A @ latent(DOUBLE), y=y)

    few = {"num_particles": 10, "num_chains": 1, "num_steps": 2}
    kept = [infer("precision", model, y, **few) for y in (before, after)]
    kept.append(infer("precision", model, given={"y": before}, **few))
    for smc in kept:
        assert smc.result.x.dtype == F64
        assert smc.get_samples(key("take"), 3)["x"].dtype == jnp.float32
        torch.testing.assert_close(smc.result.x, kept[0].result.x)
    for y in (before, after):
        assert (y + jnp.zeros(4)).dtype == jnp.float32


def test_an_array_that_jax_has_met_in_another_precision_is_named_or_no_trouble() -> None:
    matrix = np.array(A, dtype=np.float64)
    compiled = jax.jit(lambda x: matrix @ x)
    compiled(jnp.zeros(2))
    try:
        infer("met", lambda: observe(matrix @ latent(DOUBLE)), num_particles=5, num_steps=2)
    except InvalidInput as error:
        assert "after site 'x', in another precision" in str(error)  # noqa: PT017
        assert "jnp.asarray(a)" in str(error)  # noqa: PT017


# ---- answers -------------------------------------------------------------------------------------


SMALL = {"num_particles": 60, "num_chains": 2, "num_steps": 6}


@pytest.fixture(scope="module")
def two():
    """Two chains of unequal evidence."""
    return infer("two", by_datum, Y, **SMALL)


def shapes(arrays):
    return {name: tuple(a.shape) for name, a in arrays.items()}


def test_draws_are_a_dictionary_of_jax_arrays(two) -> None:
    for num in (1, 60, 200):
        draws = two.get_samples(key("draws"), num)
        assert shapes(draws) == {"x": (num, 2), "sigma": (num,)}
        for a in draws.values():
            assert isinstance(a, jax.Array) and a.dtype == jnp.float32


def test_the_key_of_draws_governs_them(two) -> None:
    first, again, other = (two.get_samples(key(k), 50) for k in ("one", "one", "other"))
    for name in first:
        assert jnp.array_equal(first[name], again[name])
        assert not jnp.array_equal(first[name], other[name])


def test_draws_have_equal_weights_and_are_joint(two) -> None:
    num, particles = 1000, two.get_weighted_samples()[0]
    draws = two.get_samples(key("equal"), num)
    place = (draws["x"][:, None] == particles["x"]).all(-1).argmax(1)
    for name, a in particles.items():
        assert jnp.array_equal(a[place], draws[name])
    counted = torch.bincount(to_torch(place).long(), minlength=120)
    # stratified draws: a share of n W of them is cut by at most three strata
    assert float((counted - num * two.get_normalized_weights()).abs().max()) <= 3
    first, second = draws["x"][:500].mean(0), draws["x"][500:].mean(0)
    assert bool((abs(first - second) < 0.2).all())  # in no order


def test_weighted_samples_are_all_particles_and_their_log_weights(two) -> None:
    particles, log_W = two.get_weighted_samples()
    assert shapes(particles) == {"x": (120, 2), "sigma": (120,)} and log_W.shape == (120,)
    assert all(isinstance(a, jax.Array) for a in (*particles.values(), log_W))
    W = to_torch(jnp.exp(log_W)).double()
    assert float(W.sum()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(W, two.get_normalized_weights(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(W.reshape(2, 60).sum(1), two.result.log_z.softmax(0).double())
    within = W.reshape(2, 60) / W.reshape(2, 60).sum(1, keepdim=True)
    torch.testing.assert_close(within, two.result.log_w.softmax(1), rtol=1e-5, atol=1e-7)
    for name, a in particles.items():
        assert torch.equal(to_torch(a), two.outcome.latents[name].flatten(0, 1))
    mean = torch.einsum("n,nd->d", W, to_torch(particles["x"]).double())
    draws = to_torch(two.get_samples(key("many"), 5000)["x"]).double()
    assert bool(((draws.mean(0) - mean).abs() < 0.02).all())


def test_evidence_and_effective_sample_size(two) -> None:
    W = two.get_normalized_weights()
    assert float(two.get_ESS()) == pytest.approx(float(1 / W.square().sum()))
    log_z = two.result.log_z.logsumexp(0) - math.log(2)
    torch.testing.assert_close(two.get_log_normalizer(), log_z)
    assert two.get_ESS().shape == two.get_log_normalizer().shape == ()


def test_a_summary_is_printed(two, chains, capsys) -> None:
    two.print_summary()
    text = capsys.readouterr().out
    assert text == two.summary() + "\n"
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    W, sigma = two.get_normalized_weights(), two.outcome.latents["sigma"].flatten().double()
    mean, std = (W * sigma).sum(), (W * (sigma - (W * sigma).sum()).square()).sum().sqrt()
    found = [float(v) for v in rows["sigma"][:2]]
    assert found == pytest.approx([float(mean), float(std)], abs=6e-4)
    assert {"x[0]", "x[1]"} <= rows.keys() and "log Z" in text
    for smc in chains.values():
        smc.print_summary()
        text = capsys.readouterr().out
        assert "\nsigma " in text and "acceptance" in text and "exact in the limit" in text


def test_markov_chains_give_their_draws(chains) -> None:
    for smc, num in ((chains["pmmh"], 60), (chains["gibbs"], 600)):
        assert isinstance(smc.result, sg.ParameterChains)
        particles, log_W = smc.get_weighted_samples()
        assert shapes(particles) == {"x": (num, 2), "sigma": (num,)}
        np.testing.assert_allclose(log_W, -math.log(num), rtol=1e-6)
        assert torch.equal(to_torch(particles["x"]), smc.result.x.flatten(0, 1))
        assert shapes(smc.get_samples(key("chains"), 10)) == {"x": (10, 2), "sigma": (10,)}
        assert float(smc.get_ESS()) == pytest.approx(num)
        with pytest.raises(InvalidInput, match=r"do not estimate the evidence.*Particles"):
            smc.get_log_normalizer()


def test_values_keep_the_programs_shapes_and_dtypes() -> None:
    single = GaussianMixture(torch.ones(1), torch.zeros(1, 2, 3), scale=1.0)

    def model():
        with numpyro.plate("objects", 2):
            x = latent(single)
        s = numpyro.sample("s", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
        k = numpyro.sample("k", dist.Bernoulli(0.5).expand([2]).to_event(1))
        mean = x.sum(-1) * k[:, None]
        numpyro.sample("y", dist.Normal(mean, s[:, None]).to_event(2), obs=jnp.ones((2, 2)))

    smc = infer("shapes", model, num_particles=20, num_chains=1, num_steps=2, **VALUES_ONLY)
    draws = smc.get_samples(key("shapes"), 5)
    assert shapes(draws) == {"x": (5, 2, 2, 3), "s": (5, 2), "k": (5, 2)}
    assert [str(a.dtype) for a in draws.values()] == ["float32", "float32", "int32"]


# ---- keys ----------------------------------------------------------------------------------------


def test_the_key_of_a_run_governs_it(two) -> None:
    again = infer("two", by_datum, Y, **SMALL)
    assert torch.equal(again.result.log_z, two.result.log_z)
    for name, a in two.get_samples(key("same"), 20).items():
        assert jnp.array_equal(again.get_samples(key("same"), 20)[name], a)
    first, other = (infer(stream, linear, Y, **SMALL) for stream in ("one", "other"))
    assert not torch.isclose(first.result.x, other.result.x).any()
    smc = SMC(linear, progress=False, **SMALL)
    results = []
    for rng_key in (random.PRNGKey(5), random.key(5)):  # of the old kind, and of the new one
        smc.run(rng_key, Y)
        results.append(smc.result.x)
    assert torch.equal(*results)


def test_another_run_replaces_the_first() -> None:
    smc = infer("replace", linear, Y, num_chains=1)
    first = smc.get_log_normalizer()
    smc.run(key("replace"), y=Y + 5)
    assert float(smc.get_log_normalizer()) < float(first) - 5


def test_a_run_leaves_all_generators_alone() -> None:
    def model():
        gain = numpyro.param("gain", 1.0)
        observe(gain * A @ latent(), unknown_scale())

    states = [torch.get_rng_state(), np.random.get_state(), python_random.getstate()]  # noqa: NPY002
    smc = infer("generators", model, num_particles=10, num_chains=1, num_steps=2, **VALUES_ONLY)
    smc.get_samples(key("generators"), 5), smc.get_weighted_samples(), smc.summary()
    smc.outcome.simulate(torch.arange(3))
    after = [torch.get_rng_state(), np.random.get_state(), python_random.getstate()]  # noqa: NPY002
    assert str(states) == str(after)
    assert torch.equal(states[0], after[0])
    assert torch.is_grad_enabled()


# ---- NumPyro's own tools -------------------------------------------------------------------------

THREE = GaussianMixture(torch.ones(1), torch.zeros(1, 3), scale=1.0)


def echo(y=None):
    """Three objects of size three; new data are they, but for a little noise."""
    sigma = unknown_scale()
    with numpyro.plate("objects", 3):
        x = numpyro.sample("x", DiffusionPrior(THREE).mask(False))
        noise = 0.5 if y is not None else 1e-3
        numpyro.sample("y", dist.Normal(x, noise * sigma).to_event(1), obs=y)
        numpyro.deterministic("twice", 2 * x)


def test_draws_go_into_predictive_unchanged() -> None:
    """Also where there are as many draws as objects, and as numbers in an event."""
    smc = infer("echo", echo, jnp.eye(3), num_particles=20, num_steps=2, **VALUES_ONLY)
    for num, parallel in ((3, False), (3, True)):
        draws = smc.get_samples(key("echo"), num)
        wanted = {"posterior_samples": draws, "return_sites": ["y", "twice"]}
        new = Predictive(echo, parallel=parallel, **wanted)(key("new"))
        assert new["y"].shape == (num, 3, 3)
        np.testing.assert_allclose(new["twice"], 2 * draws["x"], rtol=1e-6)
        z = (new["y"] - draws["x"]) / (1e-3 * draws["sigma"][:, None, None])
        assert 0.5 < float(z.std()) < 1.5 and float(abs(z).max()) < 7


def test_draws_of_chains_and_of_discrete_latents_go_into_predictive(chains, masks) -> None:
    for smc in chains.values():
        draws = smc.get_samples(key("chains"), 400)
        new = Predictive(by_datum, posterior_samples=draws)(key("new"))["y"]
        z = to_torch((new - draws["x"] @ A.T) / draws["sigma"][:, None]).double()
        z_test(torch.cat([z, z.square()], 1), double(*[0] * 4, *[1] * 4), 0.1)
    draws = masks.get_samples(key("masks"), 20)
    assert Predictive(which_mask, posterior_samples=draws)(key("new"))["y"].shape == (20, 2)


def test_a_site_of_an_ordinary_program_can_get_a_diffusion_prior() -> None:
    placed = infer("place", known, Y, site="x", prior=ONE, **SMALL)
    same = infer("place", lambda y: observe(A @ latent(), y=y), Y, **SMALL)
    assert torch.equal(placed.result.x, same.result.x)
    assert torch.equal(placed.result.log_w, same.result.log_w)


# ---- the cost alone ------------------------------------------------------------------------------


def known(y):
    observe(A @ numpyro.sample("x", dist.Normal(0.0, 9.0).expand([2]).to_event(1)), y=y)


def three_kinds(y):
    x = numpyro.sample("x", dist.Normal(0.0, 9.0).expand([2]).to_event(1))
    sigma = unknown_scale()
    kind = numpyro.sample("kind", dist.Categorical(jnp.array(CHANCE)))
    observe(A @ x + kind, sigma, y)


def test_the_cost_alone_is_minus_the_log_likelihood() -> None:
    cost = cost_from_numpyro(known, "x", y=Y)
    x = torch.randn(2, 5, 2, generator=statistics.generator("cost"))
    expected = -Normal(x.double() @ A64.T, 0.5).log_prob(Y64).sum(-1)
    torch.testing.assert_close(cost(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(cost, sg.costs.LinearGaussian)
    post = sg.sample(
        ONE, cost, num_particles=50, num_systems=200, num_steps=STEPS, progress=False,
        seed=statistics.seed("cost alone"),
    )  # fmt: skip
    log_z = law(ONE).log_evidence(A64, Y64, 0.5)
    z_test(torch.exp(post.log_evidence - log_z), 1.0, 0.03)


@pytest.fixture(scope="module")
def kinds():
    return cost_from_numpyro(three_kinds, "x", Y)


def test_the_cost_alone_sums_out_what_is_discrete(kinds) -> None:
    source = statistics.generator("kinds")
    x, theta = torch.randn(6, 2, generator=source), torch.randn(6, 1, generator=source).double()
    theta.requires_grad_()
    mean = x.double() @ A64.T
    each = [Normal(mean + k, theta.exp()).log_prob(Y64).sum(1) for k in range(3)]
    expected = -(torch.stack(each) + double(*CHANCE).log()[:, None]).logsumexp(0)
    found = kinds.evaluate(x, theta)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    slopes = [torch.autograd.grad(value.sum(), theta)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-3)


def test_the_cost_alone_has_the_programs_parameters_by_name(kinds) -> None:
    post = sg.sample(
        ONE, kinds, num_particles=20, num_systems=2, num_steps=2, progress=False, **VALUES_ONLY
    )
    assert shapes(post.parameters) == {"sigma": (2, 20)}
    assert bool((post.parameters["sigma"] > 0).all())
    assert post.marginal("sigma").mean().shape == (2,)


# ---- ArviZ ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def az():
    return pytest.importorskip("arviz")


@pytest.fixture(scope="module")
def data(az, two):
    return two.to_arviz(500)


GROUPS = {
    "posterior", "posterior_predictive", "log_likelihood", "observed_data", "weighted_posterior",
    "sample_stats", "smc",
}  # fmt: skip


def names(container):
    """Of the groups, with ArviZ 0.x and 1.x."""
    try:
        return set(container.groups())
    except TypeError:
        return set(container.children)


def tensor(array):
    return to_torch(array.values)


def test_the_container_has_the_programs_names(data, two) -> None:
    assert names(data) == GROUPS
    assert dict(data["posterior"].sizes) == {"chain": 2, "draw": 500, "x_dim_0": 2}
    assert set(data["posterior"].data_vars) == {"x", "sigma"}
    assert set(data["log_likelihood"].data_vars) == set(data["observed_data"].data_vars) == {"y"}
    assert data["posterior_predictive"]["y"].dims == ("chain", "draw", "y_dim_0")
    assert torch.equal(tensor(data["observed_data"]["y"]).double(), Y64)
    weighted = data["weighted_posterior"]
    assert set(weighted.data_vars) == {"x", "sigma", "log_weight", "eve"}
    assert torch.equal(tensor(weighted["sigma"]), two.outcome.latents["sigma"])
    assert torch.equal(tensor(data["smc"]["log_evidence"]), two.result.log_z)
    assert two.to_arviz()["posterior"].sizes["draw"] == 60


def test_log_likelihoods_are_those_of_the_draws(data) -> None:
    x, sigma = (tensor(data["posterior"][name]).double() for name in ("x", "sigma"))
    exact = Normal(x @ A64.T, sigma[..., None]).log_prob(Y64)
    found = tensor(data["log_likelihood"]["y"])
    assert found.shape == (2, 500, 4)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_new_data_have_their_law_given_the_draws(data) -> None:
    x, sigma = (tensor(data["posterior"][name]).double() for name in ("x", "sigma"))
    z = (tensor(data["posterior_predictive"]["y"]).double() - x @ A64.T) / sigma[..., None]
    z_test(torch.cat([z, z.square()], -1).flatten(0, 1), double(*[0] * 4, *[1] * 4), 0.1)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_arviz_summarises_leaves_out_data_and_writes_files(az, data, tmp_path) -> None:
    table = az.summary(data, round_to="none")
    assert list(table.index) == ["x[0]", "x[1]", "sigma"]
    left_out = az.loo(data)
    elpd = getattr(left_out, "elpd_loo", None) or left_out.elpd  # ArviZ 0.x, 1.x
    assert -12 < float(elpd) < 0
    data.to_netcdf(str(tmp_path / "run.nc"))
    again = az.from_netcdf(str(tmp_path / "run.nc"))
    assert names(again) == GROUPS
    np.testing.assert_array_equal(again["posterior"]["x"].values, data["posterior"]["x"].values)


@pytest.mark.parametrize(("kind", "size"), [("pmmh", (10, 6)), ("gibbs", (100, 6))])
def test_markov_chains_in_a_container(az, chains, kind, size) -> None:
    smc = chains[kind]
    container = smc.to_arviz()
    assert names(container) == GROUPS - {"weighted_posterior", "smc"}
    assert tensor(container["posterior"]["sigma"]).shape == size
    assert torch.equal(tensor(container["posterior"]["sigma"]), smc.outcome.latents["sigma"])


def test_discrete_latents_in_a_container(az, masks) -> None:
    container = masks.to_arviz(10)
    k, x = (tensor(container["posterior"][name]) for name in ("k", "x"))
    rows = to_torch(ROWS).long()[k.long()]
    mean = (A64[rows] @ x.double()[..., None])[..., 0]
    exact = Normal(mean, 0.5).log_prob(Y64[:2]).sum(-1)  # of one event
    found = tensor(container["log_likelihood"]["y"])
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


# ---- refusals ------------------------------------------------------------------------------------

ANSWERS = {
    "get_samples": lambda smc: smc.get_samples(random.key(0), 10),
    "get_weighted_samples": lambda smc: smc.get_weighted_samples(),
    "get_log_normalizer": lambda smc: smc.get_log_normalizer(),
    "get_ESS": lambda smc: smc.get_ESS(),
    "print_summary": lambda smc: smc.print_summary(),
    "to_arviz": lambda smc: smc.to_arviz(),
    "result": lambda smc: smc.result,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_there_are_no_answers_before_a_run(name) -> None:
    with pytest.raises(InvalidInput, match=r"no result yet: call run\("):
        ANSWERS[name](SMC(linear))


def test_at_least_one_draw(two) -> None:
    with pytest.raises(InvalidInput, match="num_samples must be at least 1, got 0"):
        two.get_samples(random.key(0), 0)
    with pytest.raises(InvalidInput, match="num_draws must be a whole number of at least 1, got 0"):
        two.to_arviz(0)


def unobserved(y):
    latent()


def two_sites(y):
    observe(A @ (latent() + latent(name="z")), y=y)


LONG = GaussianMixture(torch.ones(1), torch.zeros(1, 3), scale=1.0)
RUN = [
    (linear, {"nuisance": PMMH()}, r"PMMH: the program has no continuous latents.*Particles\(\)"),
    (linear, {"site": "w"}, r"site='w': the program has diffusion priors at \['x'\]"),
    (two_sites, {"site": "x"}, r"site='x': the program has diffusion priors at \['x', 'z'\]"),
    (known, {}, r"no site has a diffusion prior.*one of the latents \['x'\]"),
    (known, {"site": "x"}, r"no site has a diffusion prior.*one of the latents \['x'\]"),
    (known, {"site": "w", "prior": ONE}, r"no latents \['w'\]; it has the latents \['x'\]"),
    (known, {"site": "y", "prior": ONE}, r"site 'y' has a diffusion prior and is observed"),
    (known, {"site": "x", "prior": LONG}, r"site 'x' has values of shape \(2,\).*shape \(3,\)"),
    (unobserved, {}, r"nothing is observed; the model has only the latents \['x'\]"),
    (linear, {"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
]


@pytest.mark.parametrize(("model", "options", "message"), RUN)
def test_what_cannot_be_is_refused(model, options, message) -> None:
    smc = SMC(model, **{"num_particles": 10, "num_steps": 3, "progress": False} | options)
    with pytest.raises(InvalidInput, match=message):
        smc.run(random.key(0), Y)
    with pytest.raises(InvalidInput, match="call run"):
        smc.get_samples(random.key(0), 10)


def test_a_cost_and_a_prior_of_two_shapes_are_refused(kinds) -> None:
    message = r"latents \{'x': \(2,\)\} make events of shape \(2,\); .* prior have \(3,\)"
    for cost in (kinds, cost_from_numpyro(known, "x", Y)):
        with pytest.raises(InvalidInput, match=message):
            sg.sample(LONG, cost, num_particles=10, progress=False)
    with pytest.raises(InvalidInput, match=r"no latents \['w'\]; it has the latents \['x'\]"):
        cost_from_numpyro(known, "w", Y)
