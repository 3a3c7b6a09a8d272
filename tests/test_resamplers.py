"""Resamplers: the conformance suite, what each scheme adds to it, conditional resampling, evidence
with every scheme, and what the suite catches."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.exactness import EXACT, LIMIT
from smcguide.potentials import InflatedGaussian, Terminal
from smcguide.resamplers import (
    SSP,
    Killing,
    Metropolis,
    Multinomial,
    Rejection,
    Resampler,
    Residual,
    Stratified,
    Systematic,
)
from smcguide.testing import ResamplerSuite, generator, mean_counts_test, z_test
from smcguide.testing.conformance.proposal import linear_gaussian_answer, linear_gaussian_model
from smcguide.weights import counted, inverse_cdf

F64 = torch.float64


class TestMultinomial(ResamplerSuite):
    def instances(self):
        return [Multinomial()]


class TestStratified(ResamplerSuite):
    def instances(self):
        return [Stratified()]


class TestSystematic(ResamplerSuite):
    def instances(self):
        return [Systematic()]


class TestResidual(ResamplerSuite):
    def instances(self):
        return [Residual()]


class TestSSP(ResamplerSuite):
    def instances(self):
        return [SSP()]


class TestKilling(ResamplerSuite):
    takes_num = False

    def instances(self):
        return [Killing()]


class TestRejection(ResamplerSuite):
    def instances(self):
        return [Rejection()]


def metropolis_bias(resampler, W):
    return float(1 - 1 / (len(W) * W.max())) ** resampler.num_iters


class TestMetropolis(ResamplerSuite):
    def instances(self):
        return [Metropolis(8)]

    def largest_bias(self, resampler, W):
        return metropolis_bias(resampler, W)


def counts(resampler, log_w, runs=20_000, num=None):
    ancestors = resampler(log_w.expand(runs, -1), generator("counts"), num)
    zeros = ancestors.new_zeros(runs, len(log_w))
    return zeros.scatter_add_(1, ancestors, torch.ones_like(ancestors))


def some_log_weights(N=9):
    return torch.randn(N, generator=generator("weights"), dtype=F64)


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [9, 4, 30])
@pytest.mark.parametrize("resampler", [Systematic(), SSP()], ids=repr)
def test_copies_are_floor_or_ceil_of_num_w(resampler, num):
    log_w = some_log_weights()
    deviation = counts(resampler, log_w, 500, num) - num * torch.softmax(log_w, 0)
    assert (deviation.abs() < 1).all()
    assert (counts(Stratified(), log_w, 500, num) - num * torch.softmax(log_w, 0)).abs().max() > 1


@pytest.mark.parametrize("N", [16, 49, 1000])  # 49 times 1/49 is below 1
@pytest.mark.parametrize("resampler", [Systematic(), SSP(), Residual(), Killing()], ids=repr)
def test_equal_weights_keep_every_particle(resampler, N):
    assert (counts(resampler, torch.zeros(N, dtype=F64), 50) == 1).all()


def test_residual_gives_at_least_floor_of_num_w():
    log_w = some_log_weights()
    floor = (20 * torch.softmax(log_w, 0)).floor()
    assert (counts(Residual(), log_w, 500, 20) >= floor).all()
    assert not (counts(Multinomial(), log_w, 500, 20) >= floor).all()


def test_residual_keeps_the_whole_copies_behind_the_last_remainder():
    expected = torch.tensor([0.5, 0.0, 0.5, 1.0, 2.0, 0.0], dtype=F64)  # of four, one is open
    found = counts(Residual(), expected.log(), 200, 4)
    assert (found[:, 3:] == torch.tensor([1, 2, 0])).all() and (found[:, 1] == 0).all()
    assert set(found[:, 0].tolist()) == set(found[:, 2].tolist()) == {0, 1}


def test_stratified_differs_from_n_w_by_less_than_two():
    log_w = some_log_weights()
    deviation = counts(Stratified(), log_w, 500) - 9 * torch.softmax(log_w, 0)
    assert (deviation.abs() < 2).all()


def multinomial_covariance(resampler):
    log_w = some_log_weights(4)
    W = torch.softmax(log_w, 0)
    products = counts(resampler, log_w).double() - 4 * W
    products = (products[:, :, None] * products[:, None, :]).flatten(1)
    exact = (4 * (torch.diag(W) - W[:, None] * W)).flatten()
    z_test(products, exact, ceiling=0.02)


@pytest.mark.parametrize("resampler", [Multinomial(), Rejection()], ids=repr)
def test_counts_of_independent_ancestors_have_the_multinomial_covariance(resampler):
    multinomial_covariance(resampler)


def test_covariance_test_catches_a_scheme_that_is_not_multinomial():
    with pytest.raises(AssertionError, match="z_test"):
        multinomial_covariance(Residual())


def uncorrelated_or_less(resampler):
    """Different particles' counts have covariances of at most 0."""
    for log_w in (torch.tensor([0.5, 0.5, 1.5, 1.5], dtype=F64).log(), some_log_weights(7)):
        N = len(log_w)
        off = counts(resampler, log_w).double() - N * torch.softmax(log_w, 0)
        i, j = torch.triu_indices(N, N, 1)
        products = off[:, i] * off[:, j]
        z_test(products, products.mean(0).clamp(max=0), ceiling=0.02)


