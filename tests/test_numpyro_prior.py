"""A diffusion prior as a NumPyro distribution: its draws, its density, and what JAX and NumPyro do with
distributions."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import torch
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import compute_log_probs, log_density

from smcguide.bridges.numpyro import DiffusionPrior, diffusion_of
from smcguide.bridges.numpyro.batches import precision
from smcguide.errors import InvalidInput
from smcguide.priors import EmpiricalPrior, GaussianMixture, Prior
from smcguide.schedules import VP
from smcguide.testing.statistics import z_test

KEY = random.PRNGKey(0)
MEAN, STD = torch.tensor([1.0, -1.0]), 0.5


class StandardNormal(Prior):
    """A prior with a denoiser and nothing else."""

    def __init__(self, *event_shape, dtype=torch.float32):
        self.schedule, self.event_shape = VP(), event_shape
        self.dtype, self.device = dtype, torch.device("cpu")

    def denoise(self, x, t):
        level = self.schedule.level(t)
        return level.alpha * x / (level.alpha**2 + level.sigma**2)


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(torch.ones(1), MEAN[None], scale=STD)


@pytest.fixture(scope="module")
def prior(mixture):
    return DiffusionPrior(mixture, num_steps=12)


# ---- draws ---------------------------------------------------------------------------------------


def test_draws_have_the_law_of_the_prior(prior):
    x = torch.tensor(np.array(prior.sample(KEY, (4000,))))
    z_test(x, MEAN, 0.02)
    z_test((x - MEAN).square(), STD**2, 0.02)


def test_draws_come_from_the_chain_of_so_many_steps():
    """A chain of the DDPM kernel with the matched variance, here one that is far from its limit."""
    gm = GaussianMixture(torch.ones(2), torch.tensor([[-3.0], [3.0]]), scale=0.1)
    rough = DiffusionPrior(gm, num_steps=2).sample(KEY, (400,))
    fine = DiffusionPrior(gm, num_steps=60).sample(KEY, (400,))
    between = [float(jnp.mean(jnp.abs(x) < 2.5)) for x in (rough, fine)]
    assert between[0] > 0.1 and between[1] < 0.02


@pytest.mark.parametrize("event_shape", [(3,), (2, 3, 4)])
def test_shapes_are_those_of_any_distribution(event_shape):
    fn = DiffusionPrior(StandardNormal(*event_shape), num_steps=3)
    assert (fn.batch_shape, fn.event_shape) == ((), event_shape)
    for batch in [(), (5,), (2, 5)]:
        assert fn.sample(KEY, batch).shape == (*batch, *event_shape)
        assert fn.expand(batch).sample(KEY).shape == (*batch, *event_shape)
    assert fn.expand((5,)).sample(KEY, (2,)).shape == (2, 5, *event_shape)
    assert fn.support(jnp.zeros((7, *event_shape))).shape == (7,)
    assert not fn.is_discrete and not fn.has_rsample


def test_events_in_plates_are_independent(prior):
    with handlers.seed(rng_seed=0), numpyro.plate("copies", 4):
        x = numpyro.sample("x", prior)
    assert x.shape == (4, 2)
    assert len(np.unique(x)) == 8


def test_draws_are_float32_as_all_in_jax_unless_float64_is_on():
    wide = DiffusionPrior(StandardNormal(2, dtype=torch.float64), num_steps=3)
    narrow = DiffusionPrior(StandardNormal(2), num_steps=3)
    assert wide.sample(KEY).dtype == narrow.sample(KEY).dtype == jnp.float32
    with precision(torch.float64):
        assert wide.sample(KEY).dtype == jnp.float64
        assert narrow.sample(KEY).dtype == jnp.float32


def test_a_key_decides_a_draw_however_it_is_evaluated(prior):
    keys = random.split(KEY, 3)
    one_by_one = np.stack([prior.sample(key, (2,)) for key in keys])
    assert len(np.unique(one_by_one)) == one_by_one.size
    draw = lambda key: prior.sample(key, (2,))  # noqa: E731
    assert np.array_equal(jax.jit(draw)(keys[1]), one_by_one[1])
    assert np.array_equal(jax.vmap(draw)(keys), one_by_one)
    assert np.array_equal(jax.jit(jax.vmap(draw))(keys), one_by_one)


def test_both_kinds_of_keys_will_do(prior):
    assert np.array_equal(prior.sample(random.key(3)), prior.sample(random.PRNGKey(3)))


def test_global_random_states_stay_as_they_are(prior):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    prior.sample(random.PRNGKey(7)).block_until_ready()
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_draw_needs_a_key(prior):
    with pytest.raises(InvalidInput, match=r"numpyro.handlers.seed"):
        prior.sample(None)


# ---- densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_the_density_and_its_gradient_are_those_of_the_prior(prior, mixture, batch):
    x = np.asarray(random.normal(KEY, (*batch, 2)))
    moving = torch.tensor(x, requires_grad=True)
    expected = mixture.log_prob(moving.reshape(-1, 2)).reshape(batch)
    (slope,) = torch.autograd.grad(expected.sum(), moving)
    for evaluate in (prior.log_prob, jax.jit(prior.log_prob)):
        assert evaluate(x).dtype == jnp.float32
        np.testing.assert_allclose(evaluate(x), expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda x: prior.log_prob(x).sum())(x), slope, rtol=1e-5)


def test_densities_go_through_vmap_and_both_modes_of_differentiation(prior, mixture):
    x = random.normal(KEY, (5, 2))
    score = np.asarray(mixture.score(torch.tensor(np.array(x)), 1e-3))
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(prior.log_prob)))(x), score, rtol=0.01)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(prior.log_prob))(x), score, rtol=0.01)
    np.testing.assert_allclose(jax.vmap(prior.log_prob)(x), prior.log_prob(x))


def test_densities_are_float64_where_float64_is_on():
    prior = DiffusionPrior(GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0))
    with precision(torch.float64):
        value = prior.log_prob(jnp.ones(2))
    assert value.dtype == jnp.float64
    assert float(value) == pytest.approx(-1 - np.log(2 * np.pi), abs=1e-14)


def test_integers_are_values_too(prior):
    np.testing.assert_allclose(prior.log_prob(np.array([1, -1])), -np.log(2 * np.pi * STD**2), 1e-6)


def test_a_density_can_be_given_and_comes_first(mixture):
    asked = []

    def density(prior, x):
        asked.append((prior, x.dtype, tuple(x.shape)))
        return -x.abs().sum((1, 2))

    bare = StandardNormal(2, 3, dtype=torch.float64)
    fn = DiffusionPrior(bare, density=density)
    x = jnp.arange(24.0).reshape(4, 2, 3) + 1
    np.testing.assert_allclose(fn.log_prob(x), -x.sum((1, 2)))
    assert asked == [(bare, torch.float64, (4, 2, 3))]
    np.testing.assert_allclose(jax.grad(lambda x: fn.log_prob(x).sum())(x), -jnp.ones_like(x))
    twice = DiffusionPrior(mixture, density=lambda prior, x: 2 * prior.log_prob(x))
    plain = DiffusionPrior(mixture).log_prob(jnp.ones(2))
    np.testing.assert_allclose(twice.log_prob(jnp.ones(2)), 2 * plain)


def test_a_prior_without_density_says_what_to_do():
    with pytest.raises(InvalidInput, match=r"no log-density.*mask\(False\).*density=") as error:
        DiffusionPrior(StandardNormal(2)).log_prob(jnp.zeros(2))
    assert "StandardNormal" in str(error.value)


def test_a_value_of_another_shape_is_refused(prior):
    with pytest.raises(InvalidInput, match=r"shape \(2, 3\); events have shape \(2,\)"):
        prior.log_prob(jnp.zeros((2, 3)))


# ---- what NumPyro does ---------------------------------------------------------------------------


def program(fn, y=None):
    x = numpyro.sample("x", fn)
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


def test_masked_its_density_is_never_asked_for():
    fn = DiffusionPrior(StandardNormal(2), num_steps=3).mask(False)
    x, y = jnp.array([0.5, 1.0]), jnp.zeros(2)
    expected = dist.Normal(x, 0.5).log_prob(y).sum()
    np.testing.assert_allclose(log_density(program, (fn, y), {}, {"x": x})[0], expected)
    terms, _ = compute_log_probs(program, (fn, y), {}, {"x": x})
    assert float(terms["x"]) == 0.0
    assert Predictive(program, num_samples=3)(KEY, fn)["y"].shape == (3, 2)


def test_predictive_draws_from_it_in_both_ways(prior):
    found = [Predictive(program, num_samples=5, parallel=p)(KEY, prior) for p in (False, True)]
    assert found[0]["x"].shape == found[0]["y"].shape == (5, 2)
    assert len(np.unique(found[0]["x"])) == 10
    for name in ("x", "y"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-6)


def test_predictive_takes_posterior_samples_of_it(prior):
    x = jnp.array([[100.0, 0.0], [200.0, 0.0]])
    y = Predictive(program, posterior_samples={"x": x})(KEY, prior)["y"]
    assert np.abs(y - x).max() < 5


def test_nuts_finds_the_posterior_of_a_conjugate_model(prior):
    """N(m, 1/4) and y ~ N(x, 1/4): N((m + y) / 2, 1/8)."""
    y = jnp.array([2.0, 0.0])
    mcmc = MCMC(NUTS(program), num_warmup=150, num_samples=600, progress_bar=False)
    mcmc.run(random.PRNGKey(1), prior, y)
    x = torch.tensor(np.array(mcmc.get_samples()["x"]))
    centred = x - torch.tensor([1.5, -0.5])
    batches = centred.reshape(100, 6, 2)  # of correlated draws
    z_test(batches.mean(1), 0.0, 0.03)
    z_test(centred.square().reshape(100, 6, 2).mean(1), 0.125, 0.015)


# ---- what JAX does -------------------------------------------------------------------------------


def test_it_goes_through_jit_and_vmap_as_an_argument(prior, mixture):
    x = jnp.ones((3, 2))
    evaluate = lambda fn, x: fn.log_prob(x)  # noqa: E731
    np.testing.assert_allclose(jax.jit(evaluate)(prior, x), prior.log_prob(x))
    np.testing.assert_allclose(jax.vmap(evaluate, (None, 0))(prior, x), prior.log_prob(x))
    wrapped = jax.jit(lambda fn: fn.expand((4,)).mask(False))(prior)
    assert wrapped.batch_shape == (4,)
    assert diffusion_of(wrapped) is mixture


def test_another_one_of_the_same_prior_compiles_nothing_anew(mixture):
    traced = []

    @jax.jit
    def evaluate(fn, x):
        traced.append(fn)
        return fn.log_prob(x)

    for fn in (DiffusionPrior(mixture), DiffusionPrior(mixture)):
        evaluate(fn, jnp.ones(2))
    assert len(traced) == 1
    others = [
        DiffusionPrior(mixture, num_steps=7),
        DiffusionPrior(mixture, density=lambda prior, x: 3 + prior.log_prob(x)),
        DiffusionPrior(GaussianMixture(torch.ones(1), MEAN[None] + 1, scale=STD)),
    ]
    found = [float(evaluate(fn, jnp.ones(2))) for fn in others]
    assert len(traced) == 4
    assert found == [float(fn.log_prob(jnp.ones(2))) for fn in others]


# ---- the rest ------------------------------------------------------------------------------------


def test_the_prior_is_found_under_what_plates_masks_and_events_put_around_it(prior, mixture):
    assert prior.diffusion is mixture
    for fn in (
        prior,
        prior.expand((3,)),
        prior.mask(False),
        prior.expand((3, 4)).to_event(1),
        prior.mask(False).expand((3,)).to_event(1).mask(jnp.array(True)),
    ):
        assert diffusion_of(fn) is mixture
    assert diffusion_of(dist.Normal(jnp.zeros(3), 1.0).to_event(1).mask(False)) is None


def test_data_sets_are_priors_too():
    data = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
    fn = DiffusionPrior(EmpiricalPrior(data, 0.1))
    x = fn.sample(KEY, (50,))
    assert bool((jnp.abs(x - 4 * jnp.round(x / 4)) < 1).all())
    assert bool(jnp.isfinite(fn.log_prob(x)).all())


def test_something_else_is_no_prior():
    with pytest.raises(InvalidInput, match="expected a smcguide prior, got Normal"):
        DiffusionPrior(dist.Normal(0.0, 1.0))
    with pytest.raises(InvalidInput, match="at least 2 steps"):
        DiffusionPrior(StandardNormal(2), num_steps=1)


def test_without_numpyro_the_bridge_says_which_extra_to_install():
    program = (
        "import sys\nsys.modules['numpyro'] = None\nimport smcguide as sg\n"
        "try:\n    import smcguide.bridges.numpyro\n"
        "except sg.MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "smcguide.bridges.numpyro needs the package 'numpyro', which is not installed. Install it "
        "with: pip install 'smcguide[numpyro]'\n"
    )
