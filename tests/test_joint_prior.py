"""Independent priors as one: against the product of mixtures written out, and what it asks of members."""

import math

import pytest
import torch

import smcguide as sg
from smcguide.errors import InvalidInput
from smcguide.priors import GaussianMixture, JointPrior, NetworkPrior, Prior
from smcguide.rehearsal import Moments
from smcguide.schedules import EDM, VE, VP, Cosine, DDPMTable, RectifiedFlow
from smcguide.testing import PriorSuite, generator, z_test

F64 = torch.float64


def table():
    return DDPMTable(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0))


PAIRS = {
    "equal": (VP(), VP()),
    "VP and VE": (VP(), VE()),
    "VP and EDM": (VP(), EDM()),
    "EDM and VP": (EDM(), VP()),
    "flow and VP": (RectifiedFlow(), VP()),
    "VE and table": (VE(), table()),
    "cosine and flow": (Cosine(), RectifiedFlow()),
    "equal tables": (table(), table()),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


class Parts:
    """Two mixtures of two coordinates as numbers, and their product as one mixture of four."""

    w = torch.tensor([0.2, 0.8], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    m = (
        torch.tensor([[1.0, -0.5], [-0.6, 0.4]], dtype=F64),
        torch.tensor([[0.8, 0.3], [-1.0, 0.0], [0.2, -0.9]], dtype=F64),
    )
    s = torch.tensor([0.6, 0.8], dtype=F64), torch.tensor([0.7, 0.5, 0.9], dtype=F64)

    @classmethod
    def mixtures(cls, pair):
        return [
            GaussianMixture(w, m, scale=s, schedule=schedule)
            for w, m, s, schedule in zip(cls.w, cls.m, cls.s, pair, strict=True)
        ]

    @classmethod
    def product(cls, schedule):
        both = [(i, j) for i in range(2) for j in range(3)]
        weights = torch.stack([cls.w[0][i] * cls.w[1][j] for i, j in both])
        means = torch.stack([torch.cat([cls.m[0][i], cls.m[1][j]]) for i, j in both])
        stds = torch.stack(
            [torch.cat([cls.s[0][i].expand(2), cls.s[1][j].expand(2)]) for i, j in both]
        )
        return GaussianMixture(weights, means, torch.diag_embed(stds**2), schedule=schedule)


def joint(pair):
    return JointPrior(Parts.mixtures(pair))


def shared_levels(pair):
    """Levels of the first schedule at noise that both of them know, without their very ends."""
    ends = [[float(s.log_snr(t)) for t in (s.t_min, s.t_max)] for s in pair]
    low, high = min(e[0] for e in ends) - 0.01, max(e[1] for e in ends) + 0.01
    log_snr = torch.linspace(low, high, 9, dtype=F64)
    return [pair[0].level(float(t)) for t in pair[0].time(log_snr)]


def states(t, num=6, d=4):
    z = torch.randn(num, d, generator=generator("states"), dtype=F64)
    return (t.alpha + t.sigma) * z


class Normal(Prior):
    """N(0, I) as a network would be: what it knows of itself is its denoiser. Counts its calls."""

    def __init__(self, schedule=None, event_shape=(2,), dtype=F64):
        self.schedule, self.event_shape = schedule or VP(), event_shape
        self.dtype, self.device, self.calls = dtype, torch.device("cpu"), []

    def denoise(self, x, t):
        self.calls.append((tuple(x.shape), t))
        level = self.schedule.level(t)
        return level.alpha * x / (level.alpha**2 + level.sigma**2)


# ---- the product, written out --------------------------------------------------------------------


@pairs
def test_the_denoiser_is_that_of_the_product(pair):
    product, prior = Parts.product(pair[0]), joint(pair)
    for t in shared_levels(pair):
        x = states(t)
        torch.testing.assert_close(
            prior.denoise(x, t.time), product.denoise(x, t.time), rtol=1e-10, atol=1e-10
        )


def test_three_members_keep_their_places():
    a, b = Parts.mixtures((VP(), EDM()))
    prior, t = JointPrior([b, a, b]), VP().level(0.4)
    x = states(EDM().level(0.7), d=6)
    D = prior.denoise(x, 0.7)
    torch.testing.assert_close(D[:, :2], b.denoise(x[:, :2], 0.7))
    torch.testing.assert_close(D[:, 4:], b.denoise(x[:, 4:], 0.7))
    t = VP().level(float(VP().time(-2 * math.log(0.7))))
    torch.testing.assert_close(D[:, 2:4], a.denoise(t.alpha * x[:, 2:4], t.time))


@pairs
def test_log_prob_is_that_of_the_product(pair):
    product, prior = Parts.product(pair[0]), joint(pair)
    for t in [pair[0].level(0.0), *shared_levels(pair)]:
        x = states(t)
        torch.testing.assert_close(
            prior.log_prob(x, t.time), product.log_prob(x, t.time), rtol=1e-9, atol=1e-9
        )
    torch.testing.assert_close(prior.log_prob(x), product.log_prob(x))


@pairs
def test_the_law_at_the_start_is_that_of_the_product(pair):
    product, prior, t = Parts.product(pair[0]), joint(pair), shared_levels(pair)[4]
    x = states(t)
    torch.testing.assert_close(
        prior.log_initial_ratio(x, t), product.log_initial_ratio(x, t), rtol=1e-5, atol=1e-5
    )
    draws = prior.initial(20_000, t, generator("start"))
    exact, moments = (product.moments(), prior.moments())
    variance = t.alpha**2 * (exact.basis**2 @ exact.variance) + t.sigma**2
    scale = float(variance.max())
    z_test(draws, t.alpha * exact.mean, ceiling=0.02 * scale**0.5)
    z_test((draws - t.alpha * exact.mean) ** 2, variance, ceiling=0.02 * scale)
    torch.testing.assert_close(moments.mean, exact.mean)


@pairs
def test_the_start_of_networks_is_pure_noise_of_the_joint(pair):
    prior = JointPrior([Normal(schedule) for schedule in pair])
    t = pair[0].level(pair[0].t_max)
    draws = prior.initial(5000, t, generator("noise"))
    z_test((draws / t.sigma) ** 2, 1.0, ceiling=0.03)
    assert torch.equal(prior.log_initial_ratio(draws, t), torch.zeros(5000, dtype=F64))


def test_moments_are_those_of_the_product():
    found, exact = joint((VP(), VP())).moments(), Parts.product(VP()).moments()
    torch.testing.assert_close(found.mean, exact.mean)
    covariances = [m.basis @ torch.diag(m.variance) @ m.basis.T for m in (found, exact)]
    torch.testing.assert_close(*covariances, rtol=1e-10, atol=1e-10)


def test_moments_are_known_where_all_are():
    assert JointPrior([Parts.mixtures((VP(), VP()))[0], Normal()]).moments() is None
    a, b = _Known(3, full=False), _Known(4, full=True)
    diagonal = JointPrior([a, a]).moments()
    assert diagonal.basis is None
    torch.testing.assert_close(diagonal.variance, torch.cat([a.moments().variance] * 2))
    mixed, own = JointPrior([a, b]).moments(), b.moments()
    covariance = mixed.basis @ torch.diag(mixed.variance) @ mixed.basis.T
    expected = torch.block_diag(
        torch.diag(a.moments().variance), own.basis @ torch.diag(own.variance) @ own.basis.T
    )
    torch.testing.assert_close(covariance, expected)


def test_moments_of_many_coordinates_are_diagonal():
    small, large = _Known(4, full=True), _Known(1021, full=False)
    found, own = JointPrior([small, large]).moments(), small.moments()
    assert found.basis is None
    variances = (own.basis @ torch.diag(own.variance) @ own.basis.T).diag()
    torch.testing.assert_close(found.variance[:4], variances)
    torch.testing.assert_close(found.variance[4:], large.moments().variance)


class _Known(Normal):
    """A prior with made-up moments."""

    def __init__(self, d, full):
        super().__init__(event_shape=(d,))
        self.full = full

    def moments(self):
        d, basis = self.event_shape[0], None
        variance = torch.arange(1.0, d + 1, dtype=F64)
        if self.full:
            basis = torch.linalg.qr(torch.randn(d, d, generator=generator("basis"), dtype=F64))[0]
        return Moments(torch.ones(d, dtype=F64), variance, basis)


def test_exact_draws_are_independent_and_follow_the_members():
    prior, product = joint((VP(), EDM())), Parts.product(VP())
    x, exact = prior.exact_draws(20_000, generator("draws")), product.moments()
    covariance = exact.basis @ torch.diag(exact.variance) @ exact.basis.T
    centred = x - exact.mean
    z_test(x, exact.mean, ceiling=0.02)
    z_test(
        (centred[:, :, None] * centred[:, None, :]).flatten(1), covariance.flatten(), ceiling=0.02
    )
    twins = JointPrior([prior.priors[0]] * 2).exact_draws(5, generator("twins"))
    assert not torch.equal(twins[:, :2], twins[:, 2:])
    assert JointPrior([prior.priors[0], Normal()]).exact_draws(5, generator("draws")) is None


# ---- a run ---------------------------------------------------------------------------------------

SUM = torch.cat([torch.eye(2, dtype=F64), torch.eye(2, dtype=F64)], 1)
Y = torch.tensor([0.5, -0.3], dtype=F64)


def evidence(prior, seed, num_systems):
    """Z of a run per system, over its exact value."""
    truth = Parts.product(VP()).log_evidence(SUM, Y, 0.5)
    post = sg.sample(
        prior, sg.costs.LinearGaussian(SUM, Y, 0.5), num_particles=128, num_systems=num_systems,
        seed=seed, progress=False,
    )  # fmt: skip
    return torch.exp(post.log_evidence - truth)


@pytest.mark.parametrize("name", ["equal", "VP and EDM", "EDM and VP"])
def test_the_evidence_of_a_sum_of_sources_is_that_of_the_product(name):
    ratio = evidence(joint(PAIRS[name]), seed=1, num_systems=100)
    error, se = float(ratio.mean()) - 1, float(ratio.std()) / 10
    assert se <= 0.008
    assert abs(error) <= 4 * se
    assert abs(error) <= 0.02


def test_a_run_begins_at_pure_noise_though_a_member_does_not_know_it():
    one = evidence(joint(PAIRS["flow and VP"]), seed=1, num_systems=100)
    other = evidence(Parts.product(RectifiedFlow()), seed=2, num_systems=100)
    z_test(one, float(other.mean()), ceiling=0.01, truth_se=float(other.std()) / 10)


def test_a_run_takes_events_apart_for_a_cost_that_is_a_function():
    images = GaussianMixture(
        torch.ones(2), torch.randn(2, 1, 2, 2, generator=generator("m")), scale=0.5
    )
    prior = JointPrior([images, images])

    def cost(x):
        one, two = prior.split(x)
        assert one.shape == two.shape == (len(x), 1, 2, 2)
        return 20 * (one + two - 1).square().flatten(1).sum(-1)

    post = sg.sample(prior, cost, num_particles=64, num_steps=20, progress=False)
    first, second = prior.split(post.mean())
    assert first.shape == second.shape == (1, 2, 2)
    assert float((first + second - 1).abs().mean()) < 0.1


# ---- what members are asked ----------------------------------------------------------------------


def test_one_call_for_a_member_that_comes_twice_and_one_for_each_other():
    a, b, c = Normal(), Normal(), Normal(EDM())
    prior, x = JointPrior([a, b, a, c, a]), torch.ones(7, 10, dtype=F64)
    prior.denoise(x, 0.3)
    assert [p.calls for p in (a, b)] == [[((21, 2), 0.3)], [((7, 2), 0.3)]]
    assert [shape for shape, _ in c.calls] == [(7, 2)]


def test_a_member_is_told_its_own_time_at_the_same_noise():
    member = Normal(EDM())
    JointPrior([Normal(VP()), member]).denoise(torch.ones(1, 4, dtype=F64), 0.6)
    assert member.calls[0][1] == pytest.approx(VP().level(0.6).ratio, rel=1e-12)


def test_the_times_of_equal_tables_are_the_same_to_the_last_digit():
    member = Normal(table())
    prior = JointPrior([Normal(table()), member])
    for t in range(1, 1001, 7):
        prior.denoise(torch.ones(1, 4, dtype=F64), float(t))
    assert [t for _, t in member.calls] == [float(t) for t in range(1, 1001, 7)]


@pytest.mark.parametrize("pair", [(RectifiedFlow(), VP()), (EDM(t_max=1e4), VE()), (VP(), EDM())])
def test_no_member_is_asked_beyond_its_schedule(pair):
    members = [Normal(schedule) for schedule in pair]
    prior = JointPrior(members)
    ends = torch.tensor([pair[0].t_max, pair[0].t_min], dtype=F64)
    for t in torch.cat([ends, torch.linspace(pair[0].t_min, pair[0].t_max, 50, dtype=F64)]):
        assert torch.isfinite(prior.denoise(torch.ones(2, 4, dtype=F64), float(t))).all()
    times = [t for _, t in members[1].calls]
    assert min(times) >= pair[1].t_min
    assert max(times) <= pair[1].t_max


@pytest.mark.parametrize("lam", [200.0, 1e3, 1e5, math.inf])
def test_beyond_the_noise_of_a_member_its_answer_is_right_up_to_its_own_noise_end(lam):
    t = RectifiedFlow().level(
        float(RectifiedFlow().time(-2 * math.log(lam))) if lam < math.inf else 1.0
    )
    x, end = states(t), VP().level(1.0).ratio
    exact = Parts.product(RectifiedFlow()).denoise(x, t.time)
    gap = joint((RectifiedFlow(), VP())).denoise(x, t.time) - exact
    assert float(gap[:, :2].abs().max()) < 1e-12
    assert float(gap[:, 2:].abs().max()) < 2 / end**2  # its pull, of order 1 / lam, is right


@pytest.mark.parametrize("lam", [0.0, 0.002, 0.005, 0.01])
def test_below_the_noise_of_a_member_its_score_goes_on(lam):
    t = EDM().level(lam)
    x = Parts.product(EDM()).sample(50, generator("data"))
    exact, bottom = Parts.product(EDM()).denoise(x, lam), VP().level(VP().t_min).ratio
    gap = joint((EDM(), VP())).denoise(x, lam) - exact
    assert float(gap[:, :2].abs().max()) < 1e-12
    assert float(gap[:, 2:].abs().max()) <= 40 * t.ratio**2 * bottom**2 + 1e-12


def test_beyond_the_noise_of_a_member_its_start_is_pure_noise():
    prior, t = joint((RectifiedFlow(), VP())), RectifiedFlow().level(1.0)
    draws = prior.initial(5000, t, generator("pure"))
    z_test(draws**2, 1.0, ceiling=0.03)
    assert float(prior.log_initial_ratio(draws, t).abs().max()) < 1e-12
    level = RectifiedFlow().level(0.999)
    x = states(level)
    member = prior.priors[0].log_initial_ratio(x[:, :2], level)
    torch.testing.assert_close(prior.log_initial_ratio(x, level), member)
    noise = torch.distributions.Normal(0.0, level.sigma).log_prob(x).sum(-1)
    torch.testing.assert_close(prior.log_prob(x, 0.999), noise + member)


def test_a_start_where_the_law_of_a_member_is_unknown_is_refused():
    cost = sg.costs.LinearGaussian(SUM, Y, 0.5)
    late = torch.tensor([0.3, 0.1, 0.0], dtype=F64)
    for prior in (
        JointPrior([Normal(), Normal()]),
        JointPrior([Parts.mixtures((VP(), VP()))[0], Normal()]),
    ):
        with pytest.raises(InvalidInput, match=r"law of x_t of .*Normal.* is not N\(0, sigma\^2\)"):
            sg.sample(prior, cost, times=late, num_particles=8, progress=False)
    short = JointPrior([Normal(VE(0.01, 3.0)), Normal()])
    with pytest.raises(InvalidInput, match=r"schedules have more of it go first"):
        sg.sample(short, cost, num_steps=5, num_particles=8, progress=False)
    sg.sample(joint((VP(), VP())), cost, times=late, num_particles=8, progress=False)


# ---- events, moving, refused input ---------------------------------------------------------------


def members():
    one = GaussianMixture(torch.ones(1), torch.zeros(1, 1, 2, 3, dtype=F64), scale=1.0)
    two = GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
    return [one, two]


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_split_and_join_are_inverse(lead):
    prior = JointPrior(members())
    x = torch.randn(*lead, 8, generator=generator("events"), dtype=F64)
    parts = prior.split(x)
    assert [tuple(a.shape) for a in parts] == [(*lead, 1, 2, 3), (*lead, 2)]
    assert torch.equal(parts[0].reshape(*lead, 6), x[..., :6])
    assert torch.equal(prior.join(parts), x)


def test_no_particles_are_no_particles():
    prior = JointPrior([members()[1]] * 2)
    assert prior.denoise(torch.zeros(0, 4, dtype=F64), 0.3).shape == (0, 4)
    assert prior.log_prob(torch.zeros(0, 4, dtype=F64)).shape == (0,)


def test_events_that_do_not_fit_are_refused():
    prior = JointPrior(members())
    with pytest.raises(InvalidInput, match=r"split: events of shape \(3, 7\), expected \(..., 8\)"):
        prior.split(torch.zeros(3, 7))
    for parts in (
        [],
        [torch.zeros(3, 1, 2, 3)],
        [torch.zeros(3, 1, 2, 3), torch.zeros(4, 2)],
        [torch.zeros(3, 2), torch.zeros(3, 1, 2, 3)],
        [torch.zeros(3, 6), torch.zeros(3, 2)],
    ):
        with pytest.raises(
            InvalidInput, match=r"join: parts of shapes .* for E in \[\(1, 2, 3\), \(2,\)\]"
        ):
            prior.join(parts)


def test_members_that_do_not_fit_are_refused():
    two = members()[1]
    with pytest.raises(
        InvalidInput, match=r"torch.float64 particles on cpu, .* torch.float32 on cpu"
    ):
        JointPrior([two, two.to(dtype=torch.float32)])
    with pytest.raises(InvalidInput, match=r"on cpu, .* torch.float64 on meta"):
        JointPrior([two, two.to("meta")])
    for priors in ([], two, [two, torch.nn.Linear(2, 2)], None):
        with pytest.raises(InvalidInput, match=r"expected a list of priors"):
            JointPrior(priors)


def test_a_member_without_a_density_is_named():
    prior = JointPrior(
        [members()[1], NetworkPrior(lambda x, t: x, VP(), "sample", (2,), dtype=F64)]
    )
    with pytest.raises(InvalidInput, match=r"NetworkPrior.* has no log_prob"):
        prior.log_prob(torch.zeros(1, 4, dtype=F64))


def test_a_moved_prior_moves_its_members_and_calls_them_as_often():
    a, b = members()
    prior = JointPrior([b, a, b])
    moved = prior.to(dtype=torch.float32)
    assert [p.dtype for p in (moved, *moved.priors)] == [torch.float32] * 4
    assert [p.dtype for p in (prior, *prior.priors)] == [F64] * 4
    assert moved.priors[0] is moved.priors[2]
    assert prior.to("cpu", F64) is prior
    x = torch.randn(4, 10, generator=generator("moved"), dtype=F64)
    torch.testing.assert_close(moved.denoise(x.float(), 0.3), prior.denoise(x, 0.3).float())


def test_a_joint_prior_is_a_prior_among_others():
    a, b = Parts.mixtures((VP(), EDM()))
    nested, flat = JointPrior([JointPrior([a, b]), b]), JointPrior([a, b, b])
    x = states(VP().level(0.4), d=6)
    torch.testing.assert_close(nested.denoise(x, 0.4), flat.denoise(x, 0.4), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nested.log_prob(x, 0.4), flat.log_prob(x, 0.4))


def test_repr_names_the_members():
    assert repr(JointPrior(members())).startswith(
        "JointPrior([GaussianMixture(1 components, event (1,"
    )


class TestJointPrior(PriorSuite):
    def instances(self):
        a, b = Parts.mixtures((VP(), VP()))
        return [JointPrior([a, b, a]), joint((VP(), VE())), joint((EDM(), VP()))]
