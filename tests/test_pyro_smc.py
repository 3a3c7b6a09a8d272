"""Inference of Pyro programs: against closed forms, grids and Pyro's own NUTS; what `SMC` answers, and
what Pyro and ArviZ make of its answers; what it refuses."""

import math
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import smcguide as sg
from smcguide.bridges.latents import ProgramParameters
from smcguide.errors import InvalidInput
from smcguide.priors import GaussianMixture
from smcguide.testing import statistics, z_test

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from pyro.infer import MCMC, NUTS, Predictive  # noqa: E402

from smcguide.bridges.pyro import (  # noqa: E402
    PMMH,
    SMC,
    DiffusionPrior,
    Gibbs,
    Particles,
    cost_from_pyro,
)

F64 = torch.float64


def double(*values):
    return torch.tensor(values, dtype=F64)


# with one isotropic Gaussian as prior the chain is off by the rehearsal's error only
MEAN, WIDTH = double(0.5, -0.3), 0.8
ONE = GaussianMixture(torch.ones(1), MEAN[None], scale=WIDTH)
MIXTURE = GaussianMixture(double(0.4, 0.6), double(0.8, -0.5, -0.5, 0.6).reshape(2, 2), scale=0.6)
A = double(1.0, 0.5, -0.3, 1.0, 0.6, 0.6, 0.2, -1.0).reshape(4, 2)
Y = double(1.4, 0.1, 0.6, 0.2)
ZERO, HALF = double(0.0)[0], double(0.5)[0]
SIGMA = dist.LogNormal(-HALF, 0.7)


