"""Time grids on every schedule: decreasing, inside the schedule, and spaced as they say."""

import itertools
import math

import pytest
import torch

import smcguide as sg
from smcguide.boundary import resolve_times
from smcguide.errors import InvalidInput
from smcguide.grids import recurrent
from smcguide.priors import Prior
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow

F64 = torch.float64
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
SCHEDULES = {
    "VP": VP(),
    "Cosine": Cosine(),
    "DDPMTable": DDPMTable(TABLE),
    "zero terminal SNR": DDPMTable([*TABLE[:-1].tolist(), 0.0]),
    "VE": VE(),
    "EDM": EDM(),
    "RectifiedFlow": RectifiedFlow(),
    "VP variant": VP(beta_min=0.07, beta_max=17.0, t_min=3e-4),
    "Cosine variant": Cosine(s=0.011, t_max=0.991),
    "VE variant": VE(sigma_min=0.03, sigma_max=77.0, t_min=1e-4),
    "EDM variant": EDM(t_min=0.0071, t_max=61.3),
}
GRIDS = ["uniform", "karras", "log_snr"]
every = pytest.mark.parametrize(
    ("grid", "schedule"),
    [(getattr(sg.grids, g), s) for g, s in itertools.product(GRIDS, SCHEDULES.values())],
    ids=[f"{g} on {s}" for g, s in itertools.product(GRIDS, SCHEDULES)],
)


@every
def test_grids_decrease_from_noise_to_data(grid, schedule):
    for K in (2, 3, 5, 17, 100, 250):
        t = grid(K)(schedule)
        assert (t.shape, t.dtype) == ((K + 1,), F64)
        assert (t.diff() < 0).all()
        assert float(t[-1]) == 0.0
        assert float(t[0]) <= schedule.t_max


class StandardNormal(Prior):
    """A prior that knows its law at the noise end only."""

    event_shape, dtype, device = (2,), F64, torch.device("cpu")

    def denoise(self, x, t):
        level = self.schedule.level(t)
        return level.alpha * x / (level.alpha**2 + level.sigma**2)


def prior_on(schedule):
    prior = StandardNormal()
    prior.schedule = schedule
    return prior


@every
def test_a_model_accepts_every_grid(grid, schedule):
    for K in (2, 9, 64):
        values = resolve_times(grid(K), prior_on(schedule))
        assert len(values) == K + 1
        assert all(type(v) is float for v in values)


@every
def test_grids_begin_at_almost_pure_noise(grid, schedule):
    first = float(grid(10)(schedule)[0])
    noisiest = schedule.level(schedule.t_max)
    ratio = min(noisiest.ratio, 1e3)
    assert schedule.level(first).ratio >= ratio * (1 - 1e-6)


def test_uniform_has_equal_steps():
    t = sg.grids.uniform(8)(VP())
    torch.testing.assert_close(t.diff(), torch.full((8,), -1 / 8, dtype=F64))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_log_snr_has_equal_steps_in_log_snr_and_ends_at_t_min(schedule):
    t = sg.grids.log_snr(12)(schedule)
    steps = schedule.log_snr(t[:-1]).diff()
    torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-6, atol=1e-9)
    assert float(t[-2]) == schedule.t_min


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_karras_has_equal_steps_in_a_root_of_the_noise_ratio(schedule, rho):
    t = sg.grids.karras(12, rho=rho)(schedule)
    root = torch.exp(-schedule.log_snr(t[:-1]) / 2 / rho)
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(11), rtol=1e-5, atol=1e-9)
    assert float(t[-2]) == schedule.t_min


def test_karras_on_edm_is_the_published_formula():
    K, rho, low, high = 18, 7, 0.002, 80.0
    i = torch.arange(K, dtype=F64)
    published = (high ** (1 / rho) + i / (K - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    torch.testing.assert_close(sg.grids.karras(K)(EDM())[:-1], published, rtol=1e-10, atol=0)


def test_pure_noise_is_cut_at_a_ratio_of_a_thousand():
    t = sg.grids.karras(10)(RectifiedFlow())
    assert RectifiedFlow().level(float(t[0])).ratio == pytest.approx(1e3, rel=1e-9)


@pytest.mark.parametrize("K", [2, 7, 50, 1000])
def test_trailing_visits_whole_entries_from_the_last_one(K):
    t = sg.grids.trailing(K)(DDPMTable(TABLE))
    assert t.tolist() == t.round().tolist()
    assert (float(t[0]), float(t[-1])) == (1000.0, 0.0)
    assert (t.diff() < 0).all()
    assert float(t.diff().abs().max() - t.diff().abs().min()) <= 1
    published = torch.arange(1000, 0, -1000 / K, dtype=F64).round()
    assert t[:-1].tolist() == pytest.approx(published.tolist(), abs=1)


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=repr)
def test_trailing_refuses_schedules_without_entries(schedule):
    with pytest.raises(InvalidInput, match=r"trailing\(10\) needs a DDPMTable"):
        sg.grids.trailing(10)(schedule)


def test_trailing_refuses_more_steps_than_entries():
    with pytest.raises(InvalidInput, match=r"with at least that many entries"):
        sg.grids.trailing(4)(DDPMTable([0.9, 0.5, 0.1]))


@pytest.mark.parametrize("grid", [*GRIDS, "trailing"])
@pytest.mark.parametrize("K", [1, 0, -3])
def test_grids_refuse_fewer_than_two_steps(grid, K):
    with pytest.raises(InvalidInput, match=r"at least 2 steps, got num_steps="):
        getattr(sg.grids, grid)(K)


BAD_TIMES = {
    "increasing": [0.0, 0.5, 1.0],
    "not ending at data": [1.0, 0.5, 0.1],
    "beyond the schedule": [1.5, 0.5, 0.0],
    "repeated": [1.0, 0.5, 0.5, 0.0],
    "a single time": [0.0],
    "two-dimensional": [[1.0, 0.0]],
    "a NaN": [1.0, math.nan, 0.0],
}


@pytest.mark.parametrize("times", BAD_TIMES.values(), ids=BAD_TIMES)
def test_bad_times_are_refused(times):
    with pytest.raises(InvalidInput, match=r"strictly decreasing times, the first at most"):
        resolve_times(torch.tensor(times), prior_on(VP()))


@every
def test_recurrent_grids_travel_their_stretches_again(grid, schedule):
    once = grid(9)(schedule)
    assert torch.equal(recurrent(grid(9), repeats=1)(schedule), once)
    times = recurrent(grid(9), repeats=3)(schedule)
    values = resolve_times(times, prior_on(schedule))
    assert len(values) == 1 + 8 * 5 + 1  # eight stretches thrice, with two ways back; data once
    assert set(values) == set(once.tolist())
    middle = recurrent(grid(9), repeats=2, span=2, first=0.2, last=0.5)(schedule)
    assert int((middle.diff() > 0).sum()) == 2


@pytest.mark.parametrize("change", [{"repeats": 0}, {"span": 0}, {"first": 0.7, "last": 0.2}])
def test_bad_recurrences_are_refused(change):
    with pytest.raises(InvalidInput, match="repeats and span must be at least 1"):
        recurrent(sg.grids.karras(8), **change)
