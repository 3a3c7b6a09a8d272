"""Networks as priors: each prediction type against the exact denoiser it was converted from."""

import math

import pytest
import torch
from torch import nn

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.priors import GaussianMixture, NetworkPrior
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow
from smcguide.testing import PriorSuite, generator

F64 = torch.float64
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
SCHEDULES = {
    "VP": VP(),
    "Cosine": Cosine(),
    "DDPMTable": DDPMTable(TABLE),
    "VE": VE(),
    "EDM": EDM(),
    "RectifiedFlow": RectifiedFlow(),
}
CONVERTED = ["epsilon", "sample", "v", "score", "velocity"]
SIGMA_DATA = 0.7


def mixture(schedule):
    means = torch.randn(3, 2, 2, 1, generator=generator("means"), dtype=F64)
    return GaussianMixture(torch.ones(3), means, scale=0.5, schedule=schedule)


def slope(schedule, f, t):
    """df/dt by central differences of fourth order, between the entries of a table."""
    h = 0.1 if isinstance(schedule, DDPMTable) else 1e-3 * t
    p = [float(f(torch.tensor(t + k * h, dtype=F64))) for k in (-2, -1, 1, 2)]
    return (p[0] - 8 * p[1] + 8 * p[2] - p[3]) / (12 * h)


class Exact(nn.Module):
    """A network that says what the mixture's denoiser implies, in one of the languages."""

    def __init__(self, prior, prediction, time_of=lambda c: c):
        super().__init__()
        self.prior, self.prediction, self.time_of = prior, prediction, time_of
        self.told = []

    def forward(self, x, c):
        assert c.shape == (len(x),)
        assert (c == c[0]).all()
        self.told.append(float(c[0]))
        t = self.time_of(float(c[0]))
        level = self.prior.schedule.level(t)
        D = self.prior.denoise(x, t)
        eps = (x - level.alpha * D) / level.sigma
        if self.prediction == "velocity":
            schedule = self.prior.schedule
            rates = [slope(schedule, f, t) for f in (schedule.alpha, schedule.sigma)]
            return rates[0] * D + rates[1] * eps
        return {
            "epsilon": eps,
            "sample": D,
            "v": level.alpha * eps - level.sigma * D,
            "score": -eps / level.sigma,
        }[self.prediction]


class ExactEDM(nn.Module):
    """The raw network F of the EDM preconditioning, solved for from the mixture's denoiser."""

    def __init__(self, prior):
        super().__init__()
        self.prior, self.inputs = prior, []

    def forward(self, scaled, c_noise):
        self.inputs.append(scaled)
        lam = math.exp(4 * float(c_noise[0]))
        t = float(self.prior.schedule.time(-2 * math.log(lam)))
        level = self.prior.schedule.level(t)
        c_in = 1 / math.sqrt(lam**2 + SIGMA_DATA**2)
        noised = scaled / c_in  # x_0 + lam eps
        D = self.prior.denoise(level.alpha * noised, t)
        c_skip = SIGMA_DATA**2 / (lam**2 + SIGMA_DATA**2)
        c_out = lam * SIGMA_DATA / math.sqrt(lam**2 + SIGMA_DATA**2)
        return (D - c_skip * noised) / c_out


def entry(schedule):
    """What a network of this schedule is told, back to the time."""
    return (lambda c: c + 1) if isinstance(schedule, DDPMTable) else (lambda c: c)


def converted(prediction, schedule, **options):
    net = Exact(mixture(schedule), prediction, entry(schedule))
    return NetworkPrior(net, schedule, prediction, (2, 2, 1), dtype=F64, **options)


def middle_times(schedule):
    low, high = (float(schedule.log_snr(t)) for t in (schedule.t_min, 0.9 * schedule.t_max))
    times = [float(schedule.time(low + f * (high - low))) for f in (0.2, 0.5, 0.9)]
    return [int(t) + 0.5 for t in times] if isinstance(schedule, DDPMTable) else times


