"""Schedules: closed forms, inverses, derivatives, and tables that are refused."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from smcguide.errors import InvalidInput
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow, Schedule

F64 = torch.float64
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
TABLE = torch.cumprod(1 - BETAS, 0)
SCHEDULES = {
    "VP": VP(),
    "Cosine": Cosine(),
    "DDPMTable": DDPMTable(TABLE),
    "VE": VE(),
    "EDM": EDM(),
    "RectifiedFlow": RectifiedFlow(),
}
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def times(schedule, num=41):
    return torch.linspace(schedule.t_min, schedule.t_max, num, dtype=F64)


@each
def test_data_end_has_no_noise(schedule):
    level = schedule.level(0.0)
    assert (level.time, level.alpha, level.sigma) == (0.0, 1.0, 0.0)
    assert float(schedule.log_snr(0.0)) == math.inf


@each
def test_any_shape_goes_in_and_float64_comes_out(schedule):
    t = times(schedule, 6).reshape(2, 3)
    for f in (schedule.alpha, schedule.sigma, schedule.log_snr):
        assert f(t).shape == (2, 3)
        assert f(t).dtype == F64
        assert f(float(t[1, 1])).shape == ()
        torch.testing.assert_close(f(t)[1, 1], f(float(t[1, 1])), rtol=0, atol=0)
    assert schedule.time(schedule.log_snr(t)).shape == (2, 3)


@each
def test_log_snr_is_the_ratio_and_strictly_decreasing(schedule):
    t = times(schedule)[:-1]
    ratio = (schedule.alpha(t) / schedule.sigma(t)).square().log()
    torch.testing.assert_close(schedule.log_snr(t), ratio, rtol=1e-10, atol=1e-10)
    assert (schedule.log_snr(times(schedule)).diff() < 0).all()


@each
def test_time_is_the_inverse_of_log_snr(schedule):
    t = times(schedule)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-12)
    log_snr = torch.linspace(
        float(schedule.log_snr(schedule.t_min)), float(schedule.log_snr(t[-2])), 23, dtype=F64
    )
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)), log_snr, rtol=0, atol=1e-8)


@each
def test_level_holds_the_same_numbers_as_floats(schedule):
    t = float(times(schedule)[17])
    level = schedule.level(t)
    assert (level.alpha, level.sigma) == (float(schedule.alpha(t)), float(schedule.sigma(t)))
    assert all(type(v) is float for v in (level.time, level.alpha, level.sigma))


@each
def test_rates_are_the_derivatives(schedule):
    step = float(times(schedule)[1] - times(schedule)[0])
    for t in (times(schedule)[1:-1:7] + 0.3123 * step).tolist():
        h = 1e-5 * t
        pair = torch.tensor([t - h, t + h], dtype=F64)
        both = [f(pair) for f in (schedule.alpha, schedule.sigma)]
        expected = [float(pair.diff()) / (2 * h) for pair in both]
        assert schedule.rates(t) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), DDPMTable(TABLE)], ids=repr)
def test_variance_is_preserved(schedule):
    t = times(schedule)
    one = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    torch.testing.assert_close(one, torch.ones_like(t), rtol=0, atol=1e-12)


def test_vp_integrates_a_linear_beta():
    schedule, t = VP(beta_min=0.2, beta_max=15.0), 0.7
    grid = np.linspace(0, t, 100_001)
    B = np.trapezoid(0.2 + (15.0 - 0.2) * grid, grid)
    assert float(schedule.alpha(t)) == pytest.approx(math.exp(-B / 2), rel=1e-9)
    assert float(schedule.sigma(t)) == pytest.approx(math.sqrt(1 - math.exp(-B)), rel=1e-9)


def test_vp_keeps_its_precision_at_tiny_times():
    schedule, t = VP(), 1e-9
    assert float(schedule.sigma(t)) == pytest.approx(math.sqrt(0.1 * t), rel=1e-6)
    assert float(schedule.time(schedule.log_snr(t))) == pytest.approx(t, rel=1e-9)


def test_cosine_is_the_cosine_of_nichol_and_dhariwal():
    t, s = 0.37, 0.008
    f = [math.cos((u + s) / (1 + s) * math.pi / 2) ** 2 for u in (t, 0.0)]
    level = Cosine().level(t)
    assert level.alpha**2 == pytest.approx(f[0] / f[1], rel=1e-12)
    assert level.sigma**2 == pytest.approx(1 - f[0] / f[1], rel=1e-12)


def test_ve_is_geometric_between_its_ends():
    schedule = VE(sigma_min=0.02, sigma_max=30.0)
    assert schedule.level(1.0).sigma == pytest.approx(30.0, rel=1e-12)
    assert schedule.level(1e-12).sigma == pytest.approx(0.02, rel=1e-9)
    assert schedule.level(0.5).sigma == pytest.approx(math.sqrt(0.02 * 30.0), rel=1e-12)
    assert schedule.level(0.5).alpha == 1.0


def test_edm_time_is_the_noise_level():
    level = EDM().level(3.7)
    assert (level.alpha, level.sigma) == (1.0, 3.7)


def test_rectified_flow_is_a_straight_line():
    level = RectifiedFlow().level(0.3)
    assert (level.alpha, level.sigma) == (0.7, 0.3)
    assert RectifiedFlow().rates(0.3) == (-1.0, 1.0)


def test_table_entry_i_sits_at_time_i_plus_one():
    schedule = DDPMTable(TABLE)
    assert (schedule.t_min, schedule.t_max) == (1.0, 1000.0)
    t = torch.arange(1, 1001, dtype=F64)
    torch.testing.assert_close(schedule.alpha(t) ** 2, TABLE, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.sigma(t) ** 2, 1 - TABLE, rtol=1e-10, atol=0)


def test_log_alpha_is_linear_between_table_entries():
    schedule = DDPMTable(TABLE)
    alphas = schedule.alpha(torch.tensor([40.0, 40.25, 41.0], dtype=F64)).log()
    torch.testing.assert_close(alphas[1], 0.75 * alphas[0] + 0.25 * alphas[2])
    before_data = schedule.alpha(0.5)
    assert float(before_data) == pytest.approx(float(TABLE[0]) ** 0.25, rel=1e-12)


def test_table_may_be_a_list_or_float32():
    values = [0.9, 0.5, 0.1]
    for table in (values, torch.tensor(values, dtype=torch.float32), np.array(values)):
        assert float(DDPMTable(table).alpha(2.0)) == pytest.approx(math.sqrt(0.5), rel=1e-7)


def test_zero_terminal_snr_is_floored():
    schedule = DDPMTable([0.9, 0.5, 0.0])
    assert schedule.level(3.0).alpha == pytest.approx(2.0**-12, rel=1e-12)
    assert math.isfinite(float(schedule.log_snr(3.0)))
    assert float(schedule.time(schedule.log_snr(3.0))) == pytest.approx(3.0, rel=1e-9)


BAD_TABLES = {
    "increasing": [0.1, 0.5, 0.9],
    "constant piece": [0.9, 0.5, 0.5, 0.1],
    "starts at one": [1.0, 0.5, 0.1],
    "above one": [1.2, 0.5, 0.1],
    "negative": [0.9, 0.5, -0.1],
    "starts at zero": [0.0, -0.1],
    "a NaN": [0.9, math.nan, 0.1],
    "two-dimensional": [[0.9, 0.5], [0.4, 0.1]],
    "empty": [],
}


@pytest.mark.parametrize("table", BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables_are_refused(table):
    with pytest.raises(InvalidInput, match=r"strictly decreasing table of numbers in \[0, 1\)"):
        DDPMTable(table)


@each
def test_repr_is_short_and_names_the_class(schedule):
    assert repr(schedule).startswith(type(schedule).__name__)
    assert len(repr(schedule)) < 120


@dataclass
class Exponential(Schedule):
    """alpha = exp(-rate t)."""

    rate: float = 1.0
    t_min, t_max = 1e-3, 5.0

    def alpha(self, t):
        return torch.exp(-self.rate * torch.as_tensor(t, dtype=F64))

    def sigma(self, t):
        return torch.sqrt(1 - self.alpha(t) ** 2)

    def time(self, log_snr):
        return torch.nn.functional.softplus(-torch.as_tensor(log_snr, dtype=F64)) / (2 * self.rate)


def test_a_schedule_that_is_given_other_numbers_forgets_its_levels():
    schedule = Exponential()
    assert (
        schedule.level(1.0) is schedule.level(torch.tensor(1.0)) is schedule.level(np.float32(1.0))
    )
    schedule.rate = 2.0
    twin = copy.copy(schedule)
    twin.rate = 3.0
    levels = [s.level(1.0).alpha for s in (Exponential(), schedule, twin)]
    assert levels == pytest.approx([math.exp(-rate) for rate in (1.0, 2.0, 3.0)])
