"""Calibration: exact under the null, red where a posterior lies, on problems with known posteriors.

x ~ N(0, I), y = x + s n, so that p(x | y) = N(y / (1 + s^2), s^2 / (1 + s^2) I).
"""

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

import smcguide as sg
from smcguide.diagnostics.calibration import (
    Coverage,
    Ranks,
    interval_coverage,
    k_rcps,
    quantities,
    ranks_among,
    sbc_ranks,
    simulate,
    simulate_ranks,
    tarp,
)
from smcguide.diagnostics.calibration.bands import path_p_value, simultaneous_band
from smcguide.diagnostics.calibration.hoeffding_bentkus import tail, upper_bound
from smcguide.errors import InvalidInput
from smcguide.testing import FALSE_ALARM_RATE, generator, seed
from smcguide.testing.statistics import NUM_ASSERTIONS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

F64 = torch.float64
S, D, NOISE = 300, 2, 0.5
ALARM = FALSE_ALARM_RATE / NUM_ASSERTIONS
FAILED = 1e-12  # p-value of a planted bug


def posterior_of(x, log_w=None, are_replicates=False):
    log_w = torch.zeros(x.shape[:2], dtype=F64) if log_w is None else log_w
    zeros = torch.zeros(len(x), dtype=F64)
    eves = torch.arange(x.shape[1]).expand(log_w.shape)
    trace = {"log_evidence": zeros[:, None]}
    return sg.Posterior(
        x, log_w, eves, zeros, zeros, trace, torch.zeros(1), are_replicates=are_replicates
    )


def gaussian(stream, num, num_sets=S, width=1.0, bias=0.0, weighted=False, ignore_data=False):
    """Truths, data, and `num` particles of the exact posterior or of a wrong one."""
    g = generator(stream)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=F64)  # noqa: E731
    truth = normal(num_sets, D)
    y = truth + NOISE * normal(num_sets, D)
    mean, std = y[:, None] / (1 + NOISE**2), NOISE / (1 + NOISE**2) ** 0.5
    if ignore_data:
        mean, std = 0 * mean, 1.0
    if not weighted:
        return truth, y, posterior_of(mean + bias + width * std * normal(num_sets, num, D))
    x = mean + 2 * std * normal(num_sets, num, D)  # of twice the width, and their weights
    log_q = -((x - mean) ** 2).sum(-1) / (2 * (2 * std) ** 2)
    return truth, y, posterior_of(x, -((x - mean) ** 2).sum(-1) / (2 * std**2) - log_q)


def log_likelihood(y):
    return {"log p(y|x)": lambda x: -((x - y[:, None]) ** 2).sum(-1) / (2 * NOISE**2)}


def smallest(found):
    return float(found.p_values().min())


# ---- the test itself -----------------------------------------------------------------------------


def every_rank_vector(L, n):
    return torch.tensor(list(product(range(n + 1), repeat=L)))


def test_p_values_are_exact_under_the_null():
    """All 4^4 vectors of ranks: P(p <= a) = a for every a that occurs."""
    L, n = 4, 3
    p = torch.stack([Ranks(r[:, None], n, ("x",)).p_values()[0] for r in every_rank_vector(L, n)])
    for a in p.unique():
        assert float((p <= a + 1e-12).double().mean()) == pytest.approx(float(a), abs=1e-9)
    assert float(p.min()) < 0.1 < float(p.max()) <= 1 + 1e-12


def test_bands_hold_with_their_confidence_and_are_no_wider_than_needed():
    L, n = 4, 3
    levels, low, high = Ranks(torch.zeros(L, 1, dtype=torch.int64), n, ("x",)).band(0.8)
    ecdf = (every_rank_vector(L, n)[:, None] < (levels * (n + 1))[:, None]).double().mean(-1)
    inside = ((ecdf >= low - 1e-9) & (ecdf <= high + 1e-9)).all(1).double().mean()
    assert 0.8 <= float(inside) < 0.95


