"""Arithmetic of log-weights, against plain sums and at the corners of floating point."""

import math

import pytest
import torch

from smcguide import weights

F64 = torch.float64


def log_weights(S=3, N=7, scale=2.0):
    source = torch.Generator().manual_seed(0)
    return scale * torch.randn(S, N, generator=source, dtype=F64)


def test_log_sum_exp_and_log_mean_exp_are_sums_of_weights():
    log_w = log_weights()
    torch.testing.assert_close(weights.log_sum_exp(log_w), log_w.exp().sum(-1).log())
    torch.testing.assert_close(weights.log_mean_exp(log_w), log_w.exp().mean(-1).log())
    torch.testing.assert_close(weights.log_sum_exp(log_w, 0), log_w.exp().sum(0).log())


@pytest.mark.parametrize("shift", [-5e4, 5e4])
def test_any_scale_of_weights_is_safe(shift):
    log_w = log_weights()
    far = log_w + shift
    torch.testing.assert_close(
        weights.log_mean_exp(far), weights.log_mean_exp(log_w) + shift, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(weights.ess(far), weights.ess(log_w), rtol=1e-9, atol=0)
    torch.testing.assert_close(weights.normalise(far), weights.normalise(log_w), rtol=0, atol=1e-10)


def test_normalised_weights_are_float64_and_sum_to_one():
    W = weights.normalise(log_weights().float())
    assert W.dtype == F64
    torch.testing.assert_close(W.sum(-1), torch.ones(3, dtype=F64), rtol=0, atol=1e-15)


def test_dead_particles_count_in_the_mean_and_nowhere_else():
    log_w = log_weights()
    log_w[:, 2] = -math.inf
    alive = torch.cat([log_w[:, :2], log_w[:, 3:]], 1)
    expected = weights.log_mean_exp(alive) + math.log(6 / 7)
    torch.testing.assert_close(weights.log_mean_exp(log_w), expected)
    torch.testing.assert_close(weights.ess(log_w), weights.ess(alive))
    assert (weights.normalise(log_w)[:, 2] == 0).all()


def test_a_dead_system_has_evidence_zero_and_leaves_the_others_alone():
    log_w = log_weights(2)
    log_w[0] = -math.inf
    assert weights.log_mean_exp(log_w)[0] == -math.inf
    points = torch.linspace(0, 1, 8, dtype=F64)[:-1].repeat(2, 1)
    index = weights.inverse_cdf(log_w, points)
    assert torch.equal(index[1:], weights.inverse_cdf(log_w[1:], points[1:]))
    assert 0 <= int(index.min()) <= int(index.max()) < 7


def test_ess_is_n_for_equal_and_one_for_a_single_weight():
    equal = torch.full((1, 6), -3.0, dtype=F64)
    single = torch.full((1, 6), -math.inf, dtype=F64)
    single[0, 4] = 12.0
    assert float(weights.ess(equal)) == pytest.approx(6, rel=1e-12)
    assert float(weights.ess(single)) == pytest.approx(1, rel=1e-12)


def test_ess_is_the_squared_sum_over_the_sum_of_squares():
    log_w = log_weights()
    w = log_w.exp()
    torch.testing.assert_close(weights.ess(log_w), w.sum(-1) ** 2 / w.square().sum(-1))


def test_cess_is_its_definition():
    log_w, log_v = log_weights(), log_weights(scale=1.0).flip(1)
    W, v = weights.normalise(log_w), log_v.exp()
    expected = 7 * (W * v).sum(-1) ** 2 / (W * v**2).sum(-1)
    torch.testing.assert_close(weights.cess(log_w, log_v), expected)


def test_cess_is_ess_for_equal_and_n_for_constant_increments():
    log_w = log_weights()
    torch.testing.assert_close(weights.cess(torch.zeros_like(log_w), log_w), weights.ess(log_w))
    constant = torch.full_like(log_w, -4.0)
    torch.testing.assert_close(weights.cess(log_w, constant), torch.full((3,), 7.0, dtype=F64))


def test_inverse_cdf_is_the_first_index_above_the_point():
    log_w = torch.tensor([[0.25, 0.25, 0.5]], dtype=F64).log()
    below_one = math.nextafter(1.0, 0.0)
    points = torch.tensor([[0.0, 0.2, 0.3, 0.49, 0.51, 0.75, below_one]], dtype=F64)
    assert weights.inverse_cdf(log_w, points).tolist() == [[0, 0, 1, 1, 2, 2, 2]]


def test_inverse_cdf_never_answers_with_a_dead_particle():
    alive = torch.tensor([[False, True, False, False, True, False]])
    log_w = torch.zeros(1, 6, dtype=F64).masked_fill(~alive, -math.inf)
    points = torch.tensor([[0.0, 0.25, 0.4999, 0.5001, math.nextafter(1.0, 0.0)]], dtype=F64)
    assert weights.inverse_cdf(log_w, points).tolist() == [[1, 1, 1, 4, 4]]


def test_inverse_cdf_is_closed_where_float32_ends_below_one():
    N = 65_536
    corner = []
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        log_w = torch.randn(1, N, generator=source)
        log_w[0, -3:] = -math.inf
        end = float(torch.softmax(log_w, -1).cumsum(-1)[0, -1])
        corner += [(log_w, end)] if end < 1 else []
    assert corner, "no float32 distribution function ends below one: the corner is gone"
    for log_w, end in corner:
        points = torch.tensor([[(end + 1) / 2, math.nextafter(1.0, 0.0)]], dtype=F64)
        assert (weights.inverse_cdf(log_w, points) == N - 4).all()


def test_inverse_cdf_serves_another_number_of_points_than_particles():
    log_w = log_weights(2, 5)
    points = torch.rand(2, 400, generator=torch.Generator().manual_seed(1), dtype=F64)
    index = weights.inverse_cdf(log_w, points)
    W = weights.normalise(log_w)
    cdf = torch.cat([torch.zeros(2, 1, dtype=F64), W.cumsum(-1)], -1)
    assert index.shape == (2, 400)
    assert (cdf.gather(1, index) <= points).all()
    assert (points < cdf.gather(1, index + 1)).all()


def test_points_may_be_an_expanded_tensor():
    points = torch.linspace(0, 0.9, 4, dtype=F64)[None].expand(2, -1)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        index = weights.inverse_cdf(log_weights(2, 5), points)  # a warning would be an error
    finally:
        torch.set_warn_always(always)
    assert torch.equal(index, weights.inverse_cdf(log_weights(2, 5), points.contiguous()))


def test_summary_is_ess_and_log_mean():
    log_w = log_weights()
    log_w[1, 3] = -math.inf
    ess, log_mean = weights.summary(log_w)
    w = log_w.exp()
    torch.testing.assert_close(ess, w.sum(-1) ** 2 / w.square().sum(-1))
    torch.testing.assert_close(log_mean, weights.log_mean_exp(log_w))
    dead = weights.summary(torch.full((1, 4), -math.inf, dtype=F64))
    assert dead[0].isnan() and dead[1] == -math.inf


def test_counted_slots_belong_to_the_particle_that_covers_them():
    ends = torch.tensor([[0, 2, 2, 5], [5, 5, 5, 5], [1, 1, 3, 4]])
    assert weights.counted(ends, 5).tolist() == [[1, 1, 3, 3, 3], [0] * 5, [0, 2, 2, 3, 4]]


@pytest.mark.parametrize("num", [1, 7, 30])
def test_running_mass_counts_like_the_search_does(num):
    log_w = log_weights()
    log_w[0, [0, 6]], log_w[1, 3] = -math.inf, -math.inf
    offset = torch.tensor([[0.0], [0.37], [1 - 1e-12]], dtype=F64)
    ends = (weights.running(log_w, num) - offset).ceil()
    points = (torch.arange(num) + offset) / num
    assert torch.equal(weights.counted(ends, num), weights.inverse_cdf(log_w, points))


def test_running_mass_of_a_dead_system_is_legal():
    dead = weights.running(torch.full((1, 3), -math.inf, dtype=F64), 6)
    assert torch.equal(dead, torch.tensor([[2.0, 4.0, 6.0]], dtype=F64))


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("S", [1, 3])
def test_rank_counts_like_the_search_does(monkeypatch, S, on_cpu):
    monkeypatch.setattr(weights, "looking_is_free", lambda device: on_cpu)
    g = torch.Generator().manual_seed(S)
    points, values = (torch.rand(S, n, generator=g, dtype=F64).sort(1).values for n in (40, 90))
    values[:, -2:], points[:, -3:], points[:, 4] = 1.0, 1.0, points[:, 5]
    expected = torch.searchsorted(points, values, right=True)
    assert torch.equal(weights.rank(points, values), expected.double())
    assert weights.rank(points, values)[:, -1].tolist() == [40.0] * S


def test_a_value_of_zero_has_no_point_below_it_in_any_system():
    points = torch.tensor([[0.5], [1e-17]], dtype=F64)  # 1 + 1e-17 is 1
    values = torch.tensor([[0.2, 1.0], [0.0, 1.0]], dtype=F64)
    assert weights.rank(points, values).tolist() == [[0, 1], [0, 1]]


def test_running_sums_never_fall_where_a_parallel_sum_may(monkeypatch):
    """As on a device, whose sums may fall by a rounding where a number is 0."""
    fallen = torch.tensor([[0.5, 1.0, math.nextafter(1.0, 0.0), 1.5, 2.0]], dtype=F64)
    monkeypatch.setattr(torch.Tensor, "cumsum_", lambda self, dim: fallen.clone())
    assert not (weights.accumulated_(torch.ones(1, 5, dtype=F64), 2).diff() >= 0).all()
    monkeypatch.setattr(weights, "looking_is_free", lambda device: False)
    found = weights.accumulated_(torch.ones(1, 5, dtype=F64), 2)
    assert found.tolist() == [[0.5, 1.0, 1.0, 1.5, 2.0]]


def test_the_ess_of_equal_weights_is_their_number():
    for N in range(1, 2000):
        assert float(weights.ess(torch.full((1, N), 0.3, dtype=F64))) == N


def test_a_particle_without_weight_has_the_rank_of_the_one_before():
    values = torch.tensor([[0.0, 0.2, 0.2, 1.0, 1.0]], dtype=F64)
    found = weights.rank(torch.tensor([[0.1, 0.2, 0.9]], dtype=F64), values)
    assert found.tolist() == [[0, 2, 2, 3, 3]]
