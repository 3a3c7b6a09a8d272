"""Errors told by a single run, against the spread over many, on a linear-Gaussian state-space model
whose evidence a Kalman filter knows."""

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

import smcguide as sg
from smcguide import weights
from smcguide.evidence import chan_lai, islands, lee_whiteley, olsson_douc, standard_error
from smcguide.resamplers import Multinomial, Systematic
from smcguide.testing import generator, seed, z_test
from smcguide.triggers import always, ess_below

F64 = torch.float64
NAN, INF = math.nan, math.inf


@dataclass
class Autoregression(sg.FeynmanKac):
    """x_k = rho x_{k-1} + z_k observed as y_k = x_k + noise n_k at T times, by the bootstrap filter."""

    T: int = 25
    rho: float = 0.7
    noise: float = 3.0
    event_shape = (1,)

    def __post_init__(self) -> None:
        self.num_steps = self.T - 1
        rng, x = torch.Generator().manual_seed(0), 0.0  # one data set, whatever the particles do
        z, n = torch.randn(2, self.T, generator=rng, dtype=F64).tolist()
        self.y = []
        for k in range(self.T):
            x = self.rho * x + z[k]
            self.y.append(x + self.noise * n[k])

    def weighted(self, k: int, x: Tensor) -> sg.Propagated:
        gap = (self.y[k] - x[..., 0]) / self.noise
        return sg.Propagated(x, -gap.square() / 2 - math.log(2 * math.pi * self.noise**2) / 2)

    def initial(self, shape: tuple[int, int], generator: torch.Generator) -> sg.Propagated:
        return self.weighted(0, torch.randn(*shape, 1, generator=generator, dtype=F64))

    def step(self, k: int, x: Tensor, carry: dict, generator: torch.Generator) -> sg.Propagated:
        z = torch.randn(x.shape, generator=generator, dtype=F64)
        return self.weighted(k + 1, self.rho * x + z)

    def log_evidence(self) -> float:
        """By a Kalman filter."""
        mean, variance, total = 0.0, 1.0, 0.0
        for k, y in enumerate(self.y):
            if k > 0:
                mean, variance = self.rho * mean, self.rho**2 * variance + 1
            spread = variance + self.noise**2
            total -= 0.5 * ((y - mean) ** 2 / spread + math.log(2 * math.pi * spread))
            gain = variance / spread
            mean, variance = mean + gain * (y - mean), (1 - gain) * variance
        return total


@cache
def filtered(
    resampler: sg.resamplers.Resampler, trigger: object, S: int, N: int, record: tuple = (),
    **model: float,
) -> tuple[sg.Posterior, Tensor]:  # fmt: skip
    """A run of S filters, and their Z relative to the truth."""
    model = Autoregression(**model)
    post = sg.run(
        model, num_particles=N, num_systems=S, resampler=resampler, trigger=trigger,
        seed=seed(f"{resampler!r} {trigger!r} {S} {N} {model!r}"), record=record, progress=False,
    )  # fmt: skip
    return post, torch.exp(post.log_z - model.log_evidence())


# resampler, trigger, S, N; the variance of 2500 numbers is known to 2.8 percent
MULTINOMIAL = (Multinomial(), always(), 2500, 500)
ADAPTIVE = (Multinomial(), ess_below(0.5), 2500, 250)
SYSTEMATIC = (Systematic(), ess_below(0.5), 2500, 400)


def agrees(told: Tensor, truth: Tensor) -> None:
    """Within 15 percent, on average over runs."""
    ratio = float(told.mean() / truth)
    assert 0.85 < ratio < 1.15, f"{ratio:.3f} of the true variance"


def resamplings(post: sg.Posterior) -> Tensor:
    return post.trace["resampled"].sum(1)


# ---- the evidence, from one run ------------------------------------------------------------------


def test_lee_whiteley_is_unbiased() -> None:
    """E[Z_hat^2 (1 - V)] = Z^2, exactly, for ten particles."""
    post, ratio = filtered(*MULTINOMIAL[:2], 6000, 10, T=4)
    W, eves, R = post.weights, post.eves, resamplings(post)
    assert (R == 3).all()

    def unbiased(variance: Tensor) -> None:
        z_test(ratio.square() * (1 - variance), 1.0, ceiling=0.02)

    unbiased(lee_whiteley(W, eves, R))
    for wrong in (R - 1, R + 1, -torch.ones_like(R)):  # the last: the uncorrected sum of squares
        with pytest.raises(AssertionError, match="z ="):
            unbiased(lee_whiteley(W, eves, wrong))


@pytest.mark.parametrize("run", [MULTINOMIAL, ADAPTIVE], ids=repr)
def test_lee_whiteley_is_the_variance_of_log_z(run: tuple) -> None:
    post, _ = filtered(*run)
    W, eves, R = post.weights, post.eves, resamplings(post)
    agrees(lee_whiteley(W, eves, R), post.log_z.var())
    with pytest.raises(AssertionError, match="of the true variance"):  # the sum of squares as it is
        agrees(lee_whiteley(W, eves, -torch.ones_like(R)), post.log_z.var())