def test_band_and_p_value_agree():
    levels = np.arange(1, 20) / 20
    low, high = simultaneous_band(100, levels, 0.95)
    rng = np.random.default_rng(seed("band and p-value"))
    for _ in range(50):
        counts = (rng.random(100)[:, None] < levels + rng.normal() * 0.1).sum(0)
        ecdf = counts / 100
        inside = ((ecdf >= low - 1e-9) & (ecdf <= high + 1e-9)).all()
        assert inside == (path_p_value(counts, 100, levels) > 0.05)


def test_extreme_p_values_are_small_numbers():
    ranks = Ranks(torch.full((100, 1), 9), 9, ("x",))
    assert 0 < float(ranks.p_values()) < 1e-80
    assert "p-values: x " in repr(ranks)


# ---- ranks ---------------------------------------------------------------------------------------


def test_rank_counts_the_draws_below():
    draws = torch.arange(5.0).expand(3, 5)
    found = ranks_among({"x": torch.tensor([-1.0, 1.5, 9.0])}, {"x": draws})
    assert found.ranks.flatten().tolist() == [0, 2, 5]
    assert found.num_draws == 5
    assert found.histogram(3).tolist() == [[1, 1, 1]]
    with pytest.raises(InvalidInput, match="divide"):
        found.histogram(4)


def test_ties_are_broken_at_random():
    found = ranks_among({"x": torch.zeros(500)}, {"x": torch.zeros(500, 4)}, seed("ties"))
    assert found.histogram(5).min() > 50 and smallest(found) > ALARM


def test_as_many_draws_as_particles_are_exactly_calibrated():
    """Draws with replacement would pile ranks up at both ends."""
    truth, _, post = gaussian("all particles", 19, 2000)
    found = sbc_ranks(post, truth, num_draws=19, seed=seed("all particles"))
    assert found.names == ("x[0]", "x[1]") and smallest(found) > ALARM
    sorted_x = post.x.sort(1).values
    counted = (sorted_x < truth[:, None]).sum(1)  # every particle drawn once
    assert torch.equal(counted, found.ranks)


def test_particles_of_equal_weight_are_not_drawn_twice():
    truth, _, post = gaussian("once", 25, 50)
    seen = []

    def first(x):
        seen.append(x[..., 0])
        return x[..., 0]

    sbc_ranks(post, truth, {"x[0]": first}, num_draws=19)
    assert all(len(set(draws.tolist())) == 20 for draws in seen[0])


def test_a_seed_that_made_the_data_does_no_harm():
    truth = torch.rand(500, 2, generator=torch.Generator().manual_seed(7), dtype=F64)
    tied = ranks_among({"x": torch.zeros(500)}, {"x": torch.zeros(500, 9)}, seed=7).ranks[:, 0]
    pit = quantities.pits(
        posterior_of(torch.zeros(500, 1, 2, dtype=F64)), 0 * truth, quantities.coordinates((2,)), 7
    )
    for made in (tied.double(), pit[:, 0]):
        for x in (truth[:, 0], truth.flatten()[:500]):
            assert abs(float(torch.corrcoef(torch.stack([made, x]))[0, 1])) < 0.3


def test_weighted_particles_pass_and_without_weights_fail():
    truth, y, post = gaussian("weighted", 2000, weighted=True)
    assert smallest(sbc_ranks(post, truth, num_draws=99)) > ALARM
    assert smallest(sbc_ranks(post, truth, log_likelihood(y))) > ALARM
    assert smallest(sbc_ranks(post.unweighted(), truth)) < FAILED


def test_likelihood_sees_a_posterior_that_ignores_the_data():
    truth, y, post = gaussian("prior", 99, ignore_data=True)
    assert smallest(sbc_ranks(post, truth)) > ALARM
    assert smallest(sbc_ranks(post, truth, log_likelihood(y))) < FAILED


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"width": 2.0}, {"bias": 0.3}], ids=str)
def test_wrong_widths_and_bias_fail(wrong):
    truth, _, post = gaussian("wrong", 99, **wrong)
    assert smallest(sbc_ranks(post, truth)) < FAILED
    assert smallest(interval_coverage(post, truth)) < (FAILED if "width" in wrong else 0.05)