@contextmanager
def seeded(stream):
    """Pyro's random numbers, which are torch's, for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(statistics.seed(f"pyro smc {stream}"))
        yield


@pytest.fixture(autouse=True)
def fresh(request):
    pyro.clear_param_store()
    with seeded(request.node.name):
        yield
    pyro.clear_param_store()


def infer(model, *args, given=None, **options):
    defaults = {"num_particles": 50, "num_chains": 200, "num_steps": 8, "progress": False}
    smc = SMC(model, **defaults | options)
    smc.run(*args, **given or {})
    return smc


def observe(mean, scale=0.5, y=Y):
    return pyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def linear(y=None, prior=ONE):
    observe(pyro.sample("x", DiffusionPrior(prior)) @ A.T, y=y)


def unknown_noise(y=None):
    """Ready for a plate around it."""
    x = pyro.sample("x", DiffusionPrior(ONE))
    sigma = pyro.sample("sigma", SIGMA)
    observe(x @ A.T, sigma[..., None], y)


def by_datum(y=None):
    """The same with a log-likelihood for each datum."""
    x = pyro.sample("x", DiffusionPrior(ONE))
    sigma = pyro.sample("sigma", SIGMA)
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(A @ x, sigma), obs=y)


# ---- closed forms --------------------------------------------------------------------------------


def check(smc, log_z, expectations=(), ceiling=0.03, discretisation=0.0):
    """Z_hat / Z of the chains is 1 on average, and times a posterior mean the true one.

    Arguments:
        expectations: pairs of f, latents (S, N, ...) -> (S, N, ...), and its exact posterior mean.
    """
    Z = torch.exp(smc.result.log_z - log_z)
    z_test(Z, 1.0, ceiling, truth_se=discretisation)
    ZW = Z[:, None] * smc.outcome.found.log_w.softmax(1)
    for f, truth in expectations:
        found = torch.einsum("sn,sn...->s...", ZW, f(smc.outcome.latents).double())
        z_test(found, torch.as_tensor(truth).flatten(), ceiling, truth_se=discretisation)
    assert float(torch.exp(smc.get_log_normalizer() - log_z)) == pytest.approx(float(Z.mean()))


def moments(prior, A, y, scale):
    """E x and E x^2 given y."""
    law = prior.posterior(A, y, scale).moments()
    variance = law.variance if law.basis is None else law.basis.square() @ law.variance
    return law.mean, variance + law.mean.square()


@pytest.mark.parametrize(("prior", "steps", "error"), [(ONE, 8, 0.0), (MIXTURE, 160, 0.004)])
def test_a_linear_gaussian_program_has_its_evidence_and_moments(prior, steps, error) -> None:
    smc = infer(linear, Y, given={"prior": prior}, num_chains=300, num_steps=steps)
    mean, square = moments(prior, A, Y, 0.5)
    expectations = [(lambda v: v["x"], mean), (lambda v: v["x"].square(), square)]
    check(smc, float(prior.log_evidence(A, Y, 0.5)), expectations, 0.02, error)


def test_draws_have_the_posteriors_mean_and_deviation() -> None:
    draws = infer(linear, Y, num_particles=4000, num_chains=1).get_samples(2000)["x"]
    mean, square = moments(ONE, A, Y, 0.5)
    z_test(draws, mean, 0.01, truth_se=0.005)  # draws of weighted particles are not independent
    z_test((draws - mean).square(), square - mean.square(), 0.01, truth_se=0.005)


def test_a_factor_is_counted() -> None:
    """exp(b x) moves a Gaussian prior by its variance times b."""
    b = double(0.7, -0.4)

    def model():
        x = pyro.sample("x", DiffusionPrior(ONE))
        pyro.factor("tilt", b @ x)
        observe(A @ x)

    moved = GaussianMixture(torch.ones(1), (MEAN + WIDTH**2 * b)[None], scale=WIDTH)
    log_z = float(b @ MEAN + WIDTH**2 * b @ b / 2 + moved.log_evidence(A, Y, 0.5))
    mean, _ = moments(moved, A, Y, 0.5)
    check(infer(model), log_z, [(lambda v: v["x"], mean)])


def test_two_sites_are_one_joint_prior() -> None:
    """y = A x + z + noise, with z of another shape."""
    other = GaussianMixture(
        torch.ones(1), double(1.0, 0.0, -1.0, 0.3).reshape(1, 2, 2), scale=WIDTH
    )

    def model():
        x = pyro.sample("x", DiffusionPrior(ONE))
        observe(A @ x + pyro.sample("z", DiffusionPrior(other).mask(False)).flatten())

    means = torch.cat([MEAN, other.moments().mean])
    both = GaussianMixture(torch.ones(1), means[None], scale=WIDTH)
    wide = torch.cat([A, torch.eye(4).double()], 1)
    mean, _ = moments(both, wide, Y, 0.5)
    smc = infer(model)
    assert {name: tuple(a.shape) for name, a in smc.get_samples(7).items()} == {
        "x": (7, 2), "z": (7, 2, 2),
    }  # fmt: skip
    expectations = [(lambda v: v["x"], mean[:2]), (lambda v: v["z"].flatten(2), mean[2:])]
    check(smc, float(both.log_evidence(wide, Y, 0.5)), expectations)


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
        cell = torch.bucketize(smc.outcome.latents["sigma"].flatten(), cells)
        share = torch.zeros(10, dtype=F64).index_add(0, cell, smc.get_normalized_weights())
        true = torch.zeros(10, dtype=F64)
        true.index_add_(0, torch.bucketize(self.log_sigma.exp(), cells), self.mass)
        return float((share - true).abs().sum() / 2)


@pytest.fixture(scope="module")
def grid():
    return Grid(lambda s: ONE.log_evidence(A, Y, s))


def log_sigma(latents):
    return latents["sigma"].log()


def test_three_events_of_a_plate_share_a_parameter() -> None:
    data = torch.stack([Y, Y - 0.5, Y + double(0, 0.3, -0.6, 0)])

    def model():
        sigma = pyro.sample("sigma", SIGMA)
        with pyro.plate("objects", 3):
            x = pyro.sample("x", DiffusionPrior(ONE))
            observe(x @ A.T, sigma, data)

    grid = Grid(lambda s: sum(ONE.log_evidence(A, y, s) for y in data), 201)
    by_level = torch.stack([
        torch.stack([moments(ONE, A, y, float(s))[0] for y in data]) for s in grid.log_sigma.exp()
    ])  # fmt: skip
    smc = infer(model, num_particles=120, num_chains=100, num_steps=6)
    assert smc.outcome.latents["x"].shape == (100, 120, 3, 2)
    mean = torch.einsum("g,gij->ij", grid.mass, by_level)
    expectations = [(log_sigma, grid.mean), (lambda v: v["x"].flatten(2), mean)]
    check(smc, grid.log_z, expectations, ceiling=0.1)


# ---- discrete latents ----------------------------------------------------------------------------

ROWS = torch.tensor([[0, 1], [1, 2], [2, 3]])
CHANCE = double(0.2, 0.5, 0.3)


def which_mask(y=None):
    x = pyro.sample("x", DiffusionPrior(ONE))
    k = pyro.sample("k", dist.Categorical(CHANCE))
    observe(A[ROWS[k]] @ x, y=y)


@pytest.fixture(scope="module")
def by_mask():
    """log p(k, y), p(k | y) and E[x | k, y]."""
    joint = torch.stack([ONE.log_evidence(A[rows], Y[:2], 0.5) for rows in ROWS]) + CHANCE.log()
    mean = torch.stack([moments(ONE, A[rows], Y[:2], 0.5)[0] for rows in ROWS])
    return joint, joint.softmax(0), mean


def test_a_mask_is_summed_out_and_drawn_again(by_mask) -> None:
    joint, p, mean = by_mask
    smc = infer(which_mask, Y[:2])

    def one_hot(latents):
        return torch.nn.functional.one_hot(latents["k"], 3)

    def event_if(latents):
        return (one_hot(latents)[..., None] * latents["x"][..., None, :]).flatten(2)

    expectations = [(one_hot, p), (event_if, p[:, None] * mean)]
    check(smc, float(joint.logsumexp(0)), expectations)


def test_draws_of_a_mask_belong_to_their_events(by_mask) -> None:
    _, p, mean = by_mask
    draws = infer(which_mask, Y[:2], num_particles=4000, num_chains=1).get_samples(3000)
    assert draws["k"].dtype == torch.int64 and draws["k"].shape == (3000,)
    for j in range(3):
        z_test((draws["k"] == j).double(), float(p[j]), 0.02, truth_se=0.01)
        z_test(draws["x"][draws["k"] == j], mean[j], 0.05, truth_se=0.015)


def test_each_datum_may_be_an_outlier() -> None:
    """The posterior of sixteen joint values, each a problem with a noise level per datum."""

    def model():
        x = pyro.sample("x", DiffusionPrior(ONE))
        with pyro.plate("data", 4):
            out = pyro.sample("out", dist.Bernoulli(0.2 * HALF))
            pyro.sample("y", dist.Normal(A @ x, 0.5 + 2.0 * out), obs=y)

    y = Y + double(0, 0, 2, 0)
    cases = torch.cartesian_prod(*[torch.arange(2).double()] * 4)
    joint = torch.stack([ONE.log_evidence(A, y, 0.5 + 2.0 * case) for case in cases])
    joint = joint + dist.Bernoulli(0.2 * HALF).log_prob(cases).sum(1)
    smc = infer(model)
    expectations = [(lambda v: v["out"], joint.softmax(0) @ cases)]
    check(smc, float(joint.logsumexp(0)), expectations, ceiling=0.05)


# ---- unknown parameters, three ways --------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    with seeded("large"):
        return infer(unknown_noise, Y, num_particles=8000, num_chains=1, num_steps=10)


def test_an_unknown_noise_level_by_particles(large, grid) -> None:
    assert grid.distance(large) <= 0.05
    assert float(large.get_log_normalizer()) == pytest.approx(grid.log_z, abs=0.1)


def test_evidence_and_noise_level_are_unbiased(grid) -> None:
    expectations = [(log_sigma, grid.mean), (lambda v: log_sigma(v).square(), grid.square)]
    check(infer(unknown_noise, Y), grid.log_z, expectations, ceiling=0.08)


def few_chains_test(estimates, truth, ceiling):
    """As `z_test`, for means of fewer chains, each near normal."""
    se = estimates.std(0) / len(estimates) ** 0.5
    assert float(se.max()) <= ceiling
    t = (estimates.mean(0) - torch.as_tensor(truth)) / se
    assert float(t.abs().max()) <= statistics.threshold(t.numel(), len(estimates) - 1), t


def test_an_unknown_noise_level_by_pmmh(grid) -> None:
    nuisance = PMMH(num_samples=10, burn_in=2, pilot=400)
    smc = infer(unknown_noise, Y, nuisance=nuisance, num_particles=16, num_chains=16, num_steps=4)
    few_chains_test(log_sigma(smc.outcome.latents).mean(1), grid.mean, ceiling=0.15)
    assert 0.1 < float(smc.result.acceptance_rate.mean()) < 0.7
    draws = smc.get_samples()
    assert draws["sigma"].shape == (160,) and draws["x"].shape == (160, 2)
    # what few chains cannot tell: the prior's density on the line
    theta = smc.result.theta[..., 0]
    torch.testing.assert_close(theta.exp(), smc.outcome.latents["sigma"])
    torch.testing.assert_close(smc.result.log_prior, SIGMA.log_prob(theta.exp()) + theta)


def by_gibbs():
    nuisance = Gibbs(num_samples=10, burn_in=10)
    smc = infer(unknown_noise, Y, nuisance=nuisance, num_particles=6, num_chains=120, num_steps=4)
    values = log_sigma(smc.outcome.latents)
    return smc, torch.stack([values.mean(1), values.square().mean(1)], 1)


def test_an_unknown_noise_level_by_gibbs(grid) -> None:
    smc, found = by_gibbs()
    z_test(found, double(grid.mean, grid.square), 0.05)
    assert smc.get_samples()["x"].shape == (120 * 10, 2)
    assert grid.distance(smc) < 0.1


def test_planted_density_without_its_jacobian_is_caught(monkeypatch, grid) -> None:
    right = ProgramParameters.log_prob
    monkeypatch.setattr(
        ProgramParameters, "log_prob", lambda self, theta: right(self, theta) - theta.sum(1)
    )
    with pytest.raises(AssertionError, match="allowed"):
        z_test(by_gibbs()[1], double(grid.mean, grid.square), 0.05)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_nuts_agrees(large) -> None:
    """Fifty independent copies of the program in one run of Pyro's NUTS."""
    num = 50

    def copies():
        with pyro.plate("copies", num):
            unknown_noise(Y.expand(num, -1))

    kernel = NUTS(copies, jit_compile=True, ignore_jit_warnings=True, max_tree_depth=4)
    chain = MCMC(kernel, num_samples=200, warmup_steps=80, disable_progbar=True)
    chain.run()
    W = large.get_normalized_weights()[:, None]
    for name, f in (("x", lambda a: a), ("sigma", lambda a: a.log()[..., None])):
        theirs, ours = f(chain.get_samples()[name]), f(large.outcome.latents[name][0])
        std = theirs.flatten(0, 1).std(0)
        assert bool((theirs.mean(0).std(0) / num**0.5 < 0.03 * std).all())  # NUTS's own error
        gap = (W * ours).sum(0) - theirs.mean((0, 1))
        assert bool((gap.abs() < 0.1 * std).all()), gap / std


