"""Particle marginal Metropolis-Hastings against quadrature over the exact evidence."""

import dataclasses
import math
import sys

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, TIMES, P, Q

import smcguide as sg
from smcguide.pmmh import pmmh
from smcguide.pseudomarginal import State, walk
from smcguide.testing import gaussian_chain, generator, seed, z_test

GRID = torch.linspace(-4, 6, 4001, dtype=torch.float64)


def normal_log_prior(mean, std):
    """Normalised nowhere: constants cancel."""
    return lambda theta: -0.5 * ((theta - mean) / std).square().sum(-1)


@dataclasses.dataclass
class Quadrature:
    """p(theta | y) on a grid, from log-evidences there."""

    log_prior: object
    log_z: torch.Tensor

    @property
    def p(self):
        return (self.log_prior(GRID[:, None]) + self.log_z).softmax(0)

    def mean(self, f):
        return float(self.p @ f)

    def draw(self, num, stream):
        index = torch.multinomial(self.p, num, True, generator=generator(stream))
        return GRID[index][:, None]


def check(chains, law, mean_x, *, ceiling):
    """Means of theta, theta^2 and x over each chain; the chains are independent."""
    theta, x = chains.theta[..., 0], chains.x.flatten(2)[..., 0]
    truth = torch.tensor([law.mean(GRID), law.mean(GRID**2), law.mean(mean_x)])
    z_test(torch.stack([theta, theta**2, x], -1).mean(1), truth, ceiling=ceiling)


# ---- an unknown gain, one step -------------------------------------------------------------------

GAIN_Y, GAIN_STD = 2.5, 1.2
GAIN_PRIOR = normal_log_prior(1.0, 0.8)


class Gain(sg.FeynmanKac):
    """y = theta x + noise, x ~ N(0, 2) in two halves; weights by the likelihood alone."""

    num_steps, event_shape = 1, (1,)

    def __init__(self, theta):
        self.theta = theta

    def initial(self, shape, generator):
        x = torch.randn(*shape, 1, generator=generator, dtype=torch.float64)
        return sg.Propagated(x, torch.zeros_like(x[..., 0]))

    def step(self, k, x, carry, generator):
        x = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return sg.Propagated(x, self.log_likelihood(x[..., 0]))

    def log_likelihood(self, x):
        law = torch.distributions.Normal(self.theta[0] * x, GAIN_STD)
        return law.log_prob(torch.tensor(GAIN_Y, dtype=torch.float64))


def gain_law(log_prior=GAIN_PRIOR):
    scale = (2 * GRID**2 + GAIN_STD**2).sqrt()
    y = torch.tensor(GAIN_Y, dtype=torch.float64)
    return Quadrature(log_prior, torch.distributions.Normal(0, scale).log_prob(y))


GAIN_X = 2 * GRID * GAIN_Y / (2 * GRID**2 + GAIN_STD**2)  # E[x | theta, y]