def test_batches_concatenate_and_keep_their_seeds():
    truth, _, post = gaussian("batches", 99, 40)
    batches = [sbc_ranks(post, truth, num_draws=9, seed=k) for k in (3, 4)]
    both = Ranks.concatenate(batches)
    assert both.seeds == (3, 4) and both.ranks.shape == (80, 2)
    with pytest.raises(InvalidInput, match="same functions"):
        Ranks.concatenate([batches[0], sbc_ranks(post, truth, num_draws=19)])
    with pytest.raises(InvalidInput, match="got \\[\\]"):
        Ranks.concatenate([])


def test_arviz_finds_the_group_prior_sbc():
    truth, _, post = gaussian("arviz", 99, 40)
    groups = sbc_ranks(post, truth, num_draws=9).to_arviz()
    assert list(groups) == ["prior_sbc"] and list(groups["prior_sbc"]) == ["x[0]", "x[1]"]
    pit = groups["prior_sbc"]["x[0]"]
    assert pit.shape == (1, 40) and pit.min() >= 0 and pit.max() <= 1


# ---- simulation ----------------------------------------------------------------------------------


PRIOR = sg.priors.GaussianMixture(
    torch.tensor([0.7, 0.3]), torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=F64), scale=0.4
)
A = torch.tensor([[1.0, 1.0]], dtype=F64)
CHAIN = {"kernel": sg.kernels.DDPM(), "times": sg.grids.karras(12)}


def study(num_sets, recipe, weights=True, num_particles=64):
    """Arguments of a study whose truths are draws of the sampler's own chain."""
    levels = [PRIOR.schedule.level(float(t)) for t in sg.grids.karras(12)(PRIOR.schedule)]

    def cost(y):
        return sg.costs.LinearGaussian(A, y, 0.3, batched=True)

    def infer(y, seed):
        post = sg.sample(
            PRIOR, cost(y), num_particles=num_particles, seed=seed, progress=False, **CHAIN | recipe
        )
        return post if weights else post.unweighted()

    return {
        "draw_truth": lambda n, g: sg.draw(PRIOR, sg.kernels.DDPM(), levels, n, g),
        "measure": lambda x, g: x @ A.T + 0.3 * torch.randn(len(x), 1, generator=g, dtype=F64),
        "infer": infer, "num_sets": num_sets, "progress": False,
    }  # fmt: skip


def functions(y):
    return {
        "x[0]": lambda x: x[..., 0],
        "log p(y|x)": lambda x: -(x @ A.T - y[:, None]).square().sum(-1),
    }


def test_the_library_passes_and_guidance_without_weights_fails():
    kept = torch.get_rng_state()
    sizes = {"statistics": functions, "num_draws": 31, "batch": 100, "seed": seed("study")}
    exact = simulate_ranks(**study(200, {}), **sizes)
    assert smallest(exact) > ALARM and len(set(exact.seeds)) == 2
    guided = {"proposal": sg.proposals.Gradient(), "trigger": sg.triggers.never()}
    assert smallest(simulate_ranks(**study(200, guided, weights=False), **sizes)) < FAILED
    assert torch.equal(kept, torch.get_rng_state())


def test_batches_can_be_made_again_from_their_seeds():
    first, last = simulate(**study(5, {}), batch=3, seed=7)
    assert (len(first.y), len(last.y), first.seed) == (3, 2, 7)
    (again,) = simulate(**study(2, {}), batch=2, seed=last.seed)
    assert again.seed == last.seed
    assert torch.equal(again.posterior.x, last.posterior.x) and torch.equal(again.y, last.y)
    assert not torch.equal(first.truth[:2], last.truth)