def test_gibbs_without_other_latents_is_particle_gibbs() -> None:
    smc = infer(
        linear, Y, nuisance=Gibbs(num_samples=10, burn_in=8), num_particles=6, num_chains=150
    )
    assert isinstance(smc.result, sg.Chains)
    z_test(smc.outcome.latents["x"].mean(1), moments(ONE, A, Y, 0.5)[0], 0.03)


def test_moves_and_parts_are_those_asked_for() -> None:
    move = sg.parameter_moves.MALA(0.2)
    smc = infer(
        unknown_noise, Y, nuisance=Particles(move), num_chains=1, num_steps=4,
        proposal=sg.proposals.Bootstrap(), potential=sg.potentials.Tweedie(),
        resampler=sg.resamplers.Multinomial(), trigger=sg.triggers.always(), chunk_size=20,
    )  # fmt: skip
    said = smc.result.settings
    assert said["parameter_move"] == repr(move) and said["proposal"] == "Bootstrap()"
    assert said["potential"] == repr(sg.potentials.Tweedie())
    assert said["resampler"] == "Multinomial()" and said["trigger"] == repr(sg.triggers.always())
    assert said["times"] == repr(sg.grids.karras(4))


def test_progress_is_told() -> None:
    seen = []
    infer(linear, Y, num_chains=1, num_steps=5, progress=seen.append)
    assert [info.step for info in seen] == list(range(6))


# ---- answers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    """Two chains of unequal evidence."""
    with seeded("two"):
        return infer(by_datum, Y, num_particles=60, num_chains=2, num_steps=6)


@pytest.fixture(scope="module")
def chains():
    """PMMH and Gibbs, two chains each."""
    with seeded("chains"):
        common = {"num_particles": 6, "num_chains": 2, "num_steps": 4}
        return {
            "pmmh": infer(by_datum, Y, nuisance=PMMH(15, 1, 100), **common),
            "gibbs": infer(by_datum, Y, nuisance=Gibbs(15, 1), **common),
        }


