"""Log-densities by the probability-flow ODE against densities in closed form."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import smcguide as sg
from smcguide import density
from smcguide.density import FlowDensity
from smcguide.errors import InvalidInput
from smcguide.priors import EmpiricalPrior, GaussianMixture, JointPrior, NetworkPrior, Prior
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow
from smcguide.testing import generator, z_test

F64 = torch.float64
LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
ZERO_SNR = torch.cat([LINEAR[:-1], torch.zeros(1, dtype=F64)])
SCHEDULES = {
    "VP": VP(), "VE": VE(), "EDM": EDM(), "RectifiedFlow": RectifiedFlow(), "Cosine": Cosine(),
    "table": DDPMTable(LINEAR), "table of zero SNR": DDPMTable(ZERO_SNR),
}  # fmt: skip
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def mixture(d, schedule, dtype=F64, event_shape=None):
    means = torch.randn(3, d, generator=generator("means"), dtype=F64).to(dtype)
    scale = torch.tensor([0.4, 0.5, 0.8], dtype=F64)
    weights = torch.tensor([0.2, 0.5, 0.3])
    means = means.reshape(3, *(event_shape or (d,)))
    return GaussianMixture(weights, means, scale=scale, schedule=schedule)


def smoothed(prior, x):
    """Log-density of x_0 + lam_0 eps at the smallest noise worth visiting, in closed form."""
    t = prior.schedule.level(prior.schedule.t_min)
    return prior.log_prob(t.alpha * x, t.time) + x[0].numel() * math.log(t.alpha)


class StandardNormal(Prior):
    """N(0, I) by its denoiser only, as a network would be. Remembers batches and what is pulled back."""

    def __init__(self, schedule, event_shape=(3,)):
        self.schedule, self.event_shape = schedule, event_shape
        self.dtype, self.device = F64, torch.device("cpu")
        self.batches, self.pulled = [], []

    def denoise(self, x, t):
        level = self.schedule.level(t)
        D = level.alpha * x / (level.alpha**2 + level.sigma**2)
        if D.requires_grad:
            D.register_hook(lambda v: self.pulled.append(v.clone()))
        self.batches.append(len(x))
        return D


# ---- values --------------------------------------------------------------------------------------


CASES = [(d, name) for name in SCHEDULES for d in (1, 2)]
CASES += [(8, name) for name in ("VP", "VE", "EDM", "RectifiedFlow")]


@pytest.mark.parametrize(("d", "name"), CASES)
def test_the_error_falls_with_the_square_of_the_steps(d, name):
    prior = mixture(d, SCHEDULES[name])
    x = prior.sample(20, generator("data"))
    few, many = (
        float((FlowDensity(num)(prior, x) - smoothed(prior, x)).abs().mean()) for num in (80, 240)
    )
    assert few < 5e-3 * d
    assert 1.5 < math.log(few / many) / math.log(3) < 3, f"errors {few}, {many}"


@schedules
def test_the_answer_is_nearly_the_density_of_the_data(schedule):
    prior, d = mixture(2, schedule), 2
    x, lam = prior.sample(50, generator("data")), schedule.level(schedule.t_min).ratio
    gap = FlowDensity(400)(prior, x) - prior.log_prob(x)
    assert float(gap.abs().max()) < 1e-3 + 20 * d * lam**2 / 0.4**2


@schedules
def test_a_gaussian_about_zero_is_exact_in_one_step(schedule):
    prior = GaussianMixture(
        torch.ones(1), torch.zeros(1, 5, dtype=F64), scale=0.3, schedule=schedule
    )
    x = prior.sample(10, generator("data"))
    torch.testing.assert_close(FlowDensity(1)(prior, x), smoothed(prior, x), rtol=1e-5, atol=1e-5)


@schedules
def test_without_a_law_of_its_own_the_noise_end_is_pure_noise(schedule):
    prior, x = StandardNormal(schedule), torch.randn(9, 3, generator=generator("data"), dtype=F64)
    lam, end = (schedule.level(t).ratio for t in (schedule.t_min, schedule.t_max))
    exact = torch.distributions.Normal(0.0, math.sqrt(1 + lam**2)).log_prob(x).sum(-1)
    gap = (FlowDensity(2)(prior, x) - exact).abs().max()
    assert float(gap) <= 10 / min(end, 1e3) ** 2 + 1e-5
    assert prior.batches == [9] * 4


@pytest.mark.parametrize("scale", [1e-4, 0.0])
def test_data_narrower_than_the_smallest_noise_are_as_wide_as_that(scale):
    schedule, centre = VP(), torch.tensor([[0.5, -1.0]], dtype=F64)
    prior = GaussianMixture(torch.ones(1), centre, scale=scale, schedule=schedule)
    lam = schedule.level(schedule.t_min).ratio
    found = FlowDensity(400)(prior, centre)
    peak = -2 * math.log(math.hypot(lam, scale) * math.sqrt(2 * math.pi))
    assert float(found) == pytest.approx(peak, abs=2e-2)
    if scale:
        assert float(prior.log_prob(centre)) > peak + 9


@pytest.mark.parametrize("pair", [(VP(), VP()), (EDM(), VP())], ids=["equal", "EDM and VP"])
def test_the_density_of_independent_priors_is_the_product(pair):
    members = [mixture(2, schedule) for schedule in pair]
    joint = JointPrior(members)
    x = torch.cat([p.sample(10, generator("data")) for p in members], -1)
    found = FlowDensity(200)(joint, x)
    torch.testing.assert_close(found, smoothed(joint, x), rtol=0, atol=5e-3)
    total = sum(p.log_prob(part) for p, part in zip(members, joint.split(x), strict=True))
    torch.testing.assert_close(found, total, rtol=0, atol=0.05)


def test_events_of_any_shape_are_flat_inside():
    flat, shaped = mixture(4, VP()), mixture(4, VP(), event_shape=(1, 2, 2))
    x, flow = flat.sample(5, generator("data")), FlowDensity(10)
    torch.testing.assert_close(flow(shaped, x.reshape(5, 1, 2, 2)), flow(flat, x))
    one = FlowDensity(10, num_probes=2)
    torch.testing.assert_close(one(shaped, x.reshape(5, 1, 2, 2)), one(flat, x))


def test_float32_particles_are_integrated_in_float64():
    prior, exact = mixture(2, VP(), torch.float32), mixture(2, VP())
    x = exact.sample(20, generator("data"))
    found = FlowDensity(50)(prior, x.float())
    assert found.dtype == F64
    torch.testing.assert_close(found, FlowDensity(50)(exact, x), rtol=0, atol=1e-3)


# ---- random directions ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_probes", [1, 3])
def test_random_directions_are_unbiased_for_the_exact_trace(num_probes):
    means = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.0, 0.8]], dtype=F64)
    prior = GaussianMixture(torch.ones(2), means, scale=0.4, schedule=VP())
    x = torch.tensor([[0.2, 0.1, 0.5]], dtype=F64)
    exact = FlowDensity(20)(prior, x)
    found = FlowDensity(20, num_probes, seed=3)(prior, x.expand(4000, 3))
    z_test(found, exact, ceiling=0.06 / num_probes**0.5)
    assert float(found.std()) > 0.5


def test_more_directions_have_less_variance():
    prior, x = mixture(3, VP()), torch.zeros(4000, 3, dtype=F64)
    one, four = (FlowDensity(10, num)(prior, x).var() for num in (1, 4))
    assert float(one / four) == pytest.approx(4, rel=0.2)


def test_directions_are_signs_and_stay_the_same_along_the_path():
    prior, x = StandardNormal(VP()), torch.zeros(6, 3, dtype=F64)
    FlowDensity(4, num_probes=2)(prior, x)
    pulled = torch.stack(prior.pulled).unflatten(0, (8, 2))
    assert torch.equal(pulled.abs(), torch.ones_like(pulled))
    assert torch.equal(pulled, pulled[:1].expand_as(pulled))
    assert not torch.equal(pulled[0, 0], pulled[0, 1])
    assert not torch.equal(pulled[0, 0, 0].expand(6, 3), pulled[0, 0])


def test_directions_follow_the_seed_and_leave_the_global_generator_alone():
    prior, x, before = mixture(3, VP()), torch.zeros(5, 3, dtype=F64), torch.get_rng_state()
    first, again, other = (FlowDensity(5, 1, seed)(prior, x) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_probes", [None, 2])
def test_an_answer_does_not_depend_on_how_particles_are_split(num_probes, monkeypatch):
    prior, x = mixture(3, VP()), torch.randn(10, 3, generator=generator("data"), dtype=F64)
    flow = FlowDensity(5, num_probes)
    whole = flow(prior, x)
    monkeypatch.setattr(density, "_LARGEST_BATCH", 4)
    torch.testing.assert_close(flow(prior, x), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow(prior, x[:3]), whole[:3], rtol=1e-12, atol=1e-12)


def test_large_batches_reach_the_network_in_parts():
    prior = StandardNormal(VP(), (1,))
    assert FlowDensity(1)(prior, torch.zeros(600, 1, dtype=F64)).shape == (600,)
    assert prior.batches == [256, 256, 256, 256, 88, 88]
    assert FlowDensity(1)(prior, torch.zeros(0, 1, dtype=F64)).shape == (0,)


# ---- gradients and refused input -----------------------------------------------------------------


def test_the_answer_carries_no_gradient_and_networks_get_none():
    net = nn.Linear(2, 2).double()
    prior = NetworkPrior(lambda x, t: net(x), VP(), "sample", (2,), dtype=F64)
    x = torch.zeros(3, 2, dtype=F64, requires_grad=True)
    with torch.no_grad():
        inside = FlowDensity(3)(prior, x)
    found = FlowDensity(3)(prior, x)
    assert torch.equal(found, inside)
    assert not found.requires_grad
    assert x.grad is None
    assert net.weight.grad is None


NETS = {
    "a constant": lambda x, t: torch.zeros_like(x),
    "detached": lambda x, t: nn.Linear(2, 2).double()(x.detach()),
    "without gradients": torch.no_grad()(lambda x, t: 0.5 * x),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_denoiser_without_gradient_is_refused(net):
    prior = NetworkPrior(net, VP(), "sample", (2,), dtype=F64)
    with pytest.raises(InvalidInput, match=r"NetworkPrior.* carries no gradient"):
        FlowDensity(2)(prior, torch.zeros(3, 2, dtype=F64))


@pytest.mark.parametrize("shape", [(3,), (5, 2), (5, 1, 3), ()])
def test_events_of_another_shape_are_refused(shape):
    with pytest.raises(InvalidInput, match=r"x of shape .*expected \(M, \*E\) with E = \(3,\)"):
        FlowDensity()(mixture(3, VP()), torch.zeros(shape))


@pytest.mark.parametrize("bad", [0, -1, 2.5, "many"])
def test_counts_that_are_none_are_refused(bad):
    for options in ({"num_steps": bad}, {"num_probes": bad}):
        with pytest.raises(InvalidInput, match=r"must be a whole number >= 1"):
            FlowDensity(**options)


# ---- real data -----------------------------------------------------------------------------------


def test_digits_are_far_more_likely_than_noise_of_their_size():
    prior = sg.priors.load("digits")
    images = torch.from_numpy(load_digits().images)[:8, None] / 8 - 1
    noise = torch.randn(images.shape, generator=generator("noise"), dtype=F64)
    noise = (
        noise
        * (images.square().sum((1, 2, 3)) / noise.square().sum((1, 2, 3))).sqrt()[
            :, None, None, None
        ]
    )
    found = FlowDensity(20, num_probes=4)(prior, torch.cat([images, noise]))
    assert torch.isfinite(found).all()
    assert float(found[:8].min() - found[8:].max()) > 100


def test_kernel_densities_of_digits_are_found_again():
    data = torch.from_numpy(load_digits().images)[:200] / 8 - 1
    prior = EmpiricalPrior(data, 0.2)
    x = prior.sample(3, generator("digits"))
    found = FlowDensity(60)(prior, x)
    assert float((found - smoothed(prior, x)).abs().max()) < 0.5