def test_studies_of_neighbouring_seeds_share_no_data_set():
    """With seed + b batch 1 of seed 0 would be batch 0 of seed 1."""
    sizes = {"num_sets": 4, "batch": 2, "num_draws": 9}
    one, two = (simulate_ranks(**study(4, {}) | sizes | {"seed": s}) for s in (0, 1))
    assert len({*one.seeds, *two.seeds}) == 4 and one.seeds[0] == 0
    both = Ranks.concatenate([one, two])
    assert len(both.ranks) == 8
    with pytest.raises(InvalidInput, match="batches of one seed"):
        Ranks.concatenate([one, both])
    made = [s.truth for k in (0, 1) for s in simulate(**study(4, {}), batch=2, seed=k)]
    assert len({float(x[0, 0]) for x in made}) == 4


def test_sizes_of_a_study_are_whole_numbers_and_refused_before_the_first_inference():
    def never(y, seed):
        raise RuntimeError("an inference was made")

    for wrong in ({"num_sets": 1.5}, {"batch": 2.5}, {"seed": -1}, {"num_draws": 0}):
        with pytest.raises(InvalidInput, match="whole number"):
            simulate_ranks(**study(3, {}) | {"infer": never} | wrong)


def test_one_system_for_each_data_set_is_required():
    arguments = study(3, {})
    infer = arguments["infer"]
    arguments["infer"] = lambda y, seed: infer(y[:1], seed)
    with pytest.raises(InvalidInput, match="3 data sets were asked for"):
        list(simulate(**arguments))
    with pytest.raises(InvalidInput, match="at least 1"):
        simulate(**arguments | {"num_sets": 0})


# ---- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_exact_posteriors_are_on_the_diagonal(weighted):
    truth, _, post = gaussian(f"diagonal {weighted}", 500, weighted=weighted)
    for found in (
        tarp(post, truth, seed=seed("tarp")),
        interval_coverage(post, truth, seed=seed("tarp")),
    ):
        assert smallest(found) > ALARM and found.num_sets == S
        low, high = found.band(1 - ALARM)
        inside = (found.coverage >= low[:, None]) & (found.coverage <= high[:, None])
        assert bool(inside.all())
    if weighted:  # a planted bug
        assert smallest(interval_coverage(post.unweighted(), truth)) < FAILED
        assert smallest(tarp(post.unweighted(), truth)) < FAILED


def test_few_particles_leave_coverage_exact():
    truth, _, post = gaussian("few", 4, 2000)
    assert smallest(tarp(post, truth, seed=seed("few"))) > ALARM
    assert smallest(interval_coverage(post, truth, seed=seed("few"))) > ALARM


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"bias": 0.5}], ids=str)
def test_tarp_sees_overconfidence_and_bias(wrong):
    truth, _, post = gaussian("tarp, wrong", 200, **wrong)
    found = tarp(post, truth)
    assert smallest(found) < 1e-9
    assert found.names == ("tarp",) and found.coverage.shape == (19, 1)


def test_overconfident_intervals_cover_too_little():
    truth, _, post = gaussian("overconfident", 200, width=0.5)
    found = interval_coverage(post, truth, levels=(0.5, 0.9))
    low, _ = found.band()
    assert bool((found.coverage < low[:, None]).all())
    inside = 2 * float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.645 / 2))) - 1
    assert found.coverage[1].mean().item() == pytest.approx(inside, abs=0.08)


def test_references_made_from_the_data_see_that_they_are_ignored():
    truth, y, post = gaussian("tarp, prior", 200, ignore_data=True)
    assert smallest(tarp(post, truth)) > ALARM
    assert smallest(tarp(post, truth, references=y)) < FAILED
    truth, y, post = gaussian("tarp, data", 200)
    assert smallest(tarp(post, truth, references=y, seed=seed("tarp, data"))) > ALARM


def test_default_references_are_truths_of_others():
    """A set's own truth as reference would have distance 0, and rank 0."""
    truth, _, post = gaussian("others", 50, 30)
    assert float(tarp(post, truth, references=truth).coverage.min()) > 0.9
    assert float(tarp(post, truth).coverage[0]) < 0.5