def test_draws_are_a_dictionary_of_all_latents(two) -> None:
    draws = two.get_samples()
    assert {name: tuple(a.shape) for name, a in draws.items()} == {"x": (60, 2), "sigma": (60,)}
    assert {name: tuple(a.shape) for name, a in two.get_samples(200).items()} == {
        "x": (200, 2), "sigma": (200,),
    }  # fmt: skip
    assert torch.equal(two.get_samples()["x"], draws["x"])


def test_draws_have_equal_weights_and_are_joint(two) -> None:
    draws, num = two.get_samples(1000), 1000
    x, sigma = (two.outcome.latents[name].flatten(0, 1) for name in ("x", "sigma"))
    place = (draws["x"][:, None] == x).all(-1).double().argmax(1)
    assert torch.equal(x[place], draws["x"]) and torch.equal(sigma[place], draws["sigma"])
    counts = torch.bincount(place, minlength=120)
    # stratified draws: a share of n W of them is cut by at most three strata
    assert float((counts - num * two.get_normalized_weights()).abs().max()) <= 3
    half = counts[:60].sum() / num
    assert float(half) == pytest.approx(float(two.result.log_z.softmax(0)[0]), abs=0.01)
    early = (place[:500] < 60).double().mean()
    assert float(early) == pytest.approx(float(half), abs=0.1)  # in no order


def test_values_keep_the_programs_shapes_and_dtypes() -> None:
    single = GaussianMixture(torch.ones(1), torch.zeros(1, 2, 3), scale=1.0)

    def model():
        with pyro.plate("objects", 2):
            x = pyro.sample("x", DiffusionPrior(single))
        q = pyro.sample("q", dist.Dirichlet(torch.ones(3)))
        s = pyro.sample("s", dist.LogNormal(ZERO, 1.0).expand([2]).to_event(1))
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal((x @ q) * k[:, None], s[:, None].float()).to_event(2),
                    obs=torch.ones(2, 2))  # fmt: skip

    smc = infer(model, num_particles=30, num_chains=1, num_steps=4)
    assert {name: (tuple(a.shape), a.dtype) for name, a in smc.get_samples(5).items()} == {
        "x": ((5, 2, 2, 3), torch.float32), "q": ((5, 3), torch.float32), "s": ((5, 2), F64),
        "k": ((5, 2), torch.float32),
    }  # fmt: skip
    assert smc.get_log_normalizer().dtype == smc.get_normalized_weights().dtype == F64
    torch.testing.assert_close(smc.get_samples()["q"].sum(1), torch.ones(30))


def test_weights_are_those_of_one_population(two) -> None:
    W, log_W = two.get_normalized_weights(), two.get_normalized_weights(log_scale=True)
    assert W.shape == (120,) and float(W.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(W.log(), log_W)
    torch.testing.assert_close(W.reshape(2, 60).sum(1), two.result.log_z.softmax(0))
    within = W.reshape(2, 60) / W.reshape(2, 60).sum(1, keepdim=True)
    torch.testing.assert_close(within, two.result.log_w.softmax(1))
    assert float(two.get_ESS()) == pytest.approx(float(1 / W.square().sum()))
    log_z = two.result.log_z.logsumexp(0) - math.log(2)
    torch.testing.assert_close(two.get_log_normalizer(), log_z)
    assert two.get_ESS().shape == two.get_log_normalizer().shape == ()


def test_empirical_distributions_have_the_weighted_moments(two) -> None:
    W = two.get_normalized_weights()
    for name, empirical in two.get_empirical().items():
        a = two.outcome.latents[name].flatten(0, 1)
        mean = torch.einsum("n,n...->...", W, a)
        torch.testing.assert_close(empirical.mean, mean)
        spread = torch.einsum("n,n...->...", W, (a - mean).square())
        torch.testing.assert_close(empirical.variance, spread)
        assert empirical.sample().shape == a.shape[1:]


def test_empirical_distributions_of_discrete_latents_have_their_weights(by_mask) -> None:
    smc = infer(which_mask, Y[:2], num_particles=3000, num_chains=1)
    k, W = smc.outcome.latents["k"][0], smc.get_normalized_weights()
    empirical = smc.get_empirical()["k"]
    for j in range(3):
        total = float(W[k == j].sum())
        assert float(empirical.log_prob(torch.tensor(j)).exp()) == pytest.approx(total)
        assert total == pytest.approx(float(by_mask[1][j]), abs=0.05)


def test_a_summary_has_a_row_for_each_number(two, chains) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in two.summary().splitlines() if line}
    W, sigma = two.get_normalized_weights(), two.outcome.latents["sigma"].flatten()
    mean, std = (W * sigma).sum(), (W * (sigma - (W * sigma).sum()).square()).sum().sqrt()
    assert [float(v) for v in rows["sigma"][:2]] == pytest.approx(
        [float(mean), float(std)], abs=6e-4
    )
    low, middle, high = map(float, rows["sigma"][2:])
    for level, value in ((0.05, low), (0.5, middle), (0.95, high)):
        assert float(W[sigma <= value + 6e-4].sum()) >= level - 1e-9
        assert float(W[sigma < value - 6e-4].sum()) <= level + 1e-9
    assert {"x[0]", "x[1]"} <= rows.keys() and "log Z" in two.summary()
    for smc in chains.values():
        assert "\nsigma " in smc.summary() and "acceptance" in smc.summary()
        assert "exact in the limit" in smc.summary()