def states(schedule, t, num=5):
    level = schedule.level(t)
    source = generator("states")
    return (level.alpha + level.sigma) * torch.randn(num, 2, 2, 1, generator=source, dtype=F64)


@pytest.mark.parametrize("prediction", CONVERTED)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_denoiser_is_recovered_from_every_prediction(prediction, schedule):
    prior, exact = converted(prediction, schedule), mixture(schedule)
    tolerance = 1e-7 if prediction == "velocity" else 1e-10  # finite differences in the network
    for t in middle_times(schedule):
        x = states(schedule, t)
        torch.testing.assert_close(
            prior.denoise(x, t), exact.denoise(x, t), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_denoiser_is_recovered_from_edm_preconditioning(schedule):
    exact = mixture(schedule)
    net = ExactEDM(exact)
    prior = NetworkPrior(net, schedule, "edm", (2, 2, 1), sigma_data=SIGMA_DATA, dtype=F64)
    for t in middle_times(schedule):
        x = states(schedule, t)
        torch.testing.assert_close(prior.denoise(x, t), exact.denoise(x, t), rtol=1e-8, atol=1e-8)


def test_velocity_of_a_rectified_flow_is_recovered_at_pure_noise():
    prior, exact = converted("velocity", RectifiedFlow()), mixture(RectifiedFlow())
    x = states(RectifiedFlow(), 1.0)
    torch.testing.assert_close(prior.denoise(x, 1.0), exact.denoise(x, 1.0), rtol=1e-7, atol=1e-7)


class TestConvertedNetworks(PriorSuite):
    def instances(self):
        return [converted("epsilon", VP()), converted("v", Cosine()), converted("score", EDM())]


class TestEDMNetwork(PriorSuite):
    def instances(self):
        net = ExactEDM(mixture(EDM()))
        return [NetworkPrior(net, EDM(), "edm", (2, 2, 1), sigma_data=SIGMA_DATA, dtype=F64)]


# ---- what the network is given -------------------------------------------------------------------


def test_the_network_is_told_the_time():
    prior = converted("epsilon", VP())
    prior.denoise(states(VP(), 0.3), 0.3)
    assert prior.net.told == [0.3]


def test_the_network_of_a_table_is_told_the_entry_number():
    prior = converted("epsilon", DDPMTable(TABLE))
    prior.denoise(states(VP(), 0.3), 400.0)
    assert prior.net.told == [399.0]


def test_an_edm_network_is_told_a_quarter_of_the_log_noise_and_sees_unit_variance():
    prior = NetworkPrior(
        ExactEDM(mixture(EDM())), EDM(), "edm", (2, 2, 1), sigma_data=SIGMA_DATA, dtype=F64
    )
    t = 5.0
    source = generator("unit")
    clean = SIGMA_DATA * torch.randn(4000, 2, 2, 1, generator=source, dtype=F64)
    noisy = clean + t * torch.randn(clean.shape, generator=source, dtype=F64)
    prior.denoise(noisy, t)
    scaled = prior.net.inputs[0]
    sg.testing.z_test(scaled.flatten(1) ** 2, 1.0, ceiling=0.03)
    assert prior._conditioning(t, t) == pytest.approx(math.log(t) / 4)


@pytest.mark.parametrize("prediction", ["epsilon", "edm"])
def test_a_time_input_overrides_what_the_network_is_told(prediction):
    told = []

    def net(x, c):
        told.append(float(c[0]))
        return torch.zeros_like(x)

    prior = NetworkPrior(net, VP(), prediction, (2,), time_input=lambda t: 1000 * t, dtype=F64)
    prior.denoise(torch.ones(3, 2, dtype=F64), 0.25)
    assert told == [250.0]


class Wide(nn.Module):
    """Predicts zero noise, in the parameters' dtype; remembers the dtypes it was given."""

    def __init__(self, dtype, channels=1, wrap=False):
        super().__init__()
        self.layer = nn.Linear(1, 1, dtype=dtype)
        self.channels, self.wrap, self.seen = channels, wrap, []

    def forward(self, x, c):
        self.seen.append((x.dtype, c.dtype, self.training))
        out = torch.cat([0.5 * x] + [torch.full_like(x, math.nan)] * (self.channels - 1), 1)
        return type("Output", (), {"sample": out})() if self.wrap else out


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_a_half_precision_network_serves_float32_particles(half):
    net = Wide(half)
    prior = NetworkPrior(net, VP(), "sample", (2, 3), dtype=torch.float32)
    x = torch.randn(4, 2, 3, generator=generator("half"))
    D = prior.denoise(x, 0.5)
    assert net.seen == [(half, half, False)]
    assert D.dtype == torch.float32
    torch.testing.assert_close(D, 0.5 * x, rtol=1e-2, atol=1e-2)


def test_a_network_is_put_into_evaluation_mode():
    net = Wide(F64)
    assert net.training
    NetworkPrior(net, VP(), "sample", (2, 3))
    assert not net.training


def test_a_float32_network_serves_float64_particles_after_a_move():
    net = Wide(torch.float32)
    prior = NetworkPrior(net, VP(), "sample", (2, 3)).to(dtype=F64)
    D = prior.denoise(torch.ones(4, 2, 3, dtype=F64), 0.5)
    assert net.seen == [(torch.float32, torch.float32, False)]
    assert D.dtype == F64


def test_a_function_without_parameters_computes_in_the_dtype_of_the_particles():
    prior = NetworkPrior(lambda x, c: x / 3, VP(), "sample", (2,)).to(dtype=F64)
    x = torch.randn(4, 2, generator=generator("function"), dtype=F64)
    torch.testing.assert_close(prior.denoise(x, 0.5), x / 3, rtol=1e-14, atol=0)


@pytest.mark.parametrize("wrap", [False, True], ids=["a tensor", "an object with .sample"])
def test_learned_variance_channels_are_cut(wrap):
    prior = NetworkPrior(Wide(F64, channels=2, wrap=wrap), VP(), "sample", (2, 3), dtype=F64)
    x = torch.randn(4, 2, 3, generator=generator("wide"), dtype=F64)
    torch.testing.assert_close(prior.denoise(x, 0.5), 0.5 * x)


def test_clip_bounds_the_denoised_estimate_only_from_outside():
    prior = NetworkPrior(lambda x, c: x, VP(), "sample", (4,), clip=(-1.0, 0.5), dtype=F64)
    x = torch.tensor([[-3.0, -0.2, 0.4, 2.0]], dtype=F64)
    assert prior.denoise(x, 0.5).tolist() == [[-1.0, -0.2, 0.4, 0.5]]


# ---- refused input and moving --------------------------------------------------------------------


def test_an_output_of_another_shape_is_refused():
    prior = NetworkPrior(lambda x, c: x[:, :1], VP(), "epsilon", (2, 3), dtype=F64)
    with pytest.raises(InvalidInput, match=r"maps \(4, 2, 3\) to \(4, 1, 3\); a prior over events"):
        prior.denoise(torch.ones(4, 2, 3, dtype=F64), 0.5)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(InvalidInput, match=r"unknown prediction 'noise'; use one of \('epsilon'"):
        NetworkPrior(lambda x, c: x, VP(), "noise", (2,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_particles_are_refused(dtype):
    with pytest.raises(InvalidInput, match="keep the network's parameters in half precision"):
        NetworkPrior(Wide(torch.float16), VP(), "sample", (2,), dtype=dtype)


def test_a_moved_prior_leaves_the_original_alone():
    prior = NetworkPrior(Wide(torch.float32), VP(), "sample", (2, 3))
    moved = prior.to("meta")
    assert next(prior.net.parameters()).device.type == "cpu"
    assert next(moved.net.parameters()).device.type == "meta"
    assert (prior.device.type, moved.device.type) == ("cpu", "meta")


def test_repr_names_network_schedule_and_prediction():
    text = repr(NetworkPrior(Wide(F64), VP(), "v", (2, 3)))
    assert text.startswith("NetworkPrior(Wide, VP(")
    assert text.endswith("'v', event (2, 3))")