def test_coverage_concatenates():
    truth, _, post = gaussian("concatenate", 50, 60)
    u = torch.rand(60, 1, generator=generator("u"), dtype=F64)
    whole = Coverage.of(u, ("u",), None)
    parts = Coverage.concatenate([Coverage.of(a, ("u",), None) for a in (u[:20], u[20:])])
    torch.testing.assert_close(parts.coverage, whole.coverage)
    assert parts.num_sets == 60
    with pytest.raises(InvalidInput, match="2 kinds"):
        Coverage.concatenate([whole, tarp(post, truth)])


def test_discrete_numbers_have_uniform_integral_transforms():
    """Particles that tie with the truth count as a random share of themselves."""
    g = generator("discrete")
    coins = torch.randint(2, (S, 21, 1), generator=g).double()
    found = interval_coverage(posterior_of(coins[:, 1:]), coins[:, 0])
    assert smallest(found) > ALARM
    all_one = interval_coverage(posterior_of(torch.ones(S, 20, 1)), torch.ones(S, 1))
    assert smallest(all_one) > ALARM


def test_scalar_events_are_calibrated_like_vectors_of_one_number():
    truth, _, post = gaussian("scalar", 30, 40)
    scalar = posterior_of(post.x[..., 0])
    vector = posterior_of(post.x[..., :1])
    for check in (tarp, interval_coverage):
        one, other = check(scalar, truth[:, 0]), check(vector, truth[:, :1])
        assert torch.equal(one.coverage, other.coverage)
    one = sbc_ranks(scalar, truth[:, 0], num_draws=9)
    assert one.names == ("x",)
    assert torch.equal(one.ranks, sbc_ranks(vector, truth[:, :1], num_draws=9).ranks)


# ---- conformal risk control ----------------------------------------------------------------------


@pytest.mark.parametrize("R", [0.05, 0.1, 0.3, 0.5])
def test_hoeffding_bentkus_covers_with_its_confidence(R):
    """Exact for losses 0 and 1: sum over the binomial."""
    n, delta = 25, 0.1
    missed = [upper_bound(k / n, n, delta) < R for k in range(n + 1)]
    assert binom.pmf(range(n + 1), n, R) @ missed <= delta
    assert upper_bound(0.0, 100, delta) < 0.05 and upper_bound(1.0, n, delta) == 1


def test_the_bentkus_bound_has_its_factor_e():
    """P(Bin(20, 1/2) <= 2) = (1 + 20 + 190) / 2^20; Hoeffding's bound is 6.4e-4."""
    assert tail(0.1, 0.5, 20) == pytest.approx(math.e * 211 / 2**20)


RISK, EPSILON, REPEATS = 0.23, 0.2, 40


def all_or_nothing(num, g):
    """With probability 0.23 every entry lies just outside: intervals without margin have risk 0.23."""
    half = torch.tensor([0.1, 0.1, 0.8, 0.8], dtype=F64).expand(num, 4)
    outside = torch.rand(num, 1, generator=g, dtype=F64) < RISK
    return -half, half, outside * 1.001 * half


def broken_promises():
    """Number of repeats whose risk, known here, is above epsilon."""
    g, broken = generator("promises"), 0
    for k in range(REPEATS):
        found = k_rcps(*all_or_nothing(60, g), num_groups=2, epsilon=EPSILON, seed=k)
        assert found.risk_bound <= EPSILON
        low, high, _ = all_or_nothing(1, g)
        is_left_out = found(low, high)[1] < 1.001 * high
        broken += RISK * float(is_left_out.double().mean()) > EPSILON
    return broken


def test_risk_is_below_epsilon_at_the_stated_confidence(monkeypatch):
    """delta = 0.1."""
    assert broken_promises() <= binom.isf(1e-6, REPEATS, 0.1)
    module = sys.modules[k_rcps.__module__]
    # a planted bug: the linear programme without the bound
    monkeypatch.setattr(module, "_shift", lambda excess, margins, misses: 0.0)
    monkeypatch.setattr(module, "upper_bound", lambda risk, n, delta: 0.0)
    without = broken_promises()
    assert without > 2 * 0.1 * REPEATS


def heterogeneous(num, g):
    """Entries whose spread differs by a factor of 20."""
    sd = torch.logspace(-1, 0.3, 12, dtype=F64)
    x = sd * torch.randn(num, 12, generator=g, dtype=F64)
    return 0 * x - 0.05, 0 * x + 0.05, x