def test_a_summary_of_a_picture_is_one_line() -> None:
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1, 4, 4), scale=1.0)

    def model():
        x = pyro.sample("x", DiffusionPrior(prior))
        pyro.sample("y", dist.Normal(x, 0.5).to_event(3), obs=torch.ones(1, 4, 4))

    text = infer(model, num_particles=20, num_chains=1, num_steps=3).summary()
    (line,) = [line for line in text.splitlines() if line.startswith("x ")]
    assert "shape (1, 4, 4), means from" in line


def test_the_result_is_what_the_sampler_returned(two, chains) -> None:
    assert isinstance(two.result, sg.Posterior) and two.result.exactness == "exact"
    for smc in chains.values():
        assert isinstance(smc.result, sg.ParameterChains)
        assert smc.result.exactness == sg.exactness.LIMIT
        draws = smc.get_samples()
        assert draws["x"].shape == (30, 2)
        assert torch.equal(draws["x"], smc.result.x.flatten(0, 1))
        assert smc.get_samples(10)["sigma"].shape == (10,)
        assert float(smc.get_ESS()) == pytest.approx(30)
        torch.testing.assert_close(smc.get_normalized_weights(), torch.full((30,), 1 / 30).double())
        torch.testing.assert_close(smc.get_empirical()["sigma"].mean, draws["sigma"].mean())


def test_another_run_replaces_the_first() -> None:
    smc = infer(linear, Y, num_chains=1)
    first = smc.get_log_normalizer()
    smc.run(y=Y + 5)
    assert float(smc.get_log_normalizer()) < float(first) - 5


# ---- Pyro's own tools ----------------------------------------------------------------------------


def echo(y=None):
    """Three objects of size three; new data are they, but for a little noise."""
    sigma = pyro.sample("sigma", SIGMA)
    with pyro.plate("objects", 3):
        x = pyro.sample("x", DiffusionPrior(THREE).mask(False))
        noise = 0.5 if y is not None else 1e-3
        pyro.sample("y", dist.Normal(x, noise * sigma[..., None]).to_event(1), obs=y)
        pyro.deterministic("twice", 2 * x, event_dim=1)


THREE = GaussianMixture(torch.ones(1), torch.zeros(1, 3, dtype=F64), scale=1.0)


@pytest.mark.parametrize("num_chains", [1, 2])
def test_draws_go_into_predictive_unchanged(num_chains) -> None:
    """Also where there are as many draws as objects, and as numbers in an event."""
    smc = infer(echo, torch.eye(3).double(), num_particles=40, num_chains=num_chains, num_steps=4)
    for num in (3, 5, 40):
        draws = smc.get_samples(num)
        new = Predictive(echo, posterior_samples=draws, return_sites=["y", "twice"])()
        assert new["y"].shape == (num, 3, 3)
        torch.testing.assert_close(new["twice"], 2 * draws["x"])
        z = (new["y"] - draws["x"]) / (1e-3 * draws["sigma"][:, None, None])
        assert 0.5 < float(z.std()) < 1.5 and float(z.abs().max()) < 7


def test_draws_of_markov_chains_go_into_predictive(chains) -> None:
    for smc in chains.values():
        draws = smc.get_samples()
        new = Predictive(by_datum, posterior_samples=draws)()["y"]
        z = (new - draws["x"] @ A.T) / draws["sigma"][:, None]
        z_test(torch.stack([z.flatten(), z.flatten().square()], 1), double(0, 1), 0.2)


def test_draws_of_discrete_latents_go_into_predictive() -> None:
    draws = infer(which_mask, Y[:2], num_chains=1).get_samples(20)
    assert Predictive(which_mask, posterior_samples=draws)()["y"].shape == (20, 2)


def test_pyros_seed_governs_a_run() -> None:
    found = []
    for seed in (3, 3, 4):
        pyro.set_rng_seed(seed)
        smc = infer(unknown_noise, Y, num_particles=20, num_chains=1, num_steps=4)
        found.append((smc.get_samples()["x"], smc.get_samples()["sigma"]))
    for first, again, other in zip(*found, strict=True):
        assert torch.equal(first, again) and not torch.equal(first, other)
    more = infer(unknown_noise, Y, num_particles=20, num_chains=1, num_steps=4)
    assert not torch.equal(more.get_samples()["x"], found[-1][0])


@pytest.mark.parametrize("nuisance", [Particles(), PMMH(3, 0, 20), Gibbs(3, 0)], ids=repr)
def test_a_run_takes_one_random_number_and_leaves_the_rest_alone(nuisance) -> None:
    def model():
        unknown_noise(Y * pyro.param("gain", double(1.0)))

    pyro.param("mine", double(7.0))
    state = np.random.get_state(legacy=False)["state"], random.getstate()  # noqa: NPY002
    validates = torch.distributions.Distribution._validate_args, dist.is_validation_enabled()
    torch.manual_seed(11)
    torch.randint(2**31, ())
    following = torch.rand(3)
    torch.manual_seed(11)
    smc = infer(model, nuisance=nuisance, num_particles=10, num_chains=2, num_steps=3)
    smc.get_samples(), smc.get_empirical(), smc.summary(), smc.get_ESS()
    smc.outcome.simulate(torch.arange(3))
    assert torch.equal(torch.rand(3), following)
    after = np.random.get_state(legacy=False)["state"], random.getstate()  # noqa: NPY002
    assert str(state) == str(after)
    flags = torch.distributions.Distribution._validate_args, dist.is_validation_enabled()
    assert flags == validates
    assert {name: a.tolist() for name, a in pyro.get_param_store().items()} == {
        "mine": [7.0], "gain": [1.0],
    }  # fmt: skip
    assert torch.is_grad_enabled()