def test_ssp_counts_are_negatively_correlated_and_those_of_a_comb_are_not():
    uncorrelated_or_less(SSP())
    with pytest.raises(AssertionError, match="z_test"):
        uncorrelated_or_less(Systematic())


def line_of_games(p):
    """The law of Srinivasan's process along the line, by all its ends: outcome -> probability."""
    law = Counter()

    def play(j, i, a, out, chance):
        """Player i, with mass a left, meets j."""
        if j == len(p):
            law[(*out[:i], round(a), *out[i + 1 :])] += chance
            return
        b = p[j]
        both = a + b
        up, left = (1, both - 1) if both >= 1 else (0, both)
        first = (1 - b) / (2 - both) if both >= 1 else (a / both if both else 1.0)
        for settled, goes_on, share in ((i, j, first), (j, i, 1 - first)):
            if not up:  # who wins the mass goes on, the other is settled at 0
                settled, goes_on = goes_on, settled
            play(j + 1, goes_on, left, (*out[:settled], up, *out[settled + 1 :]), chance * share)

    play(1, 0, p[0], (0,) * len(p), 1.0)
    return law


@pytest.mark.parametrize(
    "p",
    [
        (0.3, 0.45, 0.25), (0.75, 0.75, 0.5), (0.6, 0.9, 0.9, 0.6), (0.2, 0.7, 0.55, 0.8, 0.75),
        (0.0, 0.55, 0.0, 0.45, 0.35, 0.65, 0.0), (0.99, 0.99, 0.02),
    ],
    ids=str,
)  # fmt: skip
def test_ssp_has_the_law_of_the_games_along_the_line(p):
    law = line_of_games(p)
    assert sum(law.values()) == pytest.approx(1)
    W = torch.tensor(p, dtype=F64)
    num = round(sum(p))
    found = Counter(map(tuple, counts(SSP(), W.log(), 40_000, num).tolist()))
    assert set(found) <= {out for out, chance in law.items() if chance > 1e-9}
    for out, chance in law.items():
        error = math.sqrt(chance * (1 - chance) / 40_000) + 1e-12
        assert abs(found[out] / 40_000 - chance) < 5 * error, (out, chance)


def test_variance_of_counts_falls_from_scheme_to_scheme():
    """For one vector of weights; the second half has the least variance that counts can have."""
    W = torch.softmax(some_log_weights(), 0)
    variance = {
        type(r): float(counts(r, W.log()).double().var(0).sum())
        for r in (Multinomial(), Killing(), Residual(), Stratified(), SSP(), Systematic())
    }
    assert variance[Killing] < 0.95 * variance[Multinomial]
    assert variance[Residual] < 0.8 * variance[Multinomial]
    assert variance[Stratified] < 0.5 * variance[Multinomial]
    fractions = 9 * W % 1
    least = float((fractions * (1 - fractions)).sum())
    for kind in (SSP, Systematic):
        assert abs(variance[kind] / least - 1) < 0.03
    assert variance[Residual] > 1.2 * least


def killing_covariance(resampler):
    """Those that stay are independent, s_i = W_i / max W; the others' slots are multinomial."""
    log_w = some_log_weights(4)
    W = torch.softmax(log_w, 0)
    products = counts(resampler, log_w).double() - 4 * W
    products = (products[:, :, None] * products[:, None, :]).flatten(1)
    s = W / W.max()
    V = s * (1 - s)
    exact = torch.diag(V) - V[:, None] * W - W[:, None] * V + W[:, None] * W * V.sum()
    exact += (4 - s.sum()) * (torch.diag(W) - W[:, None] * W)
    z_test(products, exact.flatten(), ceiling=0.02)