def test_lee_whiteley_is_for_multinomial_resampling_only() -> None:
    post, _ = filtered(*SYSTEMATIC)
    W, eves, R = post.weights, post.eves, resamplings(post)
    with pytest.raises(AssertionError, match="of the true variance"):
        agrees(lee_whiteley(W, eves, R), post.log_z.var())
    se, _ = standard_error(post.log_z, W, eves, R, multinomial=False, replicates=False)
    agrees(se.square(), post.log_z.var())


# ---- the evidence, from islands ------------------------------------------------------------------


def test_islands_cover_the_truth() -> None:
    """400 pools of ten small filters each; 2.26 is the t-quantile of 95 percent for ten numbers."""
    _, ratio = filtered(*SYSTEMATIC[:2], 4000, 40)
    log_z, se = torch.stack([torch.stack(islands(pool)) for pool in ratio.log().view(400, 10)]).T
    z_test(log_z.exp(), 1.0, ceiling=0.02)

    def covers(error: Tensor) -> None:
        share = float((log_z.abs() < 2.26 * error).double().mean())
        assert 0.90 < share < 0.995, f"covered {share:.3f}"

    covers(se)
    for wrong in (10**0.5, 10**-0.5):  # the error of a single island; another division by its root
        with pytest.raises(AssertionError, match="covered"):
            covers(wrong * se)


@pytest.mark.parametrize(
    "log_z", [[0.3, -0.2, 1.1], [0.0, 0.0], [-800.0, 900.0, 3.0], [5.0, -INF, 4.0]], ids=str
)
def test_islands_in_figures(log_z: list[float]) -> None:
    values = torch.tensor(log_z, dtype=F64)
    without = [torch.cat([values[:s], values[s + 1 :]]) for s in range(len(values))]
    left = torch.stack([weights.log_mean_exp(v) for v in without])
    mean, se = islands(values)
    assert float(mean) == pytest.approx(float(weights.log_mean_exp(values)), rel=1e-12)
    jackknife = (len(left) - 1) * left.var(correction=0)
    assert float(se) == pytest.approx(float(jackknife.sqrt()), rel=1e-10)


@pytest.mark.parametrize("log_z", [[3.0], [0.0, -INF], [NAN, 0.0]], ids=str)
def test_one_island_tells_no_error(log_z: list[float]) -> None:
    assert islands(torch.tensor(log_z, dtype=F64))[1].isnan()


# ---- a weighted mean -----------------------------------------------------------------------------


@pytest.mark.parametrize("run", [MULTINOMIAL, SYSTEMATIC], ids=repr)
def test_chan_lai_is_the_variance_of_the_mean(run: tuple) -> None:
    post, _ = filtered(*run)
    spread = post.mean()[:, 0].var()
    agrees(chan_lai(post.x, post.weights, post.eves), spread)
    off_centre = post.weights * (post.x[..., 0] + 1.0)  # no eta taken off
    families = torch.zeros_like(off_centre).scatter_add(1, post.eves, off_centre)
    with pytest.raises(AssertionError, match="of the true variance"):
        agrees(families.square().sum(1), spread)


def test_chan_lai_sees_what_equal_ancestors_do() -> None:
    """Taken for independent, the particles miss a quarter of their variance."""
    post, _ = filtered(*MULTINOMIAL)
    own = torch.arange(post.eves.shape[1]).expand(post.eves.shape)
    with pytest.raises(AssertionError, match="of the true variance"):
        agrees(chan_lai(post.x, post.weights, own), post.mean()[:, 0].var())


@pytest.mark.parametrize("run", [MULTINOMIAL, SYSTEMATIC], ids=repr)
def test_olsson_douc_agrees_at_any_good_lag(run: tuple) -> None:
    spread = filtered(*run)[0].mean()[:, 0].var()
    post, _ = filtered(*run[:2], 300, run[3], record=("ancestors",))
    ancestors = post.recorded["ancestors"]
    three, eight, chosen = (
        olsson_douc(post.x, post.weights, ancestors, lag)[0] for lag in (3, 8, None)
    )
    for variance in (three, eight, chosen):
        agrees(variance, spread)
        assert float(variance.mean() / three.mean()) == pytest.approx(1.0, abs=0.12)
    assert (olsson_douc(post.x, post.weights, ancestors)[1] > 8).all()
    every = olsson_douc(post.x, post.weights, ancestors, 1000)
    torch.testing.assert_close(every[0], chan_lai(post.x, post.weights, post.eves))
    assert (every[1] == 24).all()


def test_a_long_run_has_one_eve_and_many_enochs() -> None:
    """Thirty particles are few: between too short and too long a lag they see 65 percent."""
    post, _ = filtered(*MULTINOMIAL[:2], 1200, 30, record=("ancestors",), T=200, rho=0.8)
    lost = post.trace["unique_eves"][:, -1] == 1
    assert lost.double().mean() > 0.9, "not in the corner"
    assert torch.equal(chan_lai(post.x, post.weights, post.eves).isnan()[:, 0], lost)
    spread = post.mean()[:, 0].var()

    def usable(lag: int | None) -> None:
        variance = olsson_douc(post.x, post.weights, post.recorded["ancestors"], lag)[0]
        assert variance.isnan().double().mean() < 0.01, "not a number of the true variance"
        ratio = float(variance.nanmean() / spread)
        assert 0.53 < ratio < 1.15, f"{ratio:.3f} of the true variance"

    for lag in (2, 3, None):
        usable(lag)
    for wrong in (0, 20, 199):  # no memory, hardly any family, none
        with pytest.raises(AssertionError, match="of the true variance"):
            usable(wrong)