def test_a_program_that_branches_has_the_answer_of_one_that_does_not() -> None:
    def branching():
        x = pyro.sample("x", DiffusionPrior(ONE))
        observe(A @ x if x[0] > 0.5 else A @ x - 1)

    def straight():
        x = pyro.sample("x", DiffusionPrior(ONE))
        observe(A @ x - torch.where(x[0] > 0.5, 0.0, 1.0))

    common = {"num_particles": 20, "num_chains": 1, "num_steps": 4}
    common |= {"proposal": sg.proposals.Bootstrap(), "potential": sg.potentials.Tweedie()}
    with seeded("both"), pytest.warns(UserWarning, match="one particle after the other"):
        slow = infer(branching, **common)
    with seeded("both"):
        fast = infer(straight, **common)
    torch.testing.assert_close(slow.get_samples()["x"], fast.get_samples()["x"])
    torch.testing.assert_close(slow.get_log_normalizer(), fast.get_log_normalizer())


# ---- ordinary programs ---------------------------------------------------------------------------


def ordinary(y, shape=(2,)):
    """Its own prior of x only holds the place."""
    x = pyro.sample("x", dist.Normal(torch.zeros(shape).double(), 9.0).to_event(len(shape)))
    sigma = pyro.sample("sigma", SIGMA)
    kind = pyro.sample("kind", dist.Categorical(CHANCE))
    observe(A @ x + kind, sigma, y)


def the_same(y):
    x = pyro.sample("x", DiffusionPrior(ONE))
    sigma = pyro.sample("sigma", SIGMA)
    kind = pyro.sample("kind", dist.Categorical(CHANCE))
    observe(A @ x + kind, sigma, y)


def test_a_site_of_an_ordinary_program_can_get_a_diffusion_prior() -> None:
    common = {"num_particles": 30, "num_chains": 1, "num_steps": 4}
    with seeded("place"):
        placed = infer(ordinary, Y, site="x", prior=ONE, **common)
    with seeded("place"):
        own = infer(the_same, Y, **common)
    for name, a in own.get_samples().items():
        torch.testing.assert_close(placed.get_samples()[name], a)
    torch.testing.assert_close(placed.get_log_normalizer(), own.get_log_normalizer())


def test_the_cost_alone_is_minus_the_log_likelihood() -> None:
    def known(y):
        observe(A @ pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)), y=y)

    cost, x = cost_from_pyro(known, "x", y=Y), torch.randn(2, 5, 2, dtype=F64)
    torch.testing.assert_close(cost(x), -Normal(x @ A.T, 0.5).log_prob(Y).sum(-1))
    post = sg.sample(ONE, cost, num_particles=50, num_systems=200, num_steps=8, progress=False)
    log_z = ONE.log_evidence(A, Y, 0.5)
    z_test(torch.exp(post.log_evidence - log_z), 1.0, 0.02)
    assert isinstance(cost, sg.costs.LinearGaussian)


def test_the_cost_alone_has_the_programs_parameters_by_name() -> None:
    cost, x = cost_from_pyro(ordinary, "x", Y), torch.randn(6, 2, dtype=F64)
    theta = torch.randn(6, 1, dtype=F64)
    each = [Normal(x @ A.T + k, theta.exp()).log_prob(Y).sum(1) + CHANCE[k].log() for k in range(3)]
    torch.testing.assert_close(cost.evaluate(x, theta), -torch.stack(each).logsumexp(0))
    post = sg.sample(ONE, cost, num_particles=30, num_systems=2, num_steps=4, progress=False)
    assert {name: tuple(a.shape) for name, a in post.parameters.items()} == {"sigma": (2, 30)}
    assert bool((post.parameters["sigma"] > 0).all())
    assert post.marginal("sigma").mean().shape == (2,)


def test_the_cost_alone_has_the_evidence_of_the_program(grid) -> None:
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        observe(A @ x, pyro.sample("sigma", SIGMA))

    post = sg.sample(
        ONE, cost_from_pyro(model, "x"), num_particles=40, num_systems=200, num_steps=8,
        progress=False,
    )  # fmt: skip
    Z = torch.exp(post.log_evidence - grid.log_z)
    z_test(Z, 1.0, 0.08)
    z_test(Z * post.marginal("sigma").expect(torch.log), grid.mean, 0.08)


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
    return torch.from_numpy(np.array(array.values))


def test_the_container_has_the_programs_names(data, two) -> None:
    assert names(data) == GROUPS
    posterior = data["posterior"]
    assert dict(posterior.sizes) == {"chain": 2, "draw": 500, "x_dim_0": 2}
    assert set(posterior.data_vars) == {"x", "sigma"}
    assert set(data["log_likelihood"].data_vars) == set(data["observed_data"].data_vars) == {"y"}
    assert data["posterior_predictive"]["y"].dims == ("chain", "draw", "y_dim_0")
    assert torch.equal(tensor(data["observed_data"]["y"]), Y)
    weighted = data["weighted_posterior"]
    assert set(weighted.data_vars) == {"x", "sigma", "log_weight", "eve"}
    assert torch.equal(tensor(weighted["log_weight"]), two.result.log_w)
    assert torch.equal(tensor(weighted["sigma"]), two.outcome.latents["sigma"])
    assert torch.equal(tensor(data["smc"]["log_evidence"]), two.result.log_z)
    assert data["smc"]["ess"].dims == ("chain", "step")
    assert two.to_arviz()["posterior"].sizes["draw"] == 60


def test_draws_in_the_container_are_particles_chosen_by_weight(data, two) -> None:
    place = tensor(data["sample_stats"]["particle"])
    for name in ("x", "sigma"):
        particles = two.outcome.latents[name]
        for c in range(2):
            assert torch.equal(tensor(data["posterior"][name])[c], particles[c, place[c]])
    for c in range(2):
        counts = torch.bincount(place[c], minlength=60)
        assert float((counts - 500 * two.result.log_w[c].softmax(0)).abs().max()) <= 3