def test_groups_make_intervals_shorter():
    g = generator("lengths")
    held_out, lengths = heterogeneous(4000, g), {}
    for K in (1, 4):
        found = k_rcps(*heterogeneous(400, g), num_groups=K)
        low, high = found(*held_out[:2])
        assert float(((held_out[2] < low) | (held_out[2] > high)).double().mean()) < 0.1
        lengths[K] = float((high - low).mean())
        assert found.groups.unique().tolist() == list(range(K))
        assert found.num_sets == (400 if K == 1 else 200)
    assert lengths[4] < 0.85 * lengths[1]


def test_groups_are_of_equal_need_wherever_the_entries_stand():
    sets = heterogeneous(400, generator("need"))
    order = torch.randperm(12, generator=generator("order"))
    found, moved = k_rcps(*sets), k_rcps(*(a[:, order] for a in sets))
    assert found.groups.tolist() == [k // 3 for k in range(12)]
    assert torch.equal(moved.groups, found.groups[order])
    torch.testing.assert_close(moved.margins, found.margins[order])


def test_intervals_of_scalars_are_controlled_like_vectors_of_one_number():
    low, high, x = (a[:, :1] for a in heterogeneous(100, generator("scalars")))
    one = k_rcps(low[:, 0], high[:, 0], x[:, 0])
    assert one.margins.shape == ()
    assert torch.equal(one.margins, k_rcps(low, high, x).margins[0])


def test_good_intervals_are_left_alone():
    _, _, x = heterogeneous(200, generator("good"))
    found = k_rcps(x - 1, x + 1, x)
    assert float(found.margins.max()) == 0 and found.risk == 0


def test_posterior_quantiles_can_be_controlled():
    truth, _, post = gaussian("quantiles", 100, width=0.5)
    low, high = post.quantile([0.05, 0.95])
    found = k_rcps(low, high, truth, num_groups=1)
    truth, _, post = gaussian("more quantiles", 100, width=0.5)
    low, high = found(*post.quantile([0.05, 0.95]))
    assert found.margins.shape == (D,) and float(found.margins.min()) > 0
    assert float(((truth < low) | (truth > high)).double().mean()) < 0.13


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_refused():
    truth, y, post = gaussian("bad", 20, 5)
    with pytest.raises(InvalidInput, match=r"truth has shape \(5, 3\); expected \(5, 2\)"):
        sbc_ranks(post, torch.zeros(5, 3), num_draws=9)
    with pytest.raises(InvalidInput, match="num_draws=21 of 20 particles"):
        sbc_ranks(post, truth, num_draws=21)
    with pytest.raises(InvalidInput, match="1 numbers not finite"):
        tarp(post, torch.where(truth == truth.max(), torch.nan, truth))
    with pytest.raises(InvalidInput, match="replicates"):
        interval_coverage(posterior_of(post.x, are_replicates=True), truth)
    with pytest.raises(InvalidInput, match="one number per event"):
        sbc_ranks(post, truth, {"mean": lambda x: x.mean()}, num_draws=9)
    with pytest.raises(InvalidInput, match="'log' is NaN"):
        interval_coverage(post, truth, {"log": lambda x: x[..., 0].log()})
    with pytest.raises(InvalidInput, match="references have shape"):
        tarp(post, truth, references=y[:1])
    with pytest.raises(InvalidInput, match="one data set"):
        tarp(posterior_of(post.x[:1]), truth[:1])
    with pytest.raises(InvalidInput, match="strictly between 0 and 1"):
        tarp(post, truth, levels=(0.5, 1.0))
    with pytest.raises(InvalidInput, match="draws have shapes"):
        ranks_among({"x": truth[:, 0]}, {"y": post.x[..., 0]})


@pytest.mark.parametrize(
    ("truth", "draws"),
    [
        (torch.zeros(1), torch.zeros(30, 9)),
        (torch.zeros(30, 1), torch.zeros(30, 9)),
        (torch.tensor(0.0), torch.zeros(30, 9)),
        (torch.zeros(30), torch.zeros(30, 0)),
        (torch.zeros(0), torch.zeros(0, 9)),
        (torch.zeros(3), torch.tensor([0.0, 1.0, torch.nan]).expand(3, 3)),
        (torch.tensor([0.0, torch.nan, 1.0]), torch.zeros(3, 9)),
        ([0.0, 1.0], [[1.0], [1.0, 2.0]]),
    ],
    ids=["L", "two axes", "no axis", "no draws", "no set", "NaN draw", "NaN truth", "ragged"],
)
def test_ranks_among_draws_of_another_shape_or_nan_are_refused(truth, draws):
    with pytest.raises(InvalidInput, match="ranks_among"):
        ranks_among({"x": truth}, {"x": draws})


def test_ranks_of_lists_and_of_names_with_other_numbers_of_sets():
    assert ranks_among({"x": [0.5]}, {"x": [[0.0, 1.0]]}).ranks.tolist() == [[1]]
    with pytest.raises(InvalidInput, match="truth have shapes"):
        ranks_among(
            {"x": torch.zeros(3), "y": torch.zeros(4)},
            {"x": torch.zeros(3, 9), "y": torch.zeros(4, 9)},
        )
    with pytest.raises(InvalidInput, match="ranks_among"):
        ranks_among({}, {})


def test_numbers_that_make_no_sense_are_refused():
    truth, _, post = gaussian("numbers", 20, 5)
    with pytest.raises(InvalidInput, match="num_draws must be a whole number"):
        sbc_ranks(post, truth, num_draws=9.5)
    ranks, coverage = sbc_ranks(post, truth, num_draws=9), tarp(post, truth)
    for confidence in (0.0, 1.0, 95, -0.5, math.nan):
        for found in (ranks, coverage):
            with pytest.raises(InvalidInput, match="confidence"):
                found.band(confidence)
    with pytest.raises(InvalidInput, match="bins must be"):
        ranks.histogram(2.5)
    low, high, x = heterogeneous(30, generator("numbers"))
    with pytest.raises(InvalidInput, match="num_groups must be"):
        k_rcps(low, high, x, num_groups=1.5)
    with pytest.raises(InvalidInput, match="none of them empty"):
        k_rcps(low[:, :0], high[:, :0], x[:, :0])


def test_dead_particles_may_hold_anything():
    truth, _, post = gaussian("dead", 50, 5)
    x, log_w = post.x.clone(), post.log_w.clone()
    x[:, 0], log_w[:, 0] = torch.nan, -math.inf
    dead = posterior_of(x, log_w)
    assert sbc_ranks(dead, truth, num_draws=20).ranks.shape == (5, 2)
    assert bool(quantities.pits(dead, truth, quantities.coordinates((D,)), 0).isfinite().all())


def test_bad_calibration_sets_are_refused():
    low, high, x = heterogeneous(30, generator("bad sets"))
    with pytest.raises(InvalidInput, match=r"15 calibration sets cannot .* at least 23"):
        k_rcps(low, high, x)
    k_rcps(low, high, x, num_groups=1)
    with pytest.raises(InvalidInput, match="lower <= upper"):
        k_rcps(high, low, x)
    with pytest.raises(InvalidInput, match="one shape"):
        k_rcps(low[:5], high, x)
    with pytest.raises(InvalidInput, match="epsilon=1"):
        k_rcps(low, high, x, epsilon=1.0)


# ---- the study of the README ---------------------------------------------------------------------


def test_the_study_tells_weights_from_no_weights(tmp_path, capsys):
    pytest.importorskip("sklearn")
    import sbc as study_of_weights

    picture = tmp_path / "sbc.png"
    study_of_weights.main(["--datasets", "30", "--problems", "mixture", "--out", str(picture)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    likelihood = [float(row[-2]) for row in rows]
    assert min(likelihood[:2]) > ALARM and max(likelihood[2:]) < 1e-6
    assert picture.stat().st_size > 10_000
