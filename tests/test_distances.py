"""Distances between weighted samples against closed forms, brute force and SciPy."""

import math
from functools import partial

import pytest
import torch
from scipy import integrate, stats

from smcguide.diagnostics.distances import (
    SlicedWasserstein,
    beside_floor,
    c2st,
    energy_distance,
    kernel_stein,
    max_sliced_wasserstein,
    mmd,
    sliced_wasserstein,
    wasserstein_1d,
)
from smcguide.errors import InvalidInput
from smcguide.testing import generator, z_test

F64 = torch.float64
SW = partial(sliced_wasserstein, num_projections=20)
MAX_SW = partial(max_sliced_wasserstein, num_iters=10)
V_MMD = partial(mmd, bandwidths=(0.7, 2.0), unbiased=False)
W_1D = wasserstein_1d
POINT_SET = {
    "sw": SW,
    "max": MAX_SW,
    "mmd": V_MMD,
    "energy": energy_distance,
    "c2st": c2st,
    "1d": W_1D,
}


def each(table):
    return pytest.mark.parametrize("distance", table.values(), ids=table.keys())


def normal(stream, *shape):
    return torch.randn(*shape, generator=generator(stream), dtype=F64)


def counted(stream, total, num):
    """Counts (num,) of at least one that sum to `total`."""
    extra = torch.randint(num, (total - num,), generator=generator(stream))
    return 1 + torch.bincount(extra, minlength=num)


def weighted_and_replicated(stream, total=40, num=15, shape=(3,)):
    """The same measure twice: points with log-weights, and points as often as they count."""
    x, counts = normal(stream, num, *shape), counted(f"counts {stream}", total, num)
    return x, counts.double().log() + 3.0, x.repeat_interleave(counts, 0)


def mass(log_w):
    return torch.softmax(log_w, 0)


def number(a):
    return float(a) if not isinstance(a, torch.Tensor) else a.tolist()


# ---- all of them ---------------------------------------------------------------------------------


@each(POINT_SET)
def test_weights_are_counts_of_replicated_points(distance):
    x, log_w, many_x = weighted_and_replicated("weights x")
    y, log_v, many_y = weighted_and_replicated("weights y", 55, 20)
    y, many_y = y + 0.5, many_y + 0.5
    weighted = number(distance(x, y, log_w, log_v))
    assert weighted == pytest.approx(number(distance(many_x, many_y)), rel=1e-9)
    assert weighted != pytest.approx(number(distance(x, y)), rel=1e-3)  # weights matter


@each(POINT_SET | {"stein": lambda x, y, w=None, v=None: kernel_stein(x, -x, w)})
def test_the_dead_may_hold_anything(distance):
    x, y, log_w = normal("dead x", 12, 3), normal("dead y", 10, 3), normal("dead w", 12)
    x[[2, 7]], log_w[[2, 7]] = torch.nan, -math.inf
    alive = log_w > -math.inf
    expected = number(distance(x[alive], y, log_w[alive], None))
    assert number(distance(x, y, log_w, None)) == pytest.approx(expected, rel=1e-12)


