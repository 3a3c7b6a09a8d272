"""A diffusion prior as a Pyro distribution: its draws, its density or the lack of it, and everything of
Pyro's own that it has to live with."""

import math
import subprocess
import sys

import pytest
import torch
from torch.distributions import Normal

from smcguide.priors import EmpiricalPrior, GaussianMixture, JointPrior, Prior
from smcguide.schedules import VP
from smcguide.testing import statistics

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from pyro import poutine  # noqa: E402
from pyro.infer import MCMC, NUTS, Importance, Predictive  # noqa: E402

from smcguide.bridges.pyro import DiffusionPrior, NoDensity, diffusion_of  # noqa: E402
from smcguide.errors import InvalidInput  # noqa: E402


class Denoiser(Prior):
    """N(1, 4) per coordinate, known by its denoiser only."""

    schedule, event_shape = VP(), (2,)
    dtype, device = torch.float64, torch.device("cpu")

    def denoise(self, x, t):
        level = self.schedule.level(t)
        gain = level.alpha * 4 / (level.alpha**2 * 4 + level.sigma**2)
        return 1 + gain * (x - level.alpha)


def gaussian(*shape, mean=0.0, scale=1.0):
    return GaussianMixture(
        torch.ones(1), torch.full((1, *shape), mean, dtype=torch.float64), scale=scale
    )


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(statistics.seed("pyro"))
        yield


# ---- draws ---------------------------------------------------------------------------------------


def test_draws_follow_the_prior():
    x = DiffusionPrior(Denoiser(), num_steps=20).sample((4000,))
    assert x.shape == (4000, 2) and x.dtype == torch.float64
    statistics.z_test(x, 1.0, ceiling=0.05, truth_se=0.02)
    statistics.z_test((x - 1).square(), 4.0, ceiling=0.15, truth_se=0.1)


def test_the_number_of_steps_is_that_of_the_chain():
    calls = []

    class Counting(Denoiser):
        def denoise(self, x, t):
            calls.append(len(x))
            return super().denoise(x, t)

    distribution = DiffusionPrior(Counting(), num_steps=7)
    distribution.sample()  # which makes the rehearsal
    calls.clear()
    distribution.sample((3,))
    assert calls == [3] * 7
    with pytest.raises(InvalidInput, match="num_steps=1"):
        DiffusionPrior(Counting(), num_steps=1)


def test_draws_follow_the_global_seed_of_pyro():
    distribution = DiffusionPrior(gaussian(2), num_steps=3)
    draws = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        draws.append([distribution.sample(), distribution.sample()])
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_a_plate_holds_independent_events():
    def program():
        with pyro.plate("a", 3), pyro.plate("b", 2):
            return pyro.sample("x", DiffusionPrior(gaussian(4, 5), num_steps=3).mask(False))

    site = poutine.trace(program).get_trace().nodes["x"]
    assert site["fn"].batch_shape == (2, 3) and site["fn"].event_shape == (4, 5)
    assert site["value"].shape == (2, 3, 4, 5)
    assert len(torch.unique(site["value"])) == 2 * 3 * 4 * 5


# ---- density -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("sample", [(), (5,)])
def test_log_prob_is_the_priors_own_in_every_shape(batch, sample):
    prior = EmpiricalPrior(torch.randn(6, 2, 2, dtype=torch.float64), bandwidth=0.5)
    distribution = DiffusionPrior(prior).expand(batch)
    x = torch.randn(*sample, *batch, 2, 2, dtype=torch.float64)
    value = distribution.log_prob(x)
    assert value.shape == (*sample, *batch)
    assert torch.equal(value.reshape(-1), prior.log_prob(x.reshape(-1, 2, 2)))


def test_one_value_has_the_log_prob_of_each_event_of_the_batch():
    x = torch.randn(2, dtype=torch.float64)
    value = DiffusionPrior(gaussian(2)).expand((3,)).log_prob(x)
    assert value.shape == (3,) and len(torch.unique(value)) == 1


def test_log_prob_is_differentiable():
    prior = GaussianMixture(torch.ones(2), torch.eye(2, dtype=torch.float64), scale=0.7)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(DiffusionPrior(prior).log_prob, x)


def test_a_density_is_called_on_flat_events():
    seen = []

    def density(prior, x):
        seen.append((prior, x.shape))
        return -x.square().sum(-1)

    prior = Denoiser()
    distribution = DiffusionPrior(prior, density=density).expand((3,))
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    assert torch.equal(distribution.log_prob(x), -x.square().sum(-1))
    assert seen == [(prior, (15, 2))]


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="event"):
        DiffusionPrior(gaussian(2), validate_args=True).log_prob(torch.zeros(3))


def unmasked():
    x = pyro.sample("x", DiffusionPrior(Denoiser(), num_steps=3))
    pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.tensor(1.0))


@pytest.mark.parametrize("ask", ["log_prob_sum", "compute_log_prob"])
def test_pyro_passes_on_that_there_is_no_density(ask):
    trace = poutine.trace(unmasked).get_trace()
    with pytest.raises(NoDensity, match=r"Denoiser has no log-density.*mask\(False\).*density="):
        getattr(trace, ask)()