def test_counts_of_killing_have_the_covariance_of_its_definition():
    killing_covariance(Killing())
    with pytest.raises(AssertionError, match="z_test"):
        killing_covariance(Multinomial())


def test_killing_keeps_particle_i_in_its_slot():
    log_w = some_log_weights(6)
    W = torch.softmax(log_w, 0)
    ancestors = Killing()(log_w.expand(20_000, -1), generator("killing"))
    at_home = (ancestors == torch.arange(6)).double().mean(0)
    assert (at_home > W / W.max() - 0.02).all() and at_home[W.argmax()] == 1


# ---- Metropolis ----------------------------------------------------------------------------------


def test_metropolis_is_the_law_of_its_chain_and_its_bias_falls():
    """The exact law after B iterations from an even start, its distance to W, and the bound."""
    log_w = some_log_weights()
    W, N = torch.softmax(log_w, 0), 9
    kernel = (W / W[:, None]).clamp(max=1) / N
    kernel = kernel + torch.diag(1 - kernel.sum(1))
    law, distances = torch.full((N,), 1 / N, dtype=F64), []
    for num_iters in range(1, 33):
        law = law @ kernel
        distances.append(float((law - W).abs().max()))
        assert distances[-1] <= metropolis_bias(Metropolis(num_iters), W)
        if num_iters in (1, 4, 16):
            z_test(counts(Metropolis(num_iters), log_w), N * law, ceiling=0.02)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 * distances[0]


def test_metropolis_never_ends_at_a_dead_particle_however_short_its_chains():
    log_w = torch.full((50, 1000), -torch.inf, dtype=F64)
    log_w[:, 7], log_w[:, 400] = 0.0, 1.0
    assert set(Metropolis(1)(log_w, generator("dead")).flatten().tolist()) == {7, 400}


@pytest.mark.parametrize("num_iters", [0, -1, 2.5])
def test_metropolis_refuses_what_is_no_number_of_iterations(num_iters):
    with pytest.raises(InvalidInput, match="num_iters must be a whole number"):
        Metropolis(num_iters)


def test_schemes_say_whether_they_are_exact():
    biased = [r for r in ALL if r.exactness != EXACT]
    assert biased == [Metropolis(64)]
    assert Metropolis.exactness == LIMIT


# ---- conditional resampling ----------------------------------------------------------------------


def exact_conditional_law(scheme, W):
    """Ancestor vectors and their probabilities given that slot 0 chose particle 0, by enumeration:
    all vectors, or all intervals of the offset and all rotations."""
    N = len(W)
    law = {}
    if scheme is Multinomial:
        for v in itertools.product(range(N), repeat=N):
            law[v] = float(W[list(v)].prod())
    else:
        breaks = torch.cat([N * W.cumsum(0) % 1, torch.tensor([0.0, 1.0], dtype=F64)]).sort().values
        for low, high in itertools.pairwise(breaks):
            points = (torch.arange(N) + (low + high) / 2) / N
            comb = inverse_cdf(W.log()[None], points[None])[0]
            for shift in range(N):
                v = tuple(comb.roll(shift).tolist())
                law[v] = law.get(v, 0.0) + float(high - low) / N
    law = {v: p for v, p in law.items() if v[0] == 0 and p > 1e-9}
    total = sum(law.values())
    assert abs(total - float(W[0])) < 1e-9
    return {v: p / total for v, p in law.items()}


def law_test(draw, scheme, W, runs=20_000):
    law = exact_conditional_law(scheme, W)
    drawn = draw(W.log().expand(runs, -1), generator("conditional"))
    vectors = torch.tensor(list(law))
    equal = (drawn[:, None] == vectors).all(-1)
    assert equal.any(1).all(), "an impossible vector of ancestors"
    z_test(equal.double(), torch.tensor(list(law.values()), dtype=F64), ceiling=0.005)


def chopin_singh(offset):
    """Conditional systematic resampling as it was published: an offset, then a rotation."""

    def draw(log_w, source):
        runs, N = log_w.shape
        nW = N * torch.softmax(log_w, 1)[:, :1]
        u = torch.rand(runs, 3, generator=source, dtype=F64)
        comb = inverse_cdf(log_w, (torch.arange(N) + offset(nW, u[:, :1], u[:, 1:2])) / N)
        copies = (comb == 0).sum(1, keepdim=True)
        shift = (u[:, 2:] * copies).long()
        rotated = comb.gather(1, (torch.arange(N) + shift) % N)
        rotated[:, 0] = 0
        return rotated

    return draw