def gain_chains(N, num_iters=20, build=Gain, log_prior=GAIN_PRIOR, **kwargs):
    starts = gain_law().draw(100, "gain: starts")
    return pmmh(
        build, log_prior, starts, num_iters=num_iters, num_particles=N, step=1.5, burn_in=8,
        seed=seed("gain"), progress=False, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("N", [1, 2, 16])
def test_parameters_and_events_for_any_number_of_particles(N) -> None:
    check(gain_chains(N, 30 if N == 1 else 15), gain_law(), GAIN_X, ceiling=0.15)


def noisy(target, here, factor, start, num):
    """Values the current parameters anew before each comparison."""
    for n in range(num):
        here = target(here.theta, (*start, 3, n))
        here, accepted = next(walk(target, here, factor, (start[0], 1000 * start[1] + n), 1))
        yield here, accepted


def careless(target, here, factor, start, num):
    """Keeps the latest event, accepted or not."""
    latest = []

    def watched(theta, of_run):
        latest.append(target(theta, of_run))
        return latest[-1]

    for state, accepted in walk(watched, here, factor, start, num):
        yield dataclasses.replace(state, x=latest[-1].x), accepted


@pytest.mark.parametrize("wrong", [noisy, careless])
def test_planted_walk_is_caught(monkeypatch, wrong) -> None:
    monkeypatch.setattr(sys.modules["smcguide.pmmh"], "walk", wrong)
    with pytest.raises(AssertionError, match="allowed"):
        check(gain_chains(1, 8), gain_law(), GAIN_X, ceiling=2.0)


def test_planted_power_of_the_prior_is_caught(monkeypatch) -> None:
    cubed = property(lambda state: state.log_z + 3 * state.log_prior)
    monkeypatch.setattr(State, "log_posterior", cubed)
    with pytest.raises(AssertionError, match="allowed"):
        check(gain_chains(4, 30), gain_law(), GAIN_X, ceiling=2.0)


class Window(Gain):
    """A hard constraint, |theta - x| < 1, that two particles often miss."""

    def log_likelihood(self, x):
        return torch.where((self.theta[0] - x).abs() < 1.0, 0.0, -torch.inf).double()


def test_a_run_without_survivors_is_rejected() -> None:
    half = torch.distributions.Normal(0.0, 2.0**0.5)
    low, high = GRID - 1, GRID + 1
    Z = half.cdf(high) - half.cdf(low)
    x = 2 * (half.log_prob(low).exp() - half.log_prob(high).exp()) / Z
    law = Quadrature(GAIN_PRIOR, Z.log())
    chains = pmmh(
        Window, GAIN_PRIOR, torch.zeros(100, 1), num_iters=20, num_particles=2, step=1.5,
        burn_in=10, seed=seed("window"), progress=False,
    )  # fmt: skip
    assert bool(torch.isfinite(chains.log_z).all())
    check(chains, law, x, ceiling=0.15)


# ---- an unknown noise level of a diffusion's measurement -----------------------------------------

A = torch.tensor([[1.0, -0.5], [0.3, 1.0], [1.0, 1.0]], dtype=torch.float64)
Y = torch.tensor([2.0, 0.4, -1.0], dtype=torch.float64)
NOISE_PRIOR = normal_log_prior(-0.5, 0.8)  # of log noise_std


def noise_model(theta, potential=None, proposal=None):
    return sg.GuidedDiffusion(
        PRIOR, sg.costs.LinearGaussian(A, Y, float(theta[0].exp())), kernel=sg.kernels.DDPM(),
        times=TIMES, potential=potential or Q.InflatedGaussian(), proposal=proposal or P.Bootstrap(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def noise_law():
    """Quadrature over the discretised chain, and E[x_0 | theta, y] at the same points."""
    chain = gaussian_chain(MEAN, COV, noise_model(torch.zeros(1)).levels)
    stds = GRID.exp().tolist()
    log_z = torch.tensor([chain.log_evidence(A, Y, std) for std in stds], dtype=torch.float64)
    x = torch.stack([chain.posterior(A, Y, std).mean[0] for std in stds])
    return Quadrature(NOISE_PRIOR, log_z), x


def test_noise_level_of_a_guided_diffusion(noise_law) -> None:
    law, x = noise_law
    chains = pmmh(
        noise_model, NOISE_PRIOR, law.draw(100, "noise: starts"), num_iters=10, num_particles=16,
        step=0.9, burn_in=3, seed=seed("noise"), progress=False,
    )  # fmt: skip
    check(chains, law, x, ceiling=0.06)
    assert 0.2 < float(chains.acceptance_rate.mean()) < 0.7


# ---- the result ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    return pmmh(
        Gain, GAIN_PRIOR, torch.tensor([1.0]), num_iters=300, num_particles=16,
        step=torch.tensor([[2.0]]), num_chains=3, burn_in=20, seed=4, progress=False,
    )  # fmt: skip


def test_shapes_and_bookkeeping(chains) -> None:
    assert chains.theta.shape == (3, 300, 1) and chains.x.shape == (3, 300, 1)
    assert chains.log_z.shape == chains.log_prior.shape == chains.accepted.shape == (3, 300)
    assert chains.draws().shape == (900, 1) and chains.mean().shape == chains.std().shape == (1,)
    moved = (chains.theta[:, 1:] != chains.theta[:, :-1]).squeeze(-1)
    assert torch.equal(moved, chains.accepted[:, 1:])
    assert torch.equal(moved, chains.log_z[:, 1:] != chains.log_z[:, :-1])
    assert torch.equal(chains.log_prior, GAIN_PRIOR(chains.theta))
    assert chains.exactness == sg.exactness.LIMIT
    assert "acceptance" in chains.summary() and "exact in the limit" in chains.summary()


def test_chains_are_their_seeds_and_their_numbers(chains) -> None:
    again = pmmh(
        Gain, GAIN_PRIOR, torch.ones(2, 1), num_iters=30, num_particles=16, step=2**0.5,
        burn_in=20, seed=4, progress=False,
    )  # fmt: skip
    assert torch.equal(again.theta, chains.theta[:2, :30])
    assert torch.equal(again.x, chains.x[:2, :30])
    assert not torch.equal(chains.theta[0], chains.theta[1])


def test_evaluations_and_progress_count_every_run() -> None:
    seen = []
    chains = pmmh(
        noise_model, NOISE_PRIOR, torch.zeros(1), num_iters=5, num_particles=8, step=0.5,
        num_chains=2, burn_in=2, progress=seen.append,
    )  # fmt: skip
    assert [info.step for info in seen] == [4] * 16
    assert chains.evaluations == {"network_forward": 16 * 4 * 8, "cost": 16 * 5 * 8}
    assert "LinearGaussian" in chains.settings["cost"]


def test_arviz_summarises_parameters(chains) -> None:
    az = pytest.importorskip("arviz")
    data = chains.to_arviz()
    table = az.summary(data, round_to="none")
    assert list(table.index) == ["theta[0]", "x0[0]"]
    assert table["mean"].iloc[0] == pytest.approx(float(chains.mean()))
    assert bool((table["r_hat"] < 1.1).all())
    assert set(data["sample_stats"].data_vars) == {"log_evidence", "log_prior", "accepted"}


# ---- what can go wrong ---------------------------------------------------------------------------


def test_impossible_parameters_cost_no_run() -> None:
    built = []

    def build(theta):
        built.append(float(theta))
        return Gain(theta)

    def log_prior(theta):
        return torch.where(theta[0] > 0, 0.0, -torch.inf)

    chains = pmmh(
        build, log_prior, torch.tensor([0.2]), num_iters=50, num_particles=4, step=4.0,
        progress=False,
    )  # fmt: skip
    assert min(built) > 0 and len(built) < 40
    assert bool((chains.theta > 0).all())


class Broken(Gain):
    """NaN away from the start."""

    def log_likelihood(self, x):
        return super().log_likelihood(x) + (0.0 if self.theta[0] == 1.0 else math.nan)


def test_a_broken_model_is_not_mistaken_for_an_impossible_one() -> None:
    with pytest.raises(sg.DegenerateWeights, match="Non-finite weights"):
        pmmh(Broken, GAIN_PRIOR, torch.ones(1), num_iters=3, num_particles=4, step=1.0)


@dataclasses.dataclass(frozen=True)
class Approximate(Q.Tweedie):
    exactness = sg.exactness.LIMIT


class Many(Gain):
    num_systems = 3


def flat(theta):
    return torch.zeros(())


REFUSED = {
    "start impossible": (
        {"log_prior": lambda theta: torch.tensor(-torch.inf)}, "log prior -inf.*Start where both",
    ),
    "start without survivors": (
        {"theta0": torch.full((1,), 50.0), "build": Window}, "log-evidence -inf. Start where",
    ),
    "prior is NaN": ({"log_prior": lambda theta: theta[0] * math.nan}, "log_prior is nan at theta"),
    "theta0": ({"theta0": torch.zeros(2, 2, 2)}, r"theta0 of shape \(2, 2, 2\)"),
    "chains": ({"theta0": torch.zeros(2, 1), "num_chains": 3}, "num_chains=3: expected finite"),
    "no chains": ({"num_chains": 0}, "num_chains must be a whole number of at least 1"),
    "step": ({"step": -1.0}, r"step of shape \(\): expected positive"),
    "step's shape": ({"step": torch.ones(3)}, r"step of shape \(3,\).*\(1,\)"),
    "covariance": ({"step": -torch.eye(1)}, "positive definite"),
    "iterations": ({"num_iters": 0}, "num_iters must be a whole number of at least 1"),
    "particles": ({"num_particles": 0}, "num_particles must be a whole number of at least 1"),
    "seed": ({"seed": -1}, "seed must be a whole number"),
    "systems": ({"build": Many}, "made a model with 3 systems"),
    "biased Z": (
        {"build": lambda theta: noise_model(theta, Approximate())},
        "'exact in the limit'; pmmh needs an unbiased Z",
    ),
    "biased resampler": (
        {"resampler": sg.resamplers.Metropolis()}, "'exact in the limit'; pmmh needs an unbiased Z",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case) -> None:
    changes, message = REFUSED[case]
    given = {"theta0": torch.ones(1), "num_iters": 2, "num_particles": 4, "step": 1.0}
    given |= {"build": Gain, "log_prior": flat, "progress": False} | changes
    with pytest.raises(sg.InvalidInput, match=message):
        pmmh(given.pop("build"), given.pop("log_prior"), given.pop("theta0"), **given)


def test_a_theta_that_makes_no_model_says_what_to_do() -> None:
    def make(theta):
        cost = sg.costs.LinearGaussian(torch.eye(2).double(), torch.zeros(2).double(), float(theta))
        return sg.model(PRIOR, cost, num_steps=4)

    message = r"no model for theta = \[-0.5\].*Return -inf from log_prior"
    with pytest.raises(sg.InvalidInput, match=message):
        pmmh(
            make, normal_log_prior(0.0, 1.0), torch.tensor([-0.5]), num_iters=2, num_particles=4,
            step=0.1, progress=False,
        )  # fmt: skip