def test_log_likelihoods_are_those_of_the_draws(data) -> None:
    x, sigma = (tensor(data["posterior"][name]) for name in ("x", "sigma"))
    exact = Normal(x @ A.T, sigma[..., None]).log_prob(Y)
    torch.testing.assert_close(tensor(data["log_likelihood"]["y"]), exact)


def test_new_data_have_their_law_given_the_draws(data) -> None:
    x, sigma = (tensor(data["posterior"][name]) for name in ("x", "sigma"))
    z = (tensor(data["posterior_predictive"]["y"]) - x @ A.T) / sigma[..., None]
    z_test(torch.cat([z, z.square()], -1).flatten(0, 1), double(*[0] * 4, *[1] * 4), 0.1)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_arviz_summarises_and_leaves_out_data(az, data, two) -> None:
    table = az.summary(data, round_to="none")
    assert list(table.index) == ["x[0]", "x[1]", "sigma"]
    mean = two.result.log_w.softmax(1).unsqueeze(-1) * two.outcome.latents["x"]
    mean = mean.sum(1).mean(0)  # ArviZ gives chains equal weight
    assert np.abs(table["mean"].to_numpy()[:2] - mean.numpy()).max() < 0.05
    left_out = az.loo(data)
    elpd = getattr(left_out, "elpd_loo", None) or left_out.elpd  # ArviZ 0.x, 1.x
    assert -10 < float(elpd) < 0


def test_the_container_survives_a_file(az, data, tmp_path) -> None:
    data.to_netcdf(str(tmp_path / "run.nc"))
    again = az.from_netcdf(str(tmp_path / "run.nc"))
    assert names(again) == GROUPS
    for group in GROUPS:
        assert set(again[group].data_vars) == set(data[group].data_vars)
        for name, array in data[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name].values, array.values)
            assert again[group][name].dims == array.dims


@pytest.mark.parametrize("kind", ["pmmh", "gibbs"])
def test_markov_chains_in_a_container(az, chains, kind, tmp_path) -> None:
    smc = chains[kind]
    data = smc.to_arviz()
    assert names(data) == GROUPS - {"weighted_posterior", "smc"}
    assert dict(data["posterior"].sizes) == {"chain": 2, "draw": 15, "x_dim_0": 2}
    assert torch.equal(tensor(data["posterior"]["sigma"]), smc.outcome.latents["sigma"])
    x, sigma = (tensor(data["posterior"][name]) for name in ("x", "sigma"))
    exact = Normal(x @ A.T, sigma[..., None]).log_prob(Y)
    torch.testing.assert_close(tensor(data["log_likelihood"]["y"]), exact)
    assert torch.equal(tensor(data["sample_stats"]["accepted"]), smc.result.accepted)
    table = az.summary(data, round_to="none")
    assert bool(np.isfinite(table["r_hat"]).all())
    data.to_netcdf(str(tmp_path / "chains.nc"))
    assert names(az.from_netcdf(str(tmp_path / "chains.nc"))) == names(data)


def test_discrete_latents_and_particle_gibbs_in_a_container(az) -> None:
    smc = infer(which_mask, Y[:2], nuisance=Gibbs(5, 0), num_particles=6, num_chains=2)
    data = smc.to_arviz()
    assert torch.equal(tensor(data["posterior"]["k"]), smc.outcome.latents["k"])
    assert data["sample_stats"]["changed"].dims == ("chain", "draw", "step")
    k, x = (tensor(data["posterior"][name]) for name in ("k", "x"))
    mean = (A[ROWS[k]] @ x[..., None])[..., 0]
    exact = Normal(mean, 0.5).log_prob(Y[:2]).sum(-1)  # of one event
    torch.testing.assert_close(tensor(data["log_likelihood"]["y"]), exact)


@pytest.mark.parametrize(
    ("x", "sigma", "y"),
    [
        ("chain", "log_weight", "draw"),
        ("x", "x_dim_0", "y"),
        ("a/x", "a_x", "a/y"),
        ("x0", "theta", "y"),
    ],
)
def test_names_that_a_file_minds_are_changed(az, tmp_path, x, sigma, y) -> None:
    def model():
        s = pyro.sample(sigma, SIGMA)
        pyro.sample(y, dist.Normal(pyro.sample(x, DiffusionPrior(ONE)), s).to_event(1), obs=Y[:2])

    smc = infer(model, num_particles=20, num_chains=2, num_steps=3)
    data = smc.to_arviz()
    data.to_netcdf(str(tmp_path / "named.nc"))
    posterior = az.from_netcdf(str(tmp_path / "named.nc"))["posterior"]
    assert len(posterior.data_vars) == 2 and posterior.sizes["draw"] == 20
    place = tensor(data["sample_stats"]["particle"])
    for key, name in zip(data["posterior"].data_vars, (x, sigma), strict=True):
        latents = smc.outcome.latents[name]
        drawn = torch.stack([latents[c, place[c]] for c in range(2)])
        assert torch.equal(tensor(posterior[key]), drawn)


# ---- refusals ------------------------------------------------------------------------------------