def published_offset(nW, u, v):
    r = nW - nW.floor()
    longer = v < r * (nW.floor() + 1) / nW
    return torch.where(nW <= 1, u * nW, torch.where(longer, u * r, r + u * (1 - r)))


def overwritten(resampler):
    """Planted: slot 0 of unconditional ancestors is overwritten."""

    def draw(log_w, source):
        ancestors = resampler(log_w, source)
        ancestors[:, 0] = 0
        return ancestors

    return draw


def without_rotation(log_w, source):
    """Planted: a comb with the right offset, the first copy of particle 0 always in slot 0."""
    return chopin_singh(published_offset)(log_w, source).sort(1).values


WEIGHTS = [[0.1, 0.5, 0.15, 0.25], [0.45, 0.3, 0.05, 0.2], [0.75, 0.05, 0.2], [0.25, 0.35, 0.4]]
EACH_WEIGHTS = pytest.mark.parametrize("W", [torch.tensor(W, dtype=F64) for W in WEIGHTS], ids=str)


@EACH_WEIGHTS
@pytest.mark.parametrize("scheme", [Multinomial, Systematic])
def test_conditional_ancestors_have_the_law_given_slot_zero(scheme, W):
    law_test(scheme().conditional, scheme, W)


@EACH_WEIGHTS
def test_the_published_offset_and_rotation_are_the_same_law(W):
    law_test(chopin_singh(published_offset), Systematic, W)


@EACH_WEIGHTS
def test_law_test_catches_wrong_conditional_schemes(W):
    wrong = [chopin_singh(lambda nW, u, v: u), overwritten(Systematic())]
    if len(W) * W[0] > 1:  # else particle 0 has one copy and nothing can be rotated
        wrong.append(without_rotation)
    for draw in wrong:
        with pytest.raises(AssertionError):
            law_test(draw, Systematic, W)
    with pytest.raises(AssertionError):
        law_test(Systematic().conditional, Multinomial, W)


STATES = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=F64)  # transitions of a two-state chain
GAINS = torch.tensor([[1.0, 3.0], [4.0, 1.0], [0.5, 2.0]], dtype=F64)  # G_t(x), three times
PATHS = list(itertools.product((0, 1), repeat=3))


def path_probabilities():
    p = [STATES[a, b] * STATES[b, c] * GAINS[range(3), [a, b, c]].prod() for a, b, c in PATHS]
    return torch.stack(p) / sum(p)


def particle_gibbs(paths, conditional, N, source):
    """One conditional SMC update of paths (R, 3) with N particles; slot 0 is the reference."""

    def draw(p):
        return torch.multinomial(p.flatten(0, -2), 1, generator=source).reshape(p.shape[:-1])

    runs = len(paths)
    x = draw(torch.full((runs, N, 2), 0.5, dtype=F64))
    x[:, 0] = paths[:, 0]
    lines = x[:, :, None]
    for t in (1, 2):
        ancestors = conditional(GAINS[t - 1][x].log(), source)
        lines = lines.gather(1, ancestors[:, :, None].expand(-1, -1, t))
        x = draw(STATES[lines[:, :, -1]])
        x[:, 0] = paths[:, t]
        lines = torch.cat([lines, x[:, :, None]], 2)
    chosen = draw(GAINS[2][x])
    return lines[torch.arange(runs), chosen]


def invariance_test(conditional, N, sweeps=3, runs=20_000):
    """Paths drawn from their exact law still have it after some sweeps of particle Gibbs."""
    exact, source = path_probabilities(), generator("particle Gibbs")
    start = torch.multinomial(exact, runs, replacement=True, generator=source)
    paths = torch.tensor(PATHS)[start]
    for _ in range(sweeps):
        paths = particle_gibbs(paths, conditional, N, source)
    found = (paths[:, None] == torch.tensor(PATHS)).all(-1).double()
    z_test(found, exact, ceiling=0.005)


@pytest.mark.parametrize("N", [2, 3, 5])
@pytest.mark.parametrize("resampler", [Multinomial(), Systematic()], ids=repr)
def test_particle_gibbs_keeps_the_law_of_paths(resampler, N):
    invariance_test(resampler.conditional, N)