def test_a_joint_prior_has_a_density_if_all_its_members_have_one():
    x = torch.randn(3, 4, dtype=torch.float64)
    both = JointPrior([gaussian(2), gaussian(2, mean=1.0)])
    assert torch.equal(DiffusionPrior(both).log_prob(x), both.log_prob(x))
    one = JointPrior([gaussian(2), Denoiser()])
    with pytest.raises(NoDensity, match=r"JointPrior has no log-density: .*mask\(False\)"):
        DiffusionPrior(one).log_prob(x)
    chosen = DiffusionPrior(one, density=lambda prior, x: x.sum(-1))
    assert torch.equal(chosen.log_prob(x), x.sum(-1))


def test_a_mask_handler_still_asks_for_the_density_and_a_masked_distribution_does_not():
    trace = poutine.trace(poutine.mask(unmasked, mask=False)).get_trace()
    with pytest.raises(NoDensity):
        trace.compute_log_prob()
    masked = DiffusionPrior(Denoiser(), num_steps=3).expand((4,)).mask(False)
    assert torch.equal(masked.log_prob(masked.sample()), torch.zeros(4))


# ---- what Pyro does with it ----------------------------------------------------------------------

Y = torch.tensor(1.5, dtype=torch.float64)


def program(y=Y):
    """x ~ N(0, I_2), y ~ N(x_1 + x_2, 1)."""
    x = pyro.sample("x", DiffusionPrior(gaussian(2), num_steps=4).mask(False))
    return pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)


def test_trace_and_condition_and_compute_log_prob():
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)
    trace = poutine.trace(poutine.condition(program, {"x": x})).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"] == 0
    assert float(trace.log_prob_sum()) == pytest.approx(float(Normal(-0.5, 1.0).log_prob(Y)))


def test_importance_sampling_finds_the_log_normaliser():
    run = Importance(program, num_samples=400).run()
    weights = torch.stack([torch.as_tensor(w) for w in run.log_weights]).exp()
    statistics.z_test(weights, Normal(0.0, math.sqrt(3)).log_prob(Y).exp(), ceiling=0.02)
    assert float(run.get_log_normalizer()) == pytest.approx(float(weights.mean().log()), abs=1e-5)


def test_sequential_predictive_draws_the_prior():
    with poutine.block():
        drawn = Predictive(program, num_samples=300)(y=None)
    assert drawn["x"].shape == (300, 2)
    statistics.z_test(drawn["y"].square().reshape(300), 3.0, ceiling=0.5)


def test_parallel_predictive_is_wrong_for_a_latent_event_and_sequential_is_right():
    """Pyro reshapes samples by their rank and not by the rank of an event: with as many samples as
    there are plates, datum j of sample i is silently made from sample j."""
    N = 4
    x = 100 * torch.arange(N, dtype=torch.float64)[:, None].expand(N, 2)

    def plated(y=None):
        x = pyro.sample("x", DiffusionPrior(gaussian(2), num_steps=3).mask(False))
        with pyro.plate("data", N):
            return pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)

    right = x.sum(-1, keepdim=True).expand(N, N)
    sequential = Predictive(plated, posterior_samples={"x": x})()["y"]
    parallel = Predictive(plated, posterior_samples={"x": x}, parallel=True)()["y"]
    assert float((sequential - right).abs().max()) < 10
    assert float((parallel - right).abs().max()) > 100
    assert float((parallel - right.T).abs().max()) < 10
    with pytest.raises(ValueError, match="Shape mismatch"):
        Predictive(plated, posterior_samples={"x": x[:3]}, parallel=True)()


def test_nuts_finds_the_mean_of_a_conjugate_model():
    prior = gaussian(2, mean=1.0, scale=2.0)
    y = torch.tensor([4.0, -3.0], dtype=torch.float64)

    def conjugate():
        x = pyro.sample("x", DiffusionPrior(prior))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    mcmc = MCMC(NUTS(conjugate), num_samples=600, warmup_steps=150, disable_progbar=True)
    mcmc.run()
    x = mcmc.get_samples()["x"]
    exact = prior.posterior(torch.eye(2, dtype=torch.float64), y, 1.0)
    # NUTS draws are correlated: 600 of them are worth 150 at least
    error = 2 * math.sqrt(0.8 / 600)
    assert float((x.mean(0) - exact.moments().mean).abs().max()) < statistics.threshold(2) * error
    assert x.var(0).tolist() == pytest.approx([0.8, 0.8], rel=0.4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d,
        lambda d: d.mask(False),
        lambda d: d.expand((3,)).to_event(1),
        lambda d: d.mask(torch.tensor([True, False])).to_event(1).mask(False),
        lambda d: dist.ExpandedDistribution(d.mask(False), (2, 3)),
    ],
)
def test_the_prior_is_found_inside_of_wrappers(wrap):
    prior = gaussian(2)
    assert diffusion_of(wrap(DiffusionPrior(prior))) is prior
    assert diffusion_of(wrap(dist.Normal(0.0, 1.0).expand([2]).to_event(1))) is None


def test_a_missing_pyro_is_named_in_one_line():
    code = (
        "import sys; sys.modules['pyro'] = None\n"
        "try:\n    import smcguide.bridges.pyro\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == (
        "MissingExtra smcguide.bridges.pyro needs the package 'pyro-ppl', which is not installed. "
        "Install it with: pip install 'smcguide[pyro]'\n"
    ), done.stderr