ANSWERS = {
    "get_samples": lambda smc: smc.get_samples(),
    "get_empirical": lambda smc: smc.get_empirical(),
    "get_log_normalizer": lambda smc: smc.get_log_normalizer(),
    "get_normalized_weights": lambda smc: smc.get_normalized_weights(),
    "get_ESS": lambda smc: smc.get_ESS(),
    "summary": lambda smc: smc.summary(),
    "to_arviz": lambda smc: smc.to_arviz(),
    "result": lambda smc: smc.result,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_there_are_no_answers_before_a_run(name) -> None:
    with pytest.raises(InvalidInput, match=r"no result yet: call run\("):
        ANSWERS[name](SMC(linear))


def test_markov_chains_have_no_evidence(chains) -> None:
    for smc in chains.values():
        with pytest.raises(InvalidInput, match=r"do not estimate the evidence.*Particles"):
            smc.get_log_normalizer()


def test_at_least_one_draw(two) -> None:
    with pytest.raises(InvalidInput, match="num_samples must be at least 1, got 0"):
        two.get_samples(0)
    with pytest.raises(InvalidInput, match="num_draws must be a whole number of at least 1, got 0"):
        two.to_arviz(0)


def two_sites(y):
    x = pyro.sample("x", DiffusionPrior(ONE))
    observe(A @ (x + pyro.sample("z", DiffusionPrior(ONE))), y=y)


def no_prior(y):
    observe(A @ pyro.sample("x", dist.Normal(MEAN, 1.0).to_event(1)), y=y)


def bent(y):
    observe((A @ pyro.sample("x", dist.Normal(MEAN, 1.0).to_event(1))).abs(), y=y)


def heavy(y):
    mean = A @ pyro.sample("x", dist.Normal(MEAN, 1.0).to_event(1))
    pyro.sample("y", dist.StudentT(3 * HALF, mean, HALF).to_event(1), obs=y)


LONG = GaussianMixture(torch.ones(1), torch.zeros(1, 3, dtype=F64), scale=1.0)
MADE = [
    (lambda: SMC("program"), "model: got str; expected a program, a function"),
    (lambda: SMC(linear, prior=ONE), "say which site has it, e.g. site='x'; got site=None"),
    (lambda: SMC(linear, ["x"], prior=ONE), r"say which site has it.*got site=\['x'\]"),
    (lambda: SMC(linear, "x", prior=MEAN), "prior: got a Tensor"),
    (lambda: SMC(linear, nuisance="pmmh"), r"nuisance: got 'pmmh'; expected Particles\(\)"),
    (
        lambda: SMC(linear, nuisance=PMMH),
        r"nuisance: got .*PMMH.*; expected Particles\(\), PMMH\(\)",
    ),
    (lambda: SMC(linear, resampler="systematic"), "resampler: got"),
    (lambda: SMC(linear, resampler=sg.resamplers.Systematic), "resampler: got"),
]
RUN = [
    (linear, {"nuisance": PMMH()}, r"PMMH: the program has no continuous latents.*Particles\(\)"),
    (two_sites, {"site": "x"}, r"site='x': the program has diffusion priors at \['x', 'z'\]"),
    (linear, {"site": "w"}, r"site='w': the program has diffusion priors at \['x'\]"),
    (linear, {"site": ["x", "w"]}, r"site=\['x', 'w'\]: the program has .* \['x'\]"),
    (no_prior, {}, r"No site of the program has a diffusion prior \(sites: 'x', 'y'\)"),
    (no_prior, {"site": "x"}, "No site of the program has a diffusion prior"),
    (no_prior, {"site": "x", "prior": LONG}, r"Site 'x': .* \(2,\) and .* shape \(3,\)"),
    (no_prior, {"site": "w", "prior": ONE}, r"Site 'w': a prior was given for it and it is absent"),
    (no_prior, {"site": "y", "prior": ONE}, r"Site 'y': a prior was given .* observed"),
    (linear, {"num_particles": 0}, "num_particles must be a whole number of at least 1, got 0"),
    (linear, {"num_chains": 0}, "num_systems must be a whole number|num_chains must be"),
    (linear, {"num_steps": 0}, "step"),
    (linear, {"trigger": 0.5}, "trigger: got 0.5"),
    (linear, {"potential": sg.proposals.Bootstrap()}, "potential: got Bootstrap"),
    (linear, {"proposal": sg.potentials.Tweedie()}, "proposal: got Tweedie"),
    (linear, {"progress": 1}, "progress must be"),
    (unknown_noise, {"nuisance": Particles("mala")}, "parameter_move: got 'mala'"),
    (unknown_noise, {"nuisance": Gibbs(move=sg.moves.PCN())}, "parameter_move: got PCN"),
    (unknown_noise, {"nuisance": Gibbs(num_samples=0)}, "sweeps must be .* at least 1, got 0"),
    (unknown_noise, {"nuisance": Gibbs(), "num_particles": 1}, "num_particles must be .* 2, got 1"),
    (unknown_noise, {"nuisance": PMMH(num_samples=0)}, "num_iters must be .* at least 1, got 0"),
]


@pytest.mark.parametrize(("make", "message"), MADE)
def test_what_cannot_be_is_refused_when_it_is_said(make, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize(("model", "options", "message"), RUN)
def test_what_cannot_be_is_refused_when_it_is_run(model, options, message) -> None:
    smc = SMC(model, **{"num_particles": 10, "num_steps": 3, "progress": False} | options)
    with pytest.raises(InvalidInput, match=message):
        smc.run(Y)
    with pytest.raises(InvalidInput, match="call run"):
        smc.get_samples()


def test_all_sites_may_be_named() -> None:
    infer(two_sites, Y, site=["z", "x"], num_chains=1)
    infer(linear, Y, site="x", num_chains=1)


def test_a_cost_and_a_prior_of_two_shapes_are_refused() -> None:
    message = r"latents \{'x': \(2,\)\} make events of shape \(2,\); those of the prior have \(3,\)"
    for model in (no_prior, bent, heavy, ordinary):
        with pytest.raises(InvalidInput, match=message):
            sg.sample(LONG, cost_from_pyro(model, "x", Y), num_particles=10, progress=False)
    with pytest.raises(InvalidInput, match="Site 'w': a prior was given for it and it is absent"):
        cost_from_pyro(no_prior, "w", Y)