@pytest.mark.parametrize("N", [2, 3])
def test_invariance_test_catches_wrong_conditional_schemes(N):
    for draw in (chopin_singh(lambda nW, u, v: u), overwritten(Systematic())):
        with pytest.raises(AssertionError, match="z_test"):
            invariance_test(draw, N)


# ---- evidence ------------------------------------------------------------------------------------

ALL = [
    Multinomial(),
    Stratified(),
    Systematic(),
    Residual(),
    SSP(),
    Killing(),
    Rejection(),
    Metropolis(64),
]
EACH_POTENTIAL = pytest.mark.parametrize("potential", [InflatedGaussian(), Terminal()], ids=repr)


def evidence_test(resampler, potential, N, num_systems, ceiling):
    """Z_hat / Z has mean 1 under the discretised chain, resampling before every step."""
    model = linear_gaussian_model(sg.proposals.Bootstrap(), potential)
    log_z, posterior = linear_gaussian_answer(model)
    post = sg.run(
        model, num_particles=N, num_systems=num_systems, resampler=resampler,
        trigger=sg.triggers.always(), progress=False,
    )  # fmt: skip
    ratio = torch.exp(post.log_evidence - log_z)[:, None]
    truth = torch.cat([torch.ones(1, dtype=F64), posterior.mean])
    z_test(torch.cat([ratio, ratio * post.mean()], 1), truth, ceiling)


@EACH_POTENTIAL
@pytest.mark.parametrize("resampler", ALL, ids=repr)
def test_evidence_is_unbiased_with_every_scheme(resampler, potential):
    evidence_test(resampler, potential, N=16, num_systems=4000, ceiling=0.02)
    evidence_test(resampler, potential, N=400, num_systems=150, ceiling=0.02)


@pytest.mark.parametrize("name", ["Metropolis(1)", "KilledEvenly()"])
def test_evidence_test_catches_a_biased_scheme(name):
    resampler = {"Metropolis(1)": Metropolis(1), "KilledEvenly()": KilledEvenly()}[name]
    with pytest.raises(AssertionError, match="z = "):
        evidence_test(resampler, InflatedGaussian(), N=16, num_systems=4000, ceiling=0.02)


# ---- what the suite catches ----------------------------------------------------------------------


@dataclass(frozen=True)
class Float32Cdf(Resampler):
    """Planted: searches a float32 distribution function and clamps at the end."""

    def __call__(self, log_w, generator, num=None):
        cdf = torch.softmax(log_w.float(), -1).cumsum(-1) - 2**-16
        u = torch.rand(log_w.shape, generator=generator, device=log_w.device)
        return torch.searchsorted(cdf, u).clamp(max=log_w.shape[1] - 1)


@dataclass(frozen=True)
class SharedNoise(Resampler):
    """Planted: one uniform number for all systems."""

    def __call__(self, log_w, generator, num=None):
        N = log_w.shape[1]
        u = torch.rand(1, 1, generator=generator, dtype=F64, device=log_w.device)
        points = ((torch.arange(N, device=log_w.device) + u) / N).repeat(len(log_w), 1)
        return inverse_cdf(log_w, points)


@dataclass(frozen=True)
class Tempered(Resampler):
    """Planted: weights to the power 0.9."""

    def __call__(self, log_w, generator, num=None):
        return Multinomial()(0.9 * log_w, generator, num)


@dataclass(frozen=True)
class Coupled(Resampler):
    """Planted: normalises over all systems at once."""

    def __call__(self, log_w, generator, num=None):
        return Multinomial()(log_w - log_w.mean() * torch.ones_like(log_w).cumsum(1), generator)


@dataclass(frozen=True)
class DeafToNum(Resampler):
    """Planted: the spacing of the comb is right for N only."""

    def __call__(self, log_w, generator, num=None):
        u = torch.rand(len(log_w), 1, generator=generator, dtype=F64, device=log_w.device)
        comb = torch.arange(num or log_w.shape[1], device=log_w.device)
        return inverse_cdf(log_w, (comb + u) / log_w.shape[1])


@dataclass(frozen=True)
class RoundsUpTheWrongOnes(Resampler):
    """Planted: floor or ceiling, but the smaller the remainder the likelier the ceiling."""

    def __call__(self, log_w, generator, num=None):
        W = torch.softmax(log_w, 1)
        expected = (num or log_w.shape[1]) * W
        copies = expected.floor()
        rest = (num or log_w.shape[1]) - copies.sum(1, keepdim=True)
        odds = 1 - (expected - copies) + torch.rand(W.shape, generator=generator, dtype=F64)
        rank = odds.argsort(1, descending=True).argsort(1)
        return counted((copies + (rank < rest)).cumsum(1), num or log_w.shape[1])


