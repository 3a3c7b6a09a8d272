"""`check_prior` finds what is wrong with a prior, and keeps quiet about a right one."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import smcguide as sg
from smcguide.priors import EmpiricalPrior, GaussianMixture, NetworkPrior, PriorReport, check_prior
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow, Schedule

F64 = torch.float64
IMAGES = torch.from_numpy(load_digits().images)[:, None]  # 0 ... 16
SEEN, UNSEEN = IMAGES[:500], IMAGES[-128:]
LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
SCHEDULES: dict[str, Schedule] = {
    "VP": VP(), "Cosine": Cosine(), "DDPMTable": DDPMTable(LINEAR),
    "VE": VE(), "EDM": EDM(), "RectifiedFlow": RectifiedFlow(),
}  # fmt: skip
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def mixture(seed: int, d: int, schedule: Schedule, spread: float = 2.0) -> GaussianMixture:
    """Three components; far apart in units of their width for a large spread."""
    source = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(3, d, generator=source, dtype=F64)
    weights = 0.1 + torch.rand(3, generator=source, dtype=F64)
    return GaussianMixture(weights, means, scale=0.5, schedule=schedule)


def quiet(prior: Any, data: Tensor, seed: int = 0) -> None:
    report = check_prior(prior, data, seed=seed)
    assert report.ok, f"cried wolf about {prior!r}:\n{report}"


# ---- right priors --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0])
def test_a_right_mixture_is_fine(schedule: Schedule, spread: float) -> None:
    for seed in range(3):
        for d in (1, 2, 16):
            prior = mixture(seed, d, schedule, spread)
            data = prior.sample(256, torch.Generator().manual_seed(seed))
            quiet(prior, data, seed)
            quiet(prior, data[:16], seed)


@each
def test_a_right_density_of_digits_is_fine(schedule: Schedule) -> None:
    prior = EmpiricalPrior(SEEN / 8 - 1, 0.3, schedule=schedule)
    quiet(prior, UNSEEN / 8 - 1)
    quiet(prior, UNSEEN[:32] / 8 - 1, seed=1)
    quiet(prior, SEEN[:32] / 8 - 1, seed=2)


@each
def test_data_in_the_unit_interval_are_fine_where_the_prior_lives_there(schedule: Schedule) -> None:
    quiet(EmpiricalPrior(SEEN / 16, 0.15, schedule=schedule), UNSEEN / 16)


# ---- networks, made of the exact denoiser --------------------------------------------------------


def network(schedule: Schedule, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A perfect network for digits, with this schedule and prediction; told a table's entry or t."""
    exact = EmpiricalPrior(SEEN / 8 - 1, 0.3, schedule=schedule)

    def net(x: Tensor, time: Tensor) -> Tensor:
        t = float(time[0]) + (1 if isinstance(schedule, DDPMTable) else 0)
        level = schedule.level(min(max(t, schedule.t_min), schedule.t_max))
        D = exact.denoise(x, level.time)
        e = (x - level.alpha * D) / level.sigma
        return {
            "epsilon": e,
            "sample": D,
            "v": level.alpha * e - level.sigma * D,
            "score": -e / level.sigma,
        }[kind]

    return net


def as_prior(net: Any, schedule: Schedule, kind: Any, **more: Any) -> NetworkPrior:
    return NetworkPrior(net, schedule, kind, (1, 8, 8), dtype=F64, **more)


KINDS = ["epsilon", "sample", "v", "score"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["VP", "DDPMTable", "RectifiedFlow"])
def test_a_right_network_is_fine(kind: str, name: str) -> None:
    schedule = SCHEDULES[name]
    quiet(as_prior(network(schedule, kind), schedule, kind), UNSEEN / 8 - 1)


@pytest.mark.parametrize(("kind", "told"), list(itertools.permutations(KINDS, 2)))
@pytest.mark.parametrize("name", ["VP", "DDPMTable"])
def test_a_wrong_prediction_type_is_named(kind: str, told: str, name: str) -> None:
    prior = as_prior(network(SCHEDULES[name], kind), SCHEDULES[name], told)
    report = check_prior(prior, UNSEEN[:64] / 8 - 1)
    assert not report.ok
    assert f"works as prediction='{kind}', not '{told}'" in report.findings[0]