@each(POINT_SET)
def test_the_global_stream_is_left_alone_and_the_seed_decides(distance):
    x, y = normal("seed x", 20, 2), normal("seed y", 25, 2)
    before = torch.get_rng_state()
    first, again = (number(distance(x, y)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again


@each(POINT_SET)
def test_any_dtype_and_event_shape_is_welcome(distance):
    x, y = normal("dtype x", 20, 2, 2), normal("dtype y", 25, 2, 2)
    exact = torch.as_tensor(number(distance(x, y)))
    rough = torch.as_tensor(number(distance(x.float().requires_grad_(), y.float())))
    torch.testing.assert_close(rough, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("distance", [V_MMD, partial(V_MMD, unbiased=True), energy_distance])
def test_chunks_change_nothing(distance):
    x, y, log_w = normal("chunk x", 17, 3), normal("chunk y", 21, 3), normal("chunk w", 17)
    whole = float(distance(x, y, log_w))
    assert float(distance(x, y, log_w, chunk_size=5)) == pytest.approx(whole, rel=1e-12)


BAD = {
    "events of another shape": (torch.ones(4, 3), torch.ones(5, 2), None, "shape"),
    "no samples": (torch.ones(0, 3), torch.ones(5, 3), None, "n >= 1"),
    "empty events": (torch.ones(4, 0), torch.ones(5, 0), None, "n >= 1"),
    "a number": (torch.tensor(1.0), torch.ones(5), None, "n >= 1"),
    "no tensor": ([1.0, 2.0], torch.ones(5), None, "list"),
    "NaN": (torch.tensor([[1.0], [math.nan]]), torch.ones(5, 1), None, "1 of the 2 samples of x"),
    "infinity": (torch.tensor([[1.0], [math.inf]]), torch.ones(5, 1), None, "not finite"),
    "weights of another length": (torch.ones(4, 3), torch.ones(5, 3), torch.zeros(5), r"\(4,\)"),
    "weights of two systems": (torch.ones(4, 3), torch.ones(5, 3), torch.zeros(2, 4), "one system"),
    "NaN weights": (torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, math.nan]), "NaN"),
    "infinite weights": (
        torch.ones(2, 3),
        torch.ones(5, 3),
        torch.tensor([0, math.inf]),
        "infinity",
    ),
    "no weight": (torch.ones(2, 3), torch.ones(5, 3), torch.tensor([-math.inf] * 2), "all -inf"),
}


@each(POINT_SET)
@pytest.mark.parametrize("case", BAD)
def test_bad_samples_are_refused(distance, case):
    x, y, log_w, said = BAD[case]
    with pytest.raises(InvalidInput, match=said):
        distance(x, y, log_w)


X = torch.arange(24.0).reshape(12, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sliced_wasserstein(X, X, num_projections=-3),
        lambda: sliced_wasserstein(X, X, chunk_size=0),
        lambda: max_sliced_wasserstein(X, X, num_starts=0),
        lambda: max_sliced_wasserstein(X, X, num_iters=-1),
        lambda: mmd(X, X, bandwidths=(1.0, -1.0)),
        lambda: mmd(X, X, bandwidths=()),
        lambda: mmd(X, X, num_permutations=-1),
        lambda: mmd(X, X, torch.arange(12.0), num_permutations=9),
        lambda: mmd(X[:1], X),
        lambda: mmd(X, X, torch.tensor([0.0] + 11 * [-math.inf])),
        lambda: energy_distance(X, X, chunk_size=-1),
        lambda: c2st(X, X, num_folds=1),
        lambda: c2st(X, X[:3]),
        lambda: kernel_stein(X, X, length=0.0),
        lambda: kernel_stein(X, X[:, :1]),
        lambda: kernel_stein(X, X * math.nan),
        lambda: kernel_stein(X[:1], X[:1]),
        lambda: beside_floor(SW, X, X, num_repeats=1),
        lambda: beside_floor(SW, X, X[:-1].repeat(2, 1)),
        lambda: wasserstein_1d(X, X, order=math.inf),
        lambda: beside_floor(SW, X, lambda num, generator: X[:1]),
        lambda: beside_floor(SW, X, lambda num, generator: None),
        lambda: mmd(X, X, bandwidths=1.0),
        lambda: mmd(X, X, num_permutations=9.5),
        lambda: sliced_wasserstein(X, X, num_projections=20.5),
        lambda: c2st(X, X, num_folds=2.5),
        lambda: beside_floor(SW, X, X.repeat(2, 1), num_repeats=2.5),
        lambda: max_sliced_wasserstein(X, X, num_starts=1.5),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(InvalidInput, match=r"must|needs?|finite"):
        call()


# ---- on the line ---------------------------------------------------------------------------------


def test_wasserstein_1_is_scipys():
    x, y, log_w, log_v = (normal(f"w1 {i}", n) for i, n in enumerate((30, 41, 30, 41)))
    expected = stats.wasserstein_distance(x, y, mass(log_w), mass(log_v))
    assert float(wasserstein_1d(x, y, log_w, log_v, order=1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3.5])
def test_weighted_wasserstein_matches_sorted_replicates(order):
    x, log_w, many_x = weighted_and_replicated("line x", 60, 11, (4,))
    y, log_v, many_y = weighted_and_replicated("line y", 60, 23, (4,))
    gap = many_x.sort(0).values - many_y.sort(0).values
    expected = gap.abs().pow(order).mean(0).pow(1 / order)
    torch.testing.assert_close(wasserstein_1d(x, y, log_w, log_v, order=order), expected)


def test_quantile_functions_meet_at_ties_and_at_the_ends():
    x, y = torch.tensor([0.0, 1.0, 2.0], dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    log_w = torch.tensor([0.5, 0.0, 0.5], dtype=F64).log()
    assert float(wasserstein_1d(x, y, log_w)) == 0
    assert float(wasserstein_1d(x, y)) == pytest.approx(
        (2 / 6) ** 0.5
    )  # each half of the middle goes 1


# ---- sliced --------------------------------------------------------------------------------------


def test_a_shift_is_the_lower_bound_and_leaves_no_variance():
    x, shift, log_w = normal("shift", 50, 6), normal("by", 6), normal("shift w", 50)
    result = sliced_wasserstein(x, x + shift, log_w, log_w, num_projections=30)
    assert result.squared == pytest.approx(float(shift.square().sum()) / 6, rel=1e-12)
    assert result.standard_error < 1e-9
    assert result.variance_ratio < 1e-12


def test_a_scaling_is_in_the_span_of_the_bounds():
    x, log_w = normal("scaling", 50, 6), normal("scaling w", 50)
    x = x - mass(log_w) @ x
    trace = float(mass(log_w) @ x.square().sum(1))
    result = sliced_wasserstein(x, 3 * x, log_w, log_w, num_projections=30)
    assert result.squared == pytest.approx(4 * trace / 6, rel=1e-10)
    assert result.variance_ratio < 1e-12


def test_sliced_distance_of_gaussians():
    std = torch.tensor([2.0, 1.0], dtype=F64)
    shift = torch.tensor([0.5, -1.0], dtype=F64)
    x, y = std * normal("gauss x", 20_000, 2), shift + normal("gauss y", 20_000, 2)

    def squared(angle):
        c, s = math.cos(angle), math.sin(angle)
        return (0.5 * c - s) ** 2 + (math.sqrt(4 * c**2 + s**2) - 1) ** 2

    expected = integrate.quad(squared, 0, math.pi)[0] / math.pi
    found = sliced_wasserstein(x, y, num_projections=40)
    assert found.squared == pytest.approx(expected, rel=0.05)  # n makes 2 %
    assert found.variance_ratio < 0.1


def groups_of_ten(num=1000):
    """Per-projection values and controls of two very different clouds, in groups of ten projections,
    and SW^2 from many more projections."""
    x = normal("groups x", 30, 6)
    y = normal("groups y", 30, 6) * torch.tensor([8, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=F64)
    many = partial(sliced_wasserstein, x, y, chunk_size=2000)
    few, truth = many(num_projections=10 * num), many(num_projections=40_000, seed=1)
    return few.values.reshape(num, 10), few.controls.reshape(num, 10, 2), truth


def test_the_estimate_is_unbiased_over_projections():
    values, controls, truth = groups_of_ten()
    pairs = zip(values, controls, strict=True)
    check = partial(z_test, truth=truth.squared, truth_se=truth.standard_error, ceiling=0.05)
    check(torch.tensor([SlicedWasserstein(v, c).squared for v, c in pairs]))
    # planted: coefficients from the same projections
    design = torch.cat([torch.ones_like(controls[..., :1]), controls], -1)
    naive = torch.linalg.lstsq(design, values[..., None]).solution[:, 0, 0]
    with pytest.raises(AssertionError, match="z ="):
        check(naive)


def test_controls_have_no_mean():
    x, y, log_w = normal("zero x", 30, 3), 2 * normal("zero y", 40, 3) + 1, normal("zero w", 30)
    found = sliced_wasserstein(x, y, log_w, num_projections=5000, chunk_size=1000)
    scale = found.values.mean()
    z_test(found.controls / scale, 0.0, ceiling=0.02)


def test_the_standard_error_is_the_spread_over_projections():
    x, y, log_w = normal("se x", 30, 3), normal("se y", 40, 3).exp(), normal("se w", 30)
    runs = [sliced_wasserstein(x, y, log_w, num_projections=50, seed=s) for s in range(200)]
    spread = torch.tensor([r.squared for r in runs]).std()
    told = torch.tensor([r.standard_error for r in runs]).square().mean().sqrt()
    assert 0.75 < float(told / spread) < 1.3
    plain = torch.tensor([r.plain for r in runs]).std()
    ratio = torch.tensor([r.variance_ratio for r in runs]).mean()
    assert 0.6 < float(ratio / (spread / plain) ** 2) < 1.6
    assert ratio < 0.5


def test_leaving_one_out_is_fitting_without_it():
    found = sliced_wasserstein(
        normal("loo x", 20, 4), normal("loo y", 20, 4) * 2, num_projections=12
    )
    design = torch.cat([torch.ones(12, 1, dtype=F64), found.controls], 1)
    for i in range(12):
        rest = torch.arange(12) != i
        a = torch.linalg.lstsq(design[rest], found.values[rest, None]).solution[1:, 0]
        expected = found.values[i] - a @ found.controls[i]
        assert float(found.corrected[i]) == pytest.approx(float(expected), rel=1e-8)


def test_one_dimension_has_no_directions():
    x, y = normal("one x", 20, 1), normal("one y", 30, 1)
    found = sliced_wasserstein(x, y)
    assert found.squared == pytest.approx(float(wasserstein_1d(x, y)) ** 2, rel=1e-9)
    assert found.standard_error < 1e-9


def test_a_few_projections_at_a_time_are_the_same():
    x, y = normal("few x", 20, 3), normal("few y", 30, 3)
    torch.testing.assert_close(SW(x, y, chunk_size=7).corrected, SW(x, y).corrected)


# ---- max-sliced ----------------------------------------------------------------------------------


def test_the_largest_distance_of_a_shift_is_its_length():
    x, shift = normal("max shift", 40, 2, 3), normal("max by", 2, 3)
    found = max_sliced_wasserstein(x, x + shift, num_iters=100)
    assert found.distance == pytest.approx(float(shift.norm()), rel=1e-6)
    cosine = (found.direction * shift).sum() / shift.norm()
    assert float(cosine.abs()) == pytest.approx(1, abs=1e-6)


def test_the_largest_distance_in_the_plane_is_that_of_a_search():
    x, y, log_w = normal("plane x", 25, 2), normal("plane y", 30, 2), normal("plane w", 25)
    y = y * torch.tensor([2.0, 0.5], dtype=F64)
    angle = torch.arange(4000, dtype=F64) * math.pi / 4000
    theta = torch.stack([angle.cos(), angle.sin()])
    best = float(wasserstein_1d(x @ theta, y @ theta, log_w).max())
    found = max_sliced_wasserstein(x, y, log_w)
    assert best * (1 - 1e-6) <= found.distance <= best * (1 + 1e-3)  # kinks between the angles
    again = wasserstein_1d(x @ found.direction, y @ found.direction, log_w)
    assert found.distance == pytest.approx(float(again), rel=1e-12)


# ---- kernels -------------------------------------------------------------------------------------


def test_mmd_of_gaussians_is_unbiased_with_any_weights():
    d, b, shift, log_w = 3, 1.3, 0.8, 1.5 * normal("mmd w", 25)

    def similarity(gap2):
        return (b**2 / (b**2 + 2)) ** (d / 2) * math.exp(-gap2 / (2 * (b**2 + 2)))

    truth = 2 * similarity(0) - 2 * similarity(d * shift**2)
    x, y = normal("mmd x", 300, 25, d), normal("mmd y", 300, 20, d) + shift

    def estimates(unbiased):
        each = [
            mmd(a, c, log_w, bandwidths=[b], unbiased=unbiased) for a, c in zip(x, y, strict=True)
        ]
        return torch.tensor([e.squared for e in each], dtype=F64)

    z_test(estimates(True), truth, ceiling=0.03)
    with pytest.raises(AssertionError, match="z ="):  # planted: i = j left in
        z_test(estimates(False), truth, ceiling=0.03)


def test_the_bandwidth_is_the_median_distance():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [4.0]])  # distances 1 1 4 0 3 3
    assert mmd(x, y).bandwidths == (1.5, 3.0, 6.0)
    heavy = mmd(torch.tensor([[0.0], [9.0]]), y, torch.tensor([0.0, -30.0])).bandwidths
    assert heavy == (0.5, 1.0, 2.0) or heavy == (1.5, 3.0, 6.0)  # of 0, 1 and 4, not of 9


def test_permutations_count_labellings_that_are_as_far_apart():
    x, y = normal("perm x", 9, 2), normal("perm y", 7, 2) + 0.4
    found = mmd(x, y, bandwidths=[1.0], num_permutations=50, chunk_size=4, seed=3)
    pooled, g = torch.cat([x, y]), torch.Generator().manual_seed(3)
    other = []
    for _ in range(50):
        is_x = torch.randperm(16, generator=g) < 9
        other.append(mmd(pooled[is_x], pooled[~is_x], bandwidths=[1.0]).squared)
    expected = (1 + sum(v >= found.squared for v in other)) / 51
    assert found.p_value == pytest.approx(expected, rel=1e-12)
    assert 1 / 51 < found.p_value < 1  # in the corner where it could be off
    assert mmd(x, y + 5, num_permutations=50).p_value == pytest.approx(1 / 51)


def test_energy_distance_is_scipys():
    x, y, log_w, log_v = (normal(f"energy {i}", n) for i, n in enumerate((30, 41, 30, 41)))
    expected = stats.energy_distance(x, y, mass(log_w), mass(log_v))
    assert energy_distance(x, y, log_w, log_v) == pytest.approx(expected, rel=1e-10)
    assert energy_distance(x, x, log_w, log_w) == pytest.approx(0, abs=1e-7)


def test_energy_distance_in_space_is_its_definition():
    x, y, log_w = normal("space x", 8, 3), normal("space y", 9, 3), normal("space w", 8)
    W, V = mass(log_w), torch.full((9,), 1 / 9, dtype=F64)

    def mean_gap(a, A, b, B):
        return sum(A[i] * B[j] * (p - q).norm() for i, p in enumerate(a) for j, q in enumerate(b))

    expected = 2 * mean_gap(x, W, y, V) - mean_gap(x, W, x, W) - mean_gap(y, V, y, V)
    assert energy_distance(x, y, log_w) ** 2 == pytest.approx(float(expected), rel=1e-10)


# ---- Stein ---------------------------------------------------------------------------------------


def stein_kernel(x, y, score, length):
    """k_0 of two points by automatic differentiation."""

    def k(x, y):
        return (1 + (x - y).square().sum() / length**2) ** -0.5

    def d_y(x, y):
        return torch.func.grad(k, 1)(x, y)

    mixed = torch.func.jacrev(d_y, 0)(x, y).trace()
    pull = score(x) @ d_y(x, y) + score(y) @ torch.func.grad(k, 0)(x, y)
    return mixed + pull + k(x, y) * (score(x) @ score(y))


@pytest.mark.parametrize("length", [1.0, 2.5])
def test_stein_discrepancy_is_its_definition(length):
    x, log_w = normal("stein", 6, 3) + 2, normal("stein w", 6)
    W = mass(log_w)
    K = torch.stack([torch.stack([stein_kernel(a, b, torch.cos, length) for b in x]) for a in x])
    call = partial(kernel_stein, x, x.cos(), log_w, length=length)
    assert call(unbiased=False) == pytest.approx(float(W @ K @ W), rel=1e-9)
    off = K - torch.diag(K.diagonal())
    assert call() == pytest.approx(float(W @ off @ W / (1 - W @ W)), rel=1e-9)
    assert call(chunk_size=4) == pytest.approx(call(), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_stein_discrepancy_of_shifted_gaussians(shift):
    """Zero at the target; else |shift|^2 E (1 + |x - y|^2 / l^2)^(-1/2), |x - y|^2 / 2 chi-square."""
    d, length, log_w = 3, 1.5, normal("shifted w", 30)

    def integrand(r2):
        return (1 + 2 * r2 / length**2) ** -0.5 * stats.chi2.pdf(r2, d)

    truth = d * shift**2 * integrate.quad(integrand, 0, math.inf)[0]
    x = normal("shifted x", 300, 30, d) + shift
    found = {
        u: torch.tensor(
            [kernel_stein(a, -a, log_w, length=length, unbiased=u) for a in x], dtype=F64
        )
        for u in (True, False)
    }
    z_test(found[True], truth, ceiling=0.06)
    assert (found[False] > 0).all()
    with pytest.raises(AssertionError, match="z ="):  # planted: i = j left in
        z_test(found[False], truth, ceiling=0.1)


# ---- classifier ----------------------------------------------------------------------------------


def test_a_classifier_cannot_tell_equal_laws_apart():
    found = c2st(normal("equal x", 300, 2), normal("equal y", 200, 2))
    assert abs(found.accuracy - 0.5) < 5 * found.standard_error
    assert found.standard_error == pytest.approx(0.5 * (1 / 300 + 1 / 200) ** 0.5 / 2, rel=0.05)


def test_a_classifier_tells_shifted_gaussians_apart_as_far_as_they_are():
    x, y = normal("class x", 400, 2), normal("class y", 300, 2)
    shift = torch.tensor([2.0, 0.0], dtype=F64)
    best = stats.norm.cdf(1.0)
    assert c2st(x, y + shift).accuracy == pytest.approx(best, abs=0.06)
    assert c2st(x, y + 20 * shift).accuracy == pytest.approx(1, abs=1e-9)


def test_a_classifier_sees_importance_weights():
    x, y = 1.8 * normal("broad", 400, 2), normal("target", 400, 2)
    log_w = (x / 1.8).square().sum(1) / 2 - x.square().sum(1) / 2
    assert c2st(x, y).accuracy > 0.6
    assert c2st(x, y, log_w).accuracy < 0.57


def test_copies_do_not_give_a_classifier_away():
    x, y = normal("copies", 60, 8).repeat_interleave(5, 0), normal("no copies", 300, 8)
    assert c2st(x, y).accuracy < 0.65  # 1 if copies were in several folds


# ---- floor ---------------------------------------------------------------------------------------


def exact(num, g):
    return torch.randn(num, 2, generator=g, dtype=F64)


@pytest.mark.parametrize("weighted", [False, True])
def test_exact_samples_are_on_the_floor(weighted):
    log_w = 1.5 * normal("floor w", 40) if weighted else None
    p = [
        beside_floor(
            energy_distance, normal(f"floor {i}", 40, 2), exact, log_w, num_repeats=19, seed=i
        )
        for i in range(100)
    ]
    p = [found.p_value for found in p]
    z_test(torch.tensor(p), 21 / 40, ceiling=0.04)  # uniform on 1/20, ..., 1
    assert stats.kstest(p, "uniform").pvalue > 1e-6


def test_other_samples_are_above_the_floor():
    found = beside_floor(energy_distance, normal("above", 80, 2) + 1, exact, seed=1)
    assert found.sds_above > 5
    assert found.p_value == pytest.approx(1 / 21)
    low, high = found.band
    assert 0 < low < high < found.value
    assert str(found) == f"{found.value:.3g} (floor {low:.3g} to {high:.3g})"


def test_uneven_weights_raise_the_floor():
    x, log_w = normal("uneven", 100, 2), 2 * normal("uneven w", 100)
    even, uneven = (beside_floor(SW, x, exact, w) for w in (None, log_w))
    assert float(uneven.floor.mean()) > 1.25 * float(even.floor.mean())


def test_given_exact_samples_are_split():
    pool = normal("pool", 300, 2)
    sizes = []

    def distance(x, y, log_w):
        sizes.append((len(x), len(y)))
        assert not (x[:, None] == y).all(-1).any()
        return energy_distance(x, y, log_w)

    found = beside_floor(distance, normal("of pool", 100, 2), pool, num_repeats=10)
    assert set(sizes) == {(100, 200)}
    assert abs(found.sds_above) < 6
    assert len(found.floor.unique()) == 10


def test_a_floor_without_spread_is_no_division_by_zero():
    constant = beside_floor(lambda x, y, log_w: 1.0, X, X.repeat(2, 1))
    assert constant.sds_above == 0
    assert constant.p_value == 1


# ---- points of both sides ------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["the same sample", "of the same atoms"])
def test_points_of_both_sides_are_not_told_apart(same):
    """A network that has seen a point on the other side would say that side."""
    found = []
    for i in range(4):
        atoms, generate = normal(f"atoms {i}", 40, 2), generator(f"atom choice {i}")
        x, y = (atoms[torch.randint(40, (200,), generator=generate)] for _ in range(2))
        found.append(c2st(x, x if same else y, seed=i).accuracy)
    assert found == pytest.approx([0.5] * 4, abs=0.1)


@pytest.mark.parametrize("heavy", [False, True], ids=["even", "one heavy point"])
@pytest.mark.parametrize("sizes", [(20, 200), (200, 20)])
def test_each_side_has_half_of_the_mass(sizes, heavy):
    """x lives where three tenths of y live, so 0.85 = 1/2 + 7/20 is best, by saying x there. Counted by
    points, or trained without the heavy point and without its mass, networks would say y."""
    n, m = sizes
    x, y = (
        0.1 * normal(f"half {side} {sizes}", num, 2) for side, num in zip("xy", sizes, strict=True)
    )
    y[3 * m // 10 :] += 5
    log_w = torch.zeros(n, dtype=F64)
    log_w[0] = math.log(9 * (n - 1)) if heavy else 0.0  # nine tenths
    found = [c2st(x, y, log_w, seed=i).accuracy for i in range(3)]
    assert found == pytest.approx([0.85] * 3, abs=0.06)