@dataclass(frozen=True)
class KilledEvenly(Resampler):
    """Planted: the killed are redrawn evenly."""

    def __call__(self, log_w, generator, num=None):
        W = torch.softmax(log_w, 1)
        u = torch.rand(W.shape, generator=generator, dtype=F64, device=W.device)
        redrawn = Multinomial()(torch.where(W > 0, 0.0, -torch.inf), generator)
        own = torch.arange(W.shape[1], device=W.device)
        return torch.where(u * W.amax(1, keepdim=True) < W, own, redrawn)


@dataclass(frozen=True)
class ChainsFromHome(Resampler):
    """Planted: Metropolis chains begin at dead particles, too."""

    def __call__(self, log_w, generator, num=None):
        W = torch.softmax(log_w.double(), 1)
        here = torch.arange(num or W.shape[1]).expand(len(W), -1) % W.shape[1]
        for _ in range(8):
            there = torch.randint(W.shape[1], here.shape, generator=generator)
            u = torch.rand(here.shape, generator=generator, dtype=F64)
            here = torch.where(u * W.gather(1, here) < W.gather(1, there), there, here)
        return here


@dataclass(frozen=True)
class Overwritten(Systematic):
    """Planted: conditional ancestors are unconditional ones with slot 0 overwritten."""

    def conditional(self, log_w, generator):
        return overwritten(Systematic())(log_w, generator)


class Planted(ResamplerSuite):
    def __init__(self, resampler):
        self.resampler = resampler

    def instances(self):
        return [self.resampler]


def test_suite_catches_a_dead_particle_chosen():
    suite = Planted(Float32Cdf())
    with pytest.raises(AssertionError, match="particles of weight zero"):
        suite.test_zero_weight_is_never_chosen_in_a_large_float32_population("cpu", "head")


def test_suite_catches_systems_that_share_their_noise():
    with pytest.raises(AssertionError, match="systems are copies"):
        Planted(SharedNoise()).test_systems_have_their_own_randomness("cpu")


def test_suite_catches_tempered_weights():
    with pytest.raises(AssertionError, match=r"Particle \d+ of weight"):
        Planted(Tempered()).test_mean_counts_are_n_times_the_weights("cpu", 3.0)


def test_suite_catches_systems_that_see_each_other():
    with pytest.raises(AssertionError, match="depends on the others"):
        Planted(Coupled()).test_systems_do_not_see_each_other("cpu")


def test_mean_counts_test_refuses_a_wrong_number_of_ancestors():
    wrong = torch.full((200, 3), 2)
    with pytest.raises(AssertionError, match="does not choose N ancestors"):
        mean_counts_test(wrong, torch.full((3,), 1 / 3))


@pytest.mark.parametrize("wrong", [DeafToNum(), RoundsUpTheWrongOnes()], ids=repr)
def test_suite_catches_wrong_counts_for_another_num(wrong):
    with pytest.raises(AssertionError):
        Planted(wrong).test_mean_counts_are_num_times_the_weights("cpu", 5)


@pytest.mark.parametrize("wrong", [RoundsUpTheWrongOnes(), KilledEvenly()], ids=repr)
def test_suite_catches_wrong_counts(wrong):
    with pytest.raises(AssertionError, match="Particle"):
        Planted(wrong).test_mean_counts_are_n_times_the_weights("cpu", 0.5)


def test_suite_catches_chains_that_end_where_nothing_lives():
    suite = Planted(ChainsFromHome())
    with pytest.raises(AssertionError, match="particles of weight zero"):
        suite.test_zero_weight_is_never_chosen_in_a_large_float32_population("cpu", "odd")


def test_suite_catches_a_bias_above_its_bound():
    suite = TestMetropolis()
    suite.instances = lambda: [Metropolis(1)]
    suite.test_mean_counts_are_n_times_the_weights("cpu", 0.5)
    suite.largest_bias = lambda resampler, W: metropolis_bias(Metropolis(8), W)
    with pytest.raises(AssertionError, match="z = "):
        suite.test_mean_counts_are_n_times_the_weights("cpu", 0.5)


def test_suite_catches_an_overwritten_slot():
    with pytest.raises(AssertionError):
        Planted(Overwritten()).test_the_conditional_law_is_the_law_given_slot_zero("cpu")