def cosine_table() -> DDPMTable:
    t = torch.arange(1001, dtype=F64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return DDPMTable(torch.cumprod(1 - betas, 0))


WRONG_SCHEDULES: dict[str, tuple[Schedule, Schedule]] = {
    "cosine for linear": (DDPMTable(LINEAR), cosine_table()),
    "linear for cosine": (cosine_table(), DDPMTable(LINEAR)),
    "every second entry": (DDPMTable(LINEAR), DDPMTable(LINEAR[1::2])),
    "other betas": (VP(), VP(beta_max=10.0)),
    "flow for VP": (VP(), RectifiedFlow()),
    "VP for flow": (RectifiedFlow(), VP()),
}


@pytest.mark.parametrize("name", WRONG_SCHEDULES)
def test_a_wrong_schedule_is_found(name: str) -> None:
    trained, told = WRONG_SCHEDULES[name]
    net = network(trained, "epsilon")
    report = check_prior(as_prior(net, told, "epsilon"), UNSEEN / 8 - 1)
    assert not report.ok
    assert "schedule" in report.findings[0]
    assert "works as prediction" not in str(report), "the prediction type is right"


TIME_INPUTS: dict[str, Callable[[float], float]] = {
    "in thousandths": lambda t: 1000 * t,
    "in thousands": lambda t: t / 1000,
    "from the other end": lambda t: 1 - t,
}


@pytest.mark.parametrize("name", TIME_INPUTS)
def test_a_wrong_time_input_is_found(name: str) -> None:
    prior = as_prior(network(VP(), "epsilon"), VP(), "epsilon", time_input=TIME_INPUTS[name])
    report = check_prior(prior, UNSEEN / 8 - 1)
    assert not report.ok
    assert "schedule" in report.findings[0]


def test_a_level_off_by_a_factor_is_found_and_told() -> None:
    """A network that takes its input to be four times as noisy as it is."""

    class Off(GaussianMixture):
        def denoise(self, x: Tensor, t: float) -> Tensor:
            return super().denoise(x, 4 * t)

    off = Off(torch.ones(1), torch.zeros(1, 64, dtype=F64), scale=1.0, schedule=EDM())
    data = off.sample(400)
    report = check_prior(off, data)
    assert "schedule does not fit" in report.findings[0]
    better, _ = report.findings[0].split("(better told ")[1:3]
    noise = float(report.findings[0].split("see noise ")[1].split()[0])
    assert float(better.split(")")[0]) == pytest.approx(noise / 2, rel=0.02)


# ---- data in another range -----------------------------------------------------------------------

RANGES: dict[str, tuple[Tensor, Tensor, str]] = {
    "[0, 1] for [-1, 1]": (SEEN / 8 - 1, UNSEEN / 16, "2 x - 1 (data in [0, 1], prior in [-1, 1])"),
    "[-1, 1] for [0, 1]": (SEEN / 16, UNSEEN / 8 - 1, "(x + 1) / 2 (data in [-1, 1]"),
    "bytes for [-1, 1]": (
        SEEN / 8 - 1,
        (UNSEEN * 16).clamp(max=255),
        "x / 127.5 - 1 (data in [0, 255], prior in [-1, 1])",
    ),
    "bytes for [0, 1]": (SEEN / 16, (UNSEEN * 16).clamp(max=255), "x / 255 (data in [0, 255]"),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("schedule", [VP(), DDPMTable(LINEAR), RectifiedFlow(), EDM()], ids=repr)
def test_data_in_another_range_are_found_with_the_remedy(name: str, schedule: Schedule) -> None:
    own, data, remedy = RANGES[name]
    width = 0.4 * float(own.std())
    report = check_prior(EmpiricalPrior(own, width, schedule=schedule), data)
    assert remedy in report.findings[0]
    assert "rescale data and measurement" in report.findings[0]


# ---- other things --------------------------------------------------------------------------------


def test_other_data_are_found() -> None:
    """Digits upside down in intensity."""
    report = check_prior(EmpiricalPrior(SEEN / 8 - 1, 0.3), 1 - UNSEEN / 8)
    assert not report.ok
    assert "other noise or data" in report.findings[0]


def test_a_network_of_nothing_but_nan_is_found() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        return x * math.nan

    report = check_prior(as_prior(broken, VP(), "epsilon"), UNSEEN / 8 - 1)
    assert not report.ok


BAD_DATA: dict[str, Tensor] = {
    "another event shape": torch.rand(32, 1, 8, 9),
    "without channel": torch.rand(32, 8, 8),
    "one event": torch.rand(1, 8, 8),
    "too few": torch.rand(15, 1, 8, 8),
    "none": torch.rand(0, 1, 8, 8),
    "NaN": torch.rand(32, 1, 8, 8).index_fill(0, torch.tensor([3]), math.nan),
    "infinite": torch.rand(32, 1, 8, 8).index_fill(0, torch.tensor([3]), math.inf),
    "constant": torch.ones(32, 1, 8, 8),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_unusable_data_are_refused_before_the_network(name: str) -> None:
    def unasked(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    with pytest.raises(
        sg.InvalidInput, match=r"finite examples of events \(1, 8, 8\), at least 16"
    ):
        check_prior(as_prior(unasked, VP(), "epsilon"), BAD_DATA[name])


def test_the_report_is_a_table_of_what_was_measured() -> None:
    prior = mixture(0, 16, VP())
    report = check_prior(prior, prior.sample(200), num_levels=5)
    lines = str(report).splitlines()
    assert lines[0].split() == ["noise", "error", "trivial"]
    rows = [[float(number) for number in line.split()] for line in lines[1:6]]
    for row, *expected in zip(rows, report.noise, report.error, report.trivial, strict=True):
        assert row == pytest.approx([float(e) for e in expected], rel=1e-3)
    assert lines[6:] == ["no problem found"]
    assert (report.error <= 1.05 * report.trivial).all()
    assert (report.noise.diff() > 0).all()
    broken = PriorReport(report.noise, report.error, report.trivial, ("the first", "the second"))
    assert not broken.ok
    assert str(broken).splitlines()[6:] == ["the first", "the second"]


def test_the_errors_are_those_of_a_gaussian() -> None:
    """For N(0, s^2 I) the error is s^2 lam^2 / (s^2 + lam^2), the trivial one the smaller of two."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 32, dtype=F64), scale=2.0)
    report = check_prior(prior, prior.sample(4000))
    lam2 = report.noise**2
    torch.testing.assert_close(report.error, 4 * lam2 / (4 + lam2), rtol=0.03, atol=0)
    torch.testing.assert_close(report.trivial, lam2.clamp(max=4), rtol=0.03, atol=0)
    assert float(report.noise[0]) == pytest.approx(0.02 * 2, rel=0.03)
    assert float(report.noise[-1]) == pytest.approx(20 * 2, rel=0.03)


def test_the_levels_stay_inside_the_schedule() -> None:
    prior = GaussianMixture(
        torch.ones(1), torch.zeros(1, 4, dtype=F64), scale=1.0, schedule=VE(0.5, 3.0)
    )
    report = check_prior(prior, prior.sample(200))
    assert report.ok
    assert float(report.noise[0]) == pytest.approx(0.5, rel=1e-3)
    assert float(report.noise[-1]) == pytest.approx(3.0, rel=1e-3)


def test_a_check_changes_nothing_and_repeats() -> None:
    prior = mixture(0, 4, VP())
    data, before = prior.sample(64), torch.get_rng_state()
    kept = data.clone()
    first, again = check_prior(prior, data, seed=3), check_prior(prior, data, seed=3)
    assert torch.equal(first.error, again.error)
    assert not torch.equal(first.error, check_prior(prior, data, seed=4).error)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(data, kept)
    assert prior.rehearsal is None
