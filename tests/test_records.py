"""The records: densities in closed form, and one gather for every field."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from smcguide.gaussian import Gaussian
from smcguide.records import Level, Look, Particles
from smcguide.rehearsal import Moments
from smcguide.sums import row_sums

F64 = torch.float64
SHAPE = (2, 3, 4, 2)


def randn(*shape, seed=0, dtype=F64):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=dtype)


def positive(*shape, seed):
    return randn(*shape, seed=seed).exp()


STDS = {
    "equal floats": (0.3, 0.3),
    "different floats": (0.3, 0.7),
    "tensors per coordinate": (positive(4, 2, seed=5), positive(4, 2, seed=6)),
    "tensors per particle": (positive(2, 3, 1, 1, seed=7), positive(*SHAPE, seed=8)),
    "tensor base, float proposal": (positive(*SHAPE, seed=9), 0.7),
    "float base, tensor proposal": (0.3, positive(*SHAPE, seed=9)),
    "equal tensors": (positive(4, 2, seed=5), positive(4, 2, seed=5)),
    "the same tensor": (positive(4, 2, seed=5),) * 2,
}


def density(law, x):
    return Normal(law.mean, torch.as_tensor(law.std, dtype=x.dtype)).log_prob(x).flatten(2).sum(-1)


@pytest.mark.parametrize("case", STDS)
def test_log_ratio_is_the_difference_of_log_densities(case):
    std_p, std_q = STDS[case]
    p = Gaussian(randn(*SHAPE, seed=1), std_p)
    q = Gaussian(randn(*SHAPE, seed=2), std_q)
    z = randn(*SHAPE, seed=3)
    x = q.sample(z)
    ratio = p.log_ratio(q, z)
    assert ratio.dtype == F64
    torch.testing.assert_close(ratio, density(p, x) - density(q, x), rtol=1e-10, atol=1e-10)
    both = p.compared(q, z)
    torch.testing.assert_close(both, (ratio, q.kl(p)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("trust", [math.inf, 1.5, 100.0])
@pytest.mark.parametrize("times", [1.0, -0.2, positive(*SHAPE, seed=4)], ids=["1", "-0.2", "tensor"])
@pytest.mark.parametrize("std", [0.3, positive(4, 2, seed=5)], ids=["float", "tensor"])
def test_what_was_moved_has_the_ratio_of_any_two_kernels(std, times, trust):
    p, z = Gaussian(randn(*SHAPE, seed=1), std), randn(*SHAPE, seed=3)
    delta = randn(*SHAPE, seed=2)
    q = p.moved(delta, trust, times)
    assert (q.shift is not None) == isinstance(std, float)
    plain = Gaussian(q.mean, std)
    assert torch.allclose(plain.mean, p.mean + times * delta) == (trust != 1.5)
    for got, exact in zip(p.compared(q, z), p.compared(plain, z), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-10)


def test_what_is_changed_after_a_move_forgets_how_it_was_moved():
    p, z = Gaussian(randn(*SHAPE, seed=1), 0.3), randn(*SHAPE, seed=3)
    moved = p.moved(randn(*SHAPE, seed=2), 2.0)
    elsewhere = dataclasses.replace(moved, mean=moved.mean + 1)
    exact = p.compared(Gaussian(elsewhere.mean, 0.3), z)
    torch.testing.assert_close(p.compared(elsewhere, z), exact)
    other = Gaussian(p.mean + 1, 0.3)  # not the kernel that was moved
    torch.testing.assert_close(other.compared(moved, z), other.compared(Gaussian(moved.mean, 0.3), z))
    moved.mean[:, 0] += 1  # in place, behind its back
    torch.testing.assert_close(p.compared(moved, z), p.compared(Gaussian(moved.mean, 0.3), z))
    delta = randn(*SHAPE, seed=2)
    moved = p.moved(delta)
    delta.zero_()
    torch.testing.assert_close(p.compared(moved, z), p.compared(Gaussian(moved.mean, 0.3), z))
    wider = dataclasses.replace(moved, std=0.4)
    x = wider.sample(z)
    torch.testing.assert_close(p.log_ratio(wider, z), density(p, x) - density(wider, x))


def test_a_kernel_without_noise_moves_only_where_nothing_is_to_be_trusted():
    p, delta = Gaussian(randn(*SHAPE, seed=1), 0.0), randn(*SHAPE, seed=2)
    assert torch.equal(p.moved(delta, 2.0).mean, p.mean)
    torch.testing.assert_close(p.moved(delta).mean, p.mean + delta)
    partly = Gaussian(p.mean, torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(partly.moved(delta).mean, p.mean + delta)


def test_in_inference_mode_a_move_is_not_trusted_and_right():
    with torch.inference_mode():
        p, z = Gaussian(randn(*SHAPE, seed=1), 0.3), randn(*SHAPE, seed=3)
        moved = p.moved(randn(*SHAPE, seed=2), 2.0)
        both = p.compared(moved, z), p.compared(Gaussian(moved.mean, 0.3), z)
        torch.testing.assert_close(*both)


def test_log_ratio_of_a_kernel_with_itself_is_exactly_zero():
    for std in (0.3, positive(4, 2, seed=5)):
        p = Gaussian(randn(*SHAPE, seed=1), std)
        assert (p.log_ratio(p, randn(*SHAPE, seed=3)) == 0).all()


def test_log_ratio_of_diracs_is_zero():
    p = Gaussian(randn(*SHAPE), 0.0)
    assert p.is_dirac
    assert torch.equal(p.log_ratio(p, randn(*SHAPE, seed=3)), torch.zeros(2, 3, dtype=F64))


def test_log_ratio_in_float32_where_a_difference_of_densities_fails():
    std = 2.0**-12
    mean = 1e3 + randn(*SHAPE, seed=1, dtype=torch.float32)
    p, q = Gaussian(mean, std), Gaussian(mean + std, std)
    z = randn(*SHAPE, seed=3, dtype=torch.float32)
    d = (q.mean.double() - p.mean.double()) / std
    exact = -(d * z.double() + d**2 / 2).flatten(2).sum(-1)
    naive = density(p, q.sample(z)) - density(q, q.sample(z))
    assert float((naive - exact).abs().max()) > 0.1, "not in the corner"
    torch.testing.assert_close(p.log_ratio(q, z), exact, rtol=1e-5, atol=1e-5)


def test_log_ratio_of_a_particle_looks_at_that_particle_only():
    p, q, z = Gaussian(randn(*SHAPE), 0.5), Gaussian(randn(*SHAPE, seed=1), 0.5), randn(*SHAPE)
    moved = Gaussian(q.mean.clone(), 0.5)
    moved.mean[1, 2] += 3
    changed = p.log_ratio(q, z) != p.log_ratio(moved, z)
    assert changed.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("case", STDS)
def test_kl_is_that_of_torch_distributions(case):
    std_p, std_q = STDS[case]
    q, p = Gaussian(randn(*SHAPE, seed=1), std_q), Gaussian(randn(*SHAPE, seed=2), std_p)
    laws = [Normal(g.mean, torch.as_tensor(g.std, dtype=F64)) for g in (q, p)]
    expected = kl_divergence(*laws).flatten(2).sum(-1)
    torch.testing.assert_close(q.kl(p), expected, rtol=1e-10, atol=1e-10)


def test_kl_of_diracs_is_zero():
    p = Gaussian(randn(*SHAPE), 0.0)
    assert torch.equal(p.kl(p), torch.zeros(2, 3, dtype=F64))


# ---- kernels with other standard deviations along a basis ----------------------------------------


def conditioned(seed=2, rank=3, std=0.4, dtype=F64):
    """A kernel with a basis of `rank` columns over the 8 coordinates of SHAPE."""
    basis = torch.linalg.qr(randn(8, rank, seed=seed + 20)).Q
    along = positive(rank, seed=seed + 30)
    mean = randn(*SHAPE, seed=seed)
    return Gaussian(mean.to(dtype), std, None, basis.to(dtype), along.to(dtype))


def dense(law):
    """The same kernel with a dense covariance, on flat events."""
    root = float(law.std) * torch.eye(8, dtype=F64)
    if law.basis is not None:
        root = root + law.basis @ torch.diag(law.along - law.std) @ law.basis.T
    return MultivariateNormal(law.mean.flatten(2), root @ root)


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
@pytest.mark.parametrize("std", [0.4, torch.tensor(0.4, dtype=F64)], ids=["float", "tensor"])
def test_log_ratio_with_a_basis_is_the_difference_of_log_densities_A12(rank, std):
    p, q, z = Gaussian(randn(*SHAPE, seed=1), 0.7), conditioned(rank=rank, std=std), randn(*SHAPE)
    x = q.sample(z).flatten(2)
    exact = dense(p).log_prob(x) - dense(q).log_prob(x)
    ratio = p.log_ratio(q, z)
    assert ratio.dtype == F64
    torch.testing.assert_close(ratio, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.kl(p), kl_divergence(dense(q), dense(p)), rtol=1e-10, atol=1e-10)


def test_the_basis_shapes_the_sample():
    """Covariance of S z is S S^T, and the noise behind a sample is found again."""
    q, eye = conditioned(), torch.eye(8, dtype=F64).reshape(1, 8, 4, 2)
    zero = Gaussian(torch.zeros_like(eye), q.std, None, q.basis, q.along)
    S = zero.sample(eye)[0].flatten(1)
    torch.testing.assert_close(S @ S.T, dense(q).covariance_matrix[0, 0], rtol=1e-10, atol=1e-10)
    z = randn(*SHAPE, seed=5)
    torch.testing.assert_close(q.noise_of(q.sample(z)[:, 1:2], slice(1, 2)), z[:, 1:2])


def test_log_ratio_is_zero_where_the_basis_changes_nothing():
    q = conditioned()
    same = Gaussian(q.mean, 0.4, None, q.basis, torch.full_like(q.along, 0.4))
    assert (Gaussian(q.mean, 0.4).log_ratio(same, randn(*SHAPE)) == 0).all()


def test_log_ratio_with_a_basis_in_float32():
    """A weight of float32 numbers agrees with the float64 one far from the origin."""
    q, p = conditioned(dtype=torch.float32), Gaussian(1e3 + randn(*SHAPE, seed=1), 0.7)
    q = Gaussian(p.mean.float() + 0.7 * q.mean, 0.4, None, q.basis, q.along)
    z = randn(*SHAPE, dtype=torch.float32)
    wide = Gaussian(q.mean.double(), 0.4, None, q.basis.double(), q.along.double())
    exact = Gaussian(p.mean.float().double(), 0.7).log_ratio(wide, z.double())
    got = Gaussian(p.mean.float(), 0.7).log_ratio(q, z)
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


# ---- samples and populations ---------------------------------------------------------------------


def test_sample_is_mean_plus_std_times_noise():
    p, z = Gaussian(randn(*SHAPE), 0.25), randn(*SHAPE, seed=1)
    torch.testing.assert_close((p.sample(z) - p.mean) / 0.25, z)


@pytest.mark.parametrize(("std", "dirac"), [(0.0, True), (1e-300, False), (torch.zeros(2), False)])
def test_only_a_float_zero_is_a_dirac(std, dirac):
    assert Gaussian(randn(*SHAPE), std).is_dirac is dirac


def population():
    x, log_w = randn(2, 4, 3), randn(2, 4, seed=1)
    eve = torch.arange(8).reshape(2, 4) % 4
    carry = {"x0_hat": randn(2, 4, 3, seed=2), "flag": randn(2, 4, seed=3) > 0}
    return Particles(x, log_w, eve, carry)


def test_take_gathers_every_field_of_the_record():
    before, ancestors = population(), torch.tensor([[3, 3, 0, 1], [2, 0, 0, 2]])
    after = before.take(ancestors)
    per_particle = {f.name for f in dataclasses.fields(Particles)}
    assert per_particle == {"x", "log_w", "eve", "carry"}, "a new field: is it gathered, too?"
    pairs = [(getattr(before, n), getattr(after, n)) for n in ("x", "log_w", "eve")]
    pairs += [(before.carry[n], after.carry[n]) for n in before.carry]
    assert after.carry.keys() == before.carry.keys()
    for old, new in pairs:
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        for s in range(2):
            for n in range(4):
                assert torch.equal(new[s, n], old[s, ancestors[s, n]])


def test_take_leaves_the_old_population_alone():
    before, kept = population(), population()
    before.take(torch.zeros(2, 4, dtype=torch.int64)).x.zero_()
    assert torch.equal(before.x, kept.x)


@pytest.mark.parametrize("d", [3, 40])
def test_a_move_by_nothing_has_a_gradient(d):
    base, size = Gaussian(torch.zeros(1, 2, d), 0.5), torch.ones((), requires_grad=True)
    delta = size * torch.tensor([0.0, 1.0])[:, None].expand(1, 2, d)
    (slope,) = torch.autograd.grad(base.moved(delta, trust=1e3).mean.sum(), size)
    torch.testing.assert_close(slope, torch.tensor(float(d)))


def test_given_weights_are_taken_as_they_are():
    before, ancestors = population(), torch.tensor([[3, 3, 0, 1], [2, 0, 0, 2]])
    log_w = randn(2, 4, seed=5)
    after = before.take(ancestors, log_w)
    assert after.log_w is log_w
    assert torch.equal(after.eve, before.take(ancestors).eve)


@pytest.mark.parametrize("record", [Particles, Gaussian, Look, Level, Moments])
def test_records_are_frozen(record):
    assert record.__dataclass_params__.frozen
    level = Level(0.5, 0.6, 0.8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        level.alpha = 1.0


def test_level_ratio_is_sigma_over_alpha():
    assert Level(0.5, 0.5, 2.0).ratio == 4.0
    assert Level(1.0, 0.0, 1.0).ratio == math.inf


def test_prior_width_is_the_posterior_variance_of_one_coordinate():
    t, V = Level(0.5, 0.6, 0.8), torch.tensor([0.0, 0.3, 2.0, math.inf], dtype=F64)
    noisy = t.alpha**2 * V[1:3] + t.sigma**2
    exact = V[1:3] - (t.alpha * V[1:3]) ** 2 / noisy
    torch.testing.assert_close(t.prior_width(V)[1:3], exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        t.prior_width(V)[[0, 3]], torch.tensor([0.0, t.ratio**2], dtype=F64), rtol=1e-12, atol=0
    )


def test_prior_width_at_the_ends():
    V = torch.tensor([0.3, 2.0], dtype=F64)
    torch.testing.assert_close(Level(0.0, 1.0, 0.0).prior_width(V), torch.zeros(2, dtype=F64))
    torch.testing.assert_close(Level(1.0, 0.0, 1.0).prior_width(V), V)


def test_a_look_without_an_answer_says_so():
    look = Look(randn(*SHAPE), randn(*SHAPE), Level(0.5, 0.6, 0.8))
    with pytest.raises(AttributeError, match=r"made without that field"):
        _ = look.value
    with pytest.raises(AttributeError, match=r"made without that field"):
        _ = look.slope


def test_moments_move_with_or_without_a_basis():
    v, U = torch.linalg.eigh(torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64))
    for basis in (None, U):
        moved = Moments(torch.zeros(2, dtype=F64), v, basis).to("cpu")
        assert torch.equal(moved.variance, v)
        assert (moved.basis is None) == (basis is None)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 800])
def test_row_sums_are_sums(n):
    a = randn(5, 7, n)
    torch.testing.assert_close(row_sums(a), a.sum(-1))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = row_sums(a.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, a.float().sum(-1))