# ---- figures and corners -------------------------------------------------------------------------


def example(S: int = 5, N: int = 12, K: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Values with junk in dead particles, weights, and ancestors that never choose the same numbers."""
    rng = generator("example")
    values = torch.randn(S, N, 2, 3, generator=rng, dtype=F64)
    log_w = torch.randn(S, N, generator=rng, dtype=F64)
    log_w[:, 3] = -INF
    values[:, 3] = NAN
    ancestors = torch.randint(0, N, (S, K + 1, N), generator=rng)
    ancestors[torch.rand(S, K + 1, generator=rng) < 0.5] = torch.arange(N)
    return values, weights.normalise(log_w), ancestors


def by_hand(values: Tensor, W: Tensor, ancestors: Tensor, lag: int) -> tuple[Tensor, int]:
    """The estimate of one system with loops, and its number of living families."""
    alive = [i for i in range(len(W)) if W[i] > 0]
    eta = sum(W[i] * values[i] for i in alive)
    sums: dict[int, Tensor] = {}
    for i in alive:
        j = i
        for k in range(lag):
            j = int(ancestors[-1 - k, j])
        sums[j] = sums.get(j, 0.0) + W[i] * (values[i] - eta)
    return sum(s**2 for s in sums.values()), len(sums)


@pytest.mark.parametrize("lag", [0, 1, 4, 9, 12])
def test_olsson_douc_in_figures(lag: int) -> None:
    values, W, ancestors = example()
    variance, used = olsson_douc(values, W, ancestors, lag)
    assert variance.shape == (5, 2, 3) and used.tolist() == [min(lag, 9)] * 5
    for s in range(5):
        expected, families = by_hand(values[s], W[s], ancestors[s], min(lag, 9))
        expected = expected if families > 1 else torch.full((2, 3), NAN, dtype=F64)
        torch.testing.assert_close(variance[s], expected, equal_nan=True)


def test_each_system_has_the_largest_lag_that_leaves_it_families() -> None:
    """Of twelve particles a quarter must be left, whatever happens in the other systems."""
    values, W, ancestors = example(S=40, K=15)
    variance, used = olsson_douc(values, W, ancestors)
    assert len(used.unique()) > 3, "not in the corner"
    for s in range(40):
        left = [by_hand(values[s], W[s], ancestors[s], lag)[1] for lag in range(16)]
        assert int(used[s]) == max(lag for lag in range(16) if left[lag] >= 3)
        expected, _ = by_hand(values[s], W[s], ancestors[s], int(used[s]))
        torch.testing.assert_close(variance[s], expected)


def test_values_may_be_numbers_in_single_precision() -> None:
    values, W, ancestors = example()
    eves = ancestors[:, 1]
    variance = chan_lai(values[..., 0, 0].float(), W, eves)
    assert variance.shape == (5,) and variance.dtype == F64
    torch.testing.assert_close(variance, chan_lai(values, W, eves)[:, 0, 0], rtol=1e-5, atol=0)


def test_a_negative_lag_is_refused() -> None:
    with pytest.raises(sg.InvalidInput, match="at least 0, got -1"):
        olsson_douc(*example(), lag=-1)


# ---- what a posterior says ------------------------------------------------------------------------


def test_a_posterior_knows_the_error_of_its_mean() -> None:
    """Against the spread of the mean over runs, with and without recorded ancestors."""
    from test_exactness import build

    arguments = {"num_systems": 300, "num_particles": 200, "trigger": sg.triggers.always()}
    post = sg.run(build(), progress=False, **arguments)
    told, spread = post.expect_se().square().mean(0).sqrt(), post.mean().std(0)
    torch.testing.assert_close(told, spread, rtol=0.15, atol=0.0)
    kept = sg.run(build(), record=("ancestors",), progress=False, **arguments)
    lagged = kept.expect_se(lag=3).square().mean(0).sqrt()
    torch.testing.assert_close(lagged, spread, rtol=0.15, atol=0.0)
    assert post.expect_se(lambda x: x[:, :1] ** 2).shape == (300, 1)


def test_lee_whiteley_is_not_used_where_families_were_joined_otherwise() -> None:
    from test_exactness import build

    move = sg.moves.PCN(num_moves=1, waste_free=True)
    for model, expected in [(build(), "Lee-Whiteley"), (build(move=move), "heuristic")]:
        post = sg.run(
            model, num_particles=64, resampler=sg.resamplers.Multinomial(), progress=False,
            trigger=sg.triggers.always(),
        )  # fmt: skip
        assert expected in post.log_evidence_method
