"""Estimators beyond the weighted mean: each against a closed form, each with an honest error."""

import math
from dataclasses import replace

import pytest
import torch

import smcguide as sg
from smcguide.diagnostics.estimators import (
    Exceedance,
    adaptive,
    control_variates,
    expectations,
    rare_event,
    ridge,
    scores,
    thermodynamic_log_z,
)
from smcguide.diagnostics.estimators.proposal import Defensive
from smcguide.diagnostics.estimators.remainder import remainders
from smcguide.diagnostics.estimators.ridge import stein_kernel
from smcguide.diagnostics.estimators.sample import Sample
from smcguide.diagnostics.estimators.thermodynamic import corrected_trapezium
from smcguide.errors import InvalidInput
from smcguide.evidence import GENEALOGY, LEE_WHITELEY, standard_error
from smcguide.testing.oracles import gaussian_chain
from smcguide.testing.statistics import seed, z_test

F64 = torch.float64


def normal_tail(z):
    return math.erfc(z / math.sqrt(2)) / 2


def posterior_of(x, log_w=None, eves=None, has_systems=True):
    """Particles (S, N, d) as the result of a run that never resampled."""
    S, N = x.shape[:2]
    zeros = torch.zeros(S, dtype=F64)
    eves = torch.arange(N).expand(S, N) if eves is None else eves
    trace = {"resampled": torch.zeros(S, 2, dtype=torch.bool)}
    log_w = torch.zeros(S, N, dtype=F64) if log_w is None else log_w
    return sg.Posterior(
        x, log_w, eves, zeros, zeros, trace, torch.tensor([1.0, 0.0]), has_systems=has_systems
    )


# ---- Stein control variates ----------------------------------------------------------------------

MIXTURE = sg.priors.GaussianMixture(
    torch.ones(3), torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.5]], dtype=F64), scale=0.6
)


def integrands(x):
    return torch.stack([x[:, 0], x[:, 1], x[:, 0] * x[:, 1], torch.exp(x[:, 0])], 1)


def integrals():
    """The same, exactly: every component is isotropic."""
    m, v = MIXTURE._m, 0.36
    exact = torch.stack([m[:, 0], m[:, 1], m[:, 0] * m[:, 1], torch.exp(m[:, 0] + v / 2)], 1)
    return exact.mean(0)


def weighted_draws(S, N, stream):
    """Draws from a wide Gaussian, weighted towards the mixture."""
    g = torch.Generator().manual_seed(seed(stream))
    x = 1.5 * torch.randn(S, N, 2, generator=g, dtype=F64)
    log_q = -x.square().sum(-1) / (2 * 1.5**2) - math.log(2 * math.pi * 1.5**2)
    return posterior_of(x, MIXTURE.log_prob(x.flatten(0, 1)).reshape(S, N) - log_q)


def test_the_stein_kernel_is_that_of_its_base_kernel():
    g = torch.Generator().manual_seed(0)
    x, y, s, r = (torch.randn(2, generator=g, dtype=F64) for _ in range(4))
    length = torch.tensor(1.3, dtype=F64)

    def base(x, y):
        return 1 + x @ y + torch.exp(-(x - y).square().sum() / (2 * length**2))

    x.requires_grad_(), y.requires_grad_()
    value = base(x, y)
    gx, gy = torch.autograd.grad(value, (x, y), create_graph=True)
    mixed = sum(torch.autograd.grad(gx[i], y, retain_graph=True)[0][i] for i in range(2))
    expected = (mixed + s @ gy + r @ gx + value * (s @ r)).detach()
    x, y = x.detach(), y.detach()
    found = stein_kernel((x[None], s[None]), (y[None], r[None]), length)
    torch.testing.assert_close(found[0, 0], expected)


def test_control_variates_take_most_of_the_variance_away_and_keep_the_mean():
    post = weighted_draws(100, 150, "stein")
    found = control_variates(post, integrands, scores(post, MIXTURE.log_prob))
    z_test(found.estimates, integrals(), ceiling=0.01)
    measured = found.estimates.var(0) / found.plain.var(0)
    assert float(measured.max()) < 0.5
    honest = found.standard_errors.square().mean(0).sqrt() / found.estimates.std(0)
    assert float(honest.min()) > 0.6 and float(honest.max()) < 1.6
    claimed = found.variance_ratio.mean(0)
    assert bool(((claimed / measured > 0.3) & (claimed / measured < 3)).all())
    torch.testing.assert_close(found.plain, post.expect(integrands))
    torch.testing.assert_close(found.plain_errors, post.expect_se(integrands))


def test_first_and_second_moments_of_a_gaussian_are_exact_in_ten_dimensions():
    g = torch.Generator().manual_seed(seed("gaussian"))
    root = torch.randn(10, 10, generator=g, dtype=F64) / 3 + torch.eye(10, dtype=F64)
    mean = torch.arange(10, dtype=F64)
    x = mean + torch.randn(1, 600, 10, generator=g, dtype=F64) @ root.T
    covariance = root @ root.T
    slope = -(x - mean) @ torch.linalg.inv(covariance)
    post = posterior_of(x, has_systems=False)

    def moments(x):
        return torch.cat([x, x[:, :1] * x], 1)

    exact = torch.cat([mean, covariance[0] + mean[0] * mean])
    found = control_variates(post, moments, slope)
    assert found.estimates.shape == found.standard_errors.shape == (20,)
    assert found.relatedness.shape == (20, 20)
    torch.testing.assert_close(found.estimates, exact, atol=0.01, rtol=0)
    assert float((found.plain - exact).abs().max()) > 0.05


def test_useless_control_variates_are_left_out():
    g = torch.Generator().manual_seed(seed("noise"))
    x = torch.randn(40, 60, 8, generator=g, dtype=F64)
    post = posterior_of(x)
    found = control_variates(post, lambda x: torch.sin(40 * x[:, :2].sum(1, keepdim=True)), -x)
    assert float(found.estimates.var(0) / found.plain.var(0)) < 1.3


def test_an_integrand_that_does_not_vary_has_no_error_and_dead_particles_may_hold_anything():
    post = weighted_draws(2, 50, "constant")
    x, log_w = post.x.clone(), post.log_w.clone()
    x[:, 0], log_w[:, 0] = torch.nan, -torch.inf
    post = posterior_of(x, log_w)

    def f(x):
        return torch.stack([torch.full_like(x[:, 0], 3.0), x[:, 0]], 1)

    found = control_variates(post, f, scores(post, MIXTURE.log_prob))
    torch.testing.assert_close(found.estimates[:, 0], torch.full((2,), 3.0, dtype=F64))
    assert bool(found.standard_errors.isfinite().all())


def test_a_family_is_not_divided_between_fit_and_estimate():
    """Copies of a particle in both halves would make the error look like nothing."""
    g = torch.Generator().manual_seed(seed("families"))
    x = torch.randn(60, 40, 1, generator=g, dtype=F64).repeat_interleave(4, 1)
    eves = torch.arange(160).div(4, rounding_mode="floor").expand(60, 160)
    post = posterior_of(x, eves=eves)
    found = control_variates(post, lambda x: torch.sin(3 * x), -x)
    honest = found.standard_errors.square().mean().sqrt() / found.estimates.std()
    assert 0.6 < float(honest) < 1.6


def test_a_guided_run_is_improved():
    cost = sg.costs.LinearGaussian(
        torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([0.4], dtype=F64), 0.5
    )
    post = sg.sample(MIXTURE, cost, num_particles=200, num_steps=100, seed=1, progress=False)
    slope = scores(post, lambda x: MIXTURE.log_prob(x) - cost(x[None])[0])
    found = control_variates(post, integrands, slope)
    law = MIXTURE.posterior(cost.matrix((2,)), torch.tensor([0.4], dtype=F64), 0.5)
    exact = law._log_w.exp() @ law._m
    assert float(found.variance_ratio[:2].max()) < 0.1
    torch.testing.assert_close(found.estimates[:2], exact, atol=0.02, rtol=0)


def test_bad_input_to_control_variates_is_refused():
    post = weighted_draws(1, 20, "bad")
    slope = scores(post, MIXTURE.log_prob)
    with pytest.raises(InvalidInput, match=r"expected \(M, T\)"):
        control_variates(post, lambda x: x[:, 0], slope)
    with pytest.raises(InvalidInput, match="score is"):
        control_variates(post, integrands, slope[:, :5])
    with pytest.raises(InvalidInput, match="must be finite"):
        control_variates(post, integrands, slope * torch.nan)
    with pytest.raises(InvalidInput, match="one family"):
        control_variates(posterior_of(post.x, eves=torch.zeros(1, 20).long()), integrands, slope)
    with pytest.raises(InvalidInput, match="no gradient"):
        scores(post, lambda x: MIXTURE.log_prob(x.detach()))
    # each of these would be summed silently
    for shaped in (
        lambda v: v[:, None] + v,
        lambda v: v[:, None],
        lambda v: torch.stack([v, v], 1),
    ):
        with pytest.raises(InvalidInput, match="one number per event"):
            scores(post, lambda x, shaped=shaped: shaped(MIXTURE.log_prob(x)))


def test_control_variates_of_scalar_events_are_those_of_vectors_of_one_number():
    g = torch.Generator().manual_seed(seed("scalar"))
    x = torch.randn(2, 40, generator=g, dtype=F64)
    post, same = posterior_of(x[..., None]), posterior_of(x[..., None])
    scalar = replace(post, x=x)
    slope = scores(scalar, lambda x: -x.square() / 2)
    torch.testing.assert_close(slope, -x)
    one = control_variates(scalar, lambda x: x[:, None] ** 2, slope)
    two = control_variates(same, lambda x: x**2, slope[..., None])
    torch.testing.assert_close(one.estimates, two.estimates)
    torch.testing.assert_close(one.standard_errors, two.standard_errors)


# ---- adaptive importance sampling ----------------------------------------------------------------


def normal_draw(num, generator):
    return torch.randn(num, 2, generator=generator, dtype=F64)


def normal_log_p(x):
    return -x.square().sum(1) / 2 - math.log(2 * math.pi)


def peaked(x):
    a, b = x.T
    return torch.stack([(a > 2.5).double(), torch.exp(2 * a), (b > 2) * b], 1)


PEAKED = torch.tensor(
    [normal_tail(2.5), math.exp(2), math.exp(-2) / math.sqrt(2 * math.pi)], dtype=F64
)


def ishigami(x):
    return (
        torch.sin(x[:, 0]) + 7 * torch.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * torch.sin(x[:, 0])
    )


def pick_freeze(z):
    """Y - 3, its square, and its product with the Y that shares one input, for each input."""
    x, y = z[:, :3], z[:, 3:]
    own = ishigami(x) - 3
    shared = [ishigami(torch.where(torch.arange(3) == i, x, y)) - 3 for i in range(3)]
    return torch.stack([own, own**2, *(own * other for other in shared)], 1)


def uniform_draw(num, generator):
    return math.pi * (2 * torch.rand(num, 6, generator=generator, dtype=F64) - 1)


def uniform_log_p(x):
    return torch.where((x.abs() <= math.pi).all(1), -6 * math.log(2 * math.pi), -torch.inf)


def powers(z):
    u = z / math.pi
    return torch.cat([u, u**3, u**2 - 1 / 3, u**4 - 1 / 5], 1)


def test_several_peaked_expectations_gain_at_once_without_bias():
    found = [expectations(peaked, normal_draw, normal_log_p, 600, seed=s) for s in range(100)]
    estimates = torch.stack([one.estimates for one in found])
    z_test(estimates / PEAKED, 1.0, ceiling=0.05)
    one_draw = torch.tensor(  # variances under p
        [PEAKED[0] * (1 - PEAKED[0]), math.exp(8) - math.exp(4), 0.0], dtype=F64
    )
    one_draw[2] = 2 * PEAKED[2] + normal_tail(2.0) - PEAKED[2] ** 2  # E b^2 1(b > 2) by parts
    measured = estimates.var(0) / (one_draw / 600)
    assert float(measured.max()) < 0.7
    errors = torch.stack([one.standard_errors for one in found]).square().mean(0).sqrt()
    assert float((errors / estimates.std(0)).min()) > 0.6
    assert max(one.rounds for one in found) > 0


def test_adapting_stops_where_it_does_not_pay():
    found = expectations(lambda x: x, normal_draw, normal_log_p, 1000)
    assert found.rounds <= 2 and found.final_draws >= 700
    always = expectations(lambda x: torch.ones_like(x), normal_draw, normal_log_p, 1000)
    torch.testing.assert_close(always.estimates, torch.ones(2, dtype=F64))


def test_sobol_indices_of_the_ishigami_function_match_their_closed_form():
    one, two = (1 + 0.1 * math.pi**4 / 5) ** 2 / 2, 49 / 8
    V = one + two + 0.01 * math.pi**8 * (1 / 18 - 1 / 50)
    exact = torch.tensor([0.5, V + 0.25, one + 0.25, two + 0.25, 0.25], dtype=F64)
    found = [
        expectations(pick_freeze, uniform_draw, uniform_log_p, 2000, controls=powers, seed=s)
        for s in range(100)
    ]
    E = torch.stack([one.estimates for one in found])
    z_test(E, exact, ceiling=0.2)
    index = (E[:, 2:] - E[:, :1] ** 2) / (E[:, 1:2] - E[:, :1] ** 2)
    truth = torch.tensor([one, two, 0.0], dtype=F64) / V
    assert float((index.mean(0) - truth).abs().max()) < 0.03
    g = torch.Generator().manual_seed(seed("ishigami"))
    plain = pick_freeze(uniform_draw(100_000, g)).var(0) / 2000
    assert float((E.var(0) / plain).mean()) < 0.95
    claimed = torch.stack([one.variance_ratio for one in found]).mean(0)
    torch.testing.assert_close(claimed, E.var(0) / plain, rtol=0.7, atol=0)


def test_bad_input_to_expectations_is_refused():
    with pytest.raises(InvalidInput, match="at least 100"):
        expectations(peaked, normal_draw, normal_log_p, 50)
    with pytest.raises(InvalidInput, match="finite"):
        expectations(lambda x: x / 0, normal_draw, normal_log_p, 200)
    with pytest.raises(InvalidInput, match="f gave"):
        expectations(lambda x: x[:, 0], normal_draw, normal_log_p, 200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_p": lambda x: normal_log_p(x)[:, None]}, "log_p gave"),
        ({"log_p": lambda x: normal_log_p(x) * torch.nan}, "NaN"),
        ({"log_p": lambda x: normal_log_p(x) + torch.inf}, "inf"),
        ({"log_p": lambda x: torch.full_like(x[:, 0], -torch.inf)}, "-inf"),
        ({"draw": lambda num, g: normal_draw(num - 1, g)}, "draw gave"),
        ({"draw": lambda num, g: torch.zeros(())}, "draw gave"),
        ({"f": lambda x: peaked(x)[:-1]}, "f gave"),
        ({"f": lambda x: peaked(x)[:, :0]}, "J >= 1"),
        ({"controls": lambda x: x[:-1]}, "controls"),
        ({"budget": 500.5}, "budget must be a whole number"),
        ({"num_components": 1.5}, "num_components must be a whole number"),
    ],
    ids=[
        "log_p column", "log_p NaN", "log_p +inf", "log_p -inf", "few draws", "no axis", "few f", "no f",
        "few controls", "half an evaluation", "half a component",
    ],
)  # fmt: skip
def test_functions_of_expectations_that_do_not_fit_are_refused(change, message):
    given = {"f": peaked, "draw": normal_draw, "log_p": normal_log_p, "budget": 200}
    with pytest.raises(InvalidInput, match=message):
        expectations(**given | change)


def test_expectations_of_scalar_events_are_those_of_vectors_of_one_number():
    def draw(num, generator):
        return torch.randn(num, generator=generator, dtype=F64)

    def log_p(x):
        return -x.square() / 2 - math.log(2 * math.pi) / 2

    one = expectations(lambda x: (x > 2).double()[:, None], draw, log_p, 600)
    two = expectations(
        lambda x: (x > 2).double(), lambda n, g: draw(n, g)[:, None], lambda x: log_p(x[:, 0]), 600
    )
    assert one.rounds > 0
    torch.testing.assert_close(one.estimates, two.estimates)
    assert abs(float(one.estimates) / normal_tail(2.0) - 1) < 0.5


def test_functions_that_are_zero_at_every_draw_have_expectation_zero():
    found = expectations(lambda x: (x[:, :1] > 20).double(), normal_draw, normal_log_p, 200)
    assert found.estimates.tolist() == found.standard_errors.tolist() == [0.0] and found.rounds == 0


def test_coefficients_of_control_variates_do_not_see_the_draws_that_they_correct():
    """b fitted to |x|^2 at the same 20 draws has a bias of -10 / 20 here, from cov(x, x |x|^2)."""
    g, found = torch.Generator().manual_seed(seed("folds")), []
    for _ in range(300):
        x = torch.randn(20, 5, generator=g, dtype=F64)
        law, zero = Defensive(None, None, 0.2), torch.zeros(20, dtype=F64)
        last = Sample(x, x.square().sum(1, keepdim=True), x, zero, zero)
        found.append(adaptive._answer(last, law, 20, 0).estimates)
    z_test(torch.stack(found), 5.0, ceiling=0.3)


# ---- rare events ---------------------------------------------------------------------------------

NORMAL = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
DIRECTION = torch.tensor([0.6, 0.8], dtype=F64)
TAIL = Exceedance(lambda x: x @ DIRECTION, 3.0, 0.3)
TIMES = sg.grids.karras(30)


def chain_tail(threshold):
    """P(x . direction > threshold) under the discretised chain."""
    levels = [NORMAL.schedule.level(float(t)) for t in TIMES(NORMAL.schedule)]
    law = gaussian_chain(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), levels)
    return normal_tail(threshold / float(DIRECTION @ law.covariance @ DIRECTION) ** 0.5)


def tail_run(cost=TAIL, systems=None, **options):
    options = {"num_particles": 200, "seed": seed("tail"), **options}
    return sg.sample(
        NORMAL, cost, num_systems=systems, times=TIMES, kernel=sg.kernels.DDIM(1.0), progress=False,
        **options,
    )  # fmt: skip


def each(post):
    """The systems of a run, one by one."""
    for s in range(len(post.log_w)):
        own = slice(s, s + 1)
        trace = {name: a[own] for name, a in post.trace.items()}
        yield sg.Posterior(
            post.x[own], post.log_w[own], post.eves[own], post.log_z[own], post.bound[own], trace,
            post.times, settings=post.settings, has_systems=False,
        )  # fmt: skip


def test_a_gaussian_tail_is_estimated_without_bias_and_with_an_honest_error():
    post = tail_run(systems=100)
    exact = chain_tail(3.0)
    single = [rare_event(one, TAIL.event, TAIL) for one in each(post)]
    found = torch.stack([one.probability for one in single])
    z_test(found / exact, 1.0, ceiling=0.05)
    claimed = torch.stack([one.relative_error for one in single]).square().nanmean().sqrt()
    assert 0.6 < float(claimed / (found.std() / exact)) < 1.6
    pooled = rare_event(post, TAIL.event, TAIL)
    torch.testing.assert_close(pooled.probability, found.mean())
    torch.testing.assert_close(pooled.log10, found.mean().log10())
    assert float(pooled.relative_error) == pytest.approx(
        float(found.std() / found.mean()) / 10, rel=0.1
    )


def test_the_evidence_of_a_hard_cost_is_the_probability():
    post = tail_run(
        lambda x: torch.where(x @ DIRECTION > 1.0, 0.0, torch.inf), systems=100,
        potential=sg.potentials.Terminal(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    found = rare_event(post)
    exact = chain_tail(1.0)
    z_test(post.log_evidence.exp() / exact, 1.0, ceiling=0.05)
    torch.testing.assert_close(found.probability, post.log_evidence.exp().mean())
    again = rare_event(post, lambda x: x @ DIRECTION > 1.0)
    torch.testing.assert_close(again.probability, found.probability)
    assert again.hits == int((post.log_w > -torch.inf).sum())


def test_an_event_that_nobody_reached_has_probability_zero_and_no_error():
    for systems in (None, 3):
        found = rare_event(tail_run(systems=systems), lambda x: x[:, 0] > 99, TAIL)
        assert float(found.probability) == 0 and found.hits == 0
        assert math.isnan(float(found.relative_error))


def test_bad_input_to_rare_event_is_refused():
    post = tail_run()
    with pytest.raises(InvalidInput, match="give the event"):
        rare_event(post, cost=TAIL)
    with pytest.raises(InvalidInput, match="expected bool"):
        rare_event(post, lambda x: x[:, 0], TAIL)
    with pytest.raises(InvalidInput, match="not finite"):
        rare_event(post, TAIL.event, lambda x: torch.full_like(x[:, 0], torch.inf))
    with pytest.raises(InvalidInput, match="needs the log Z"):
        rare_event(post.unweighted(), TAIL.event, TAIL)
    with pytest.raises(InvalidInput, match="pooled already"):
        rare_event(tail_run(systems=2).pooled(), TAIL.event, TAIL)


def test_the_error_of_a_rare_event_is_that_of_its_resampling_scheme():
    for resampler, method in (
        (sg.resamplers.Multinomial(), LEE_WHITELEY),
        (sg.resamplers.Systematic(), GENEALOGY),
    ):
        post = tail_run(resampler=resampler)
        found = rare_event(post, TAIL.event, TAIL)
        assert found.method == method
        log_w = torch.where(
            TAIL.event(post.x[0]), post.log_w[0] + TAIL(post.x[0]).double(), -torch.inf
        )
        expected, _ = standard_error(
            post.log_z, log_w.softmax(0)[None], post.eves, post.trace["resampled"].sum(1),
            multinomial=method == LEE_WHITELEY, replicates=False,
        )  # fmt: skip
        torch.testing.assert_close(found.relative_error, expected[0])


def test_a_terminal_cost_of_systems_is_a_cost_of_rare_events():
    cost = sg.costs.LinearGaussian(DIRECTION[None], torch.tensor([1.0], dtype=F64), 0.5)
    post = tail_run(cost, systems=3, num_particles=100)

    def flat(x):
        return cost(x[None])[0]

    found, same = (rare_event(post, lambda x: x @ DIRECTION > 1.0, c) for c in (cost, flat))
    torch.testing.assert_close(found.probability, same.probability)
    assert float(found.probability) == pytest.approx(chain_tail(1.0), rel=0.3)


@pytest.mark.parametrize("width", [0.0, -0.3, math.nan, math.inf])
def test_the_soft_edge_of_an_exceedance_has_a_positive_width(width):
    with pytest.raises(InvalidInput, match="width"):
        Exceedance(lambda x: x[:, 0], 3.0, width)


# ---- thermodynamic integration -------------------------------------------------------------------

SUM, READ = torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([0.4], dtype=F64)
READING = sg.costs.LinearGaussian(SUM, READ, 0.5)
TARGET, NOISE = torch.tensor([1.5, -0.5, 0.5], dtype=F64), 0.5


def reading_cost(x):
    return READING(x[None])[0]


def square_cost(x):
    return (x - TARGET).square().sum(1) / (2 * NOISE**2)


def power_grid(num):
    return (torch.arange(num, dtype=F64) / (num - 1)) ** 4


def tempered(t):
    """Mean and variance of each coordinate of a standard normal times exp(-t cost); t (L,)."""
    v = 1 / (1 + t / NOISE**2)
    return (t * v / NOISE**2)[:, None] * TARGET, v


def cost_moments(t):
    """Mean and variance of the cost at temperatures t (L,)."""
    mean, v = tempered(t)
    square = (mean - TARGET).square().sum(1)
    d, twice = len(TARGET), 2 * NOISE**2
    return (square + d * v) / twice, (2 * d * v**2 + 4 * v * square) / twice**2


def exact_log_z():
    squares = float(TARGET.square().sum())
    return -len(TARGET) / 2 * math.log1p(1 / NOISE**2) - squares / (2 * (1 + NOISE**2))


def tempered_runs(S, N, t, stream, has_systems=True):
    """Draws at each temperature, and their scores."""
    g = torch.Generator().manual_seed(seed(stream))
    posts, slopes = [], []
    for mean, v in zip(*tempered(t), strict=True):
        z = torch.randn(S, N, len(TARGET), generator=g, dtype=F64)
        posts.append(posterior_of(mean + v.sqrt() * z, has_systems=has_systems))
        slopes.append(-z / v.sqrt())
    return posts, slopes


def test_the_corrected_trapezium_is_of_fourth_order_and_the_plain_one_is_not():
    gaps = []
    for num in (9, 17, 33):
        t = power_grid(num)
        E, V = cost_moments(t)
        gaps.append(abs(float(corrected_trapezium(t, E, V)) - exact_log_z()))
    assert gaps[1] / gaps[2] > 12 and gaps[0] / gaps[1] > 10
    assert abs(float(corrected_trapezium(t, E, 0 * V)) - exact_log_z()) > 30 * gaps[2]


def test_log_z_of_a_gaussian_is_exact_up_to_the_quadrature_error_that_is_told():
    t = power_grid(7)
    posts, slopes = tempered_runs(1, 100, t, "quadrature", has_systems=False)
    found = thermodynamic_log_z(posts, t, square_cost, slopes)
    assert found.log_z.shape == found.quadrature_error.shape == () and found.means.shape == (7,)
    E, V = cost_moments(t)
    rule = float(corrected_trapezium(t, E, V))
    assert abs(float(found.log_z) - rule) < 0.25 * float(found.plain_error)
    assert 0.4 < float(found.quadrature_error) / abs(rule - exact_log_z()) < 2.5
    torch.testing.assert_close(found.means, E, rtol=0.05, atol=0)


def test_temperatures_share_control_variates_and_the_errors_are_honest(monkeypatch):
    t = power_grid(5)
    laws = [MIXTURE, *(MIXTURE.posterior(SUM, READ, 0.5 / float(s) ** 0.5) for s in t[1:])]
    g = torch.Generator().manual_seed(seed("sharing"))
    posts = [posterior_of(law.sample(100 * 20, g).reshape(100, 20, 2)) for law in laws]
    slopes = [scores(p, law.log_prob) for p, law in zip(posts, laws, strict=True)]
    found = thermodynamic_log_z(posts, t, reading_cost, slopes)
    exact = float(MIXTURE.log_evidence(SUM, READ, 0.5))
    z_test(found.log_z, exact, ceiling=0.02)
    many = [reading_cost(law.sample(200_000, g)).mean() for law in laws]
    z_test(found.means / torch.stack(many), 1.0, ceiling=0.05)
    for value, error in ((found.log_z, found.standard_error), (found.plain, found.plain_error)):
        assert 0.6 < float(error.square().mean().sqrt() / value.std()) < 1.5
    honest = found.mean_errors.square().mean(0).sqrt() / found.means.std(0)
    assert float(honest.min()) > 0.5 and float(honest.max()) < 1.8
    measured = float(found.log_z.var() / found.plain.var())
    assert measured < 0.5
    assert 0.3 < float(found.variance_ratio.mean()) / measured < 3
    monkeypatch.setattr(ridge, "_SHARED", (0.0,))
    alone = thermodynamic_log_z(posts, t, reading_cost, slopes)
    assert float(found.log_z.var() / alone.log_z.var()) < 0.8


def test_a_control_variate_knows_nothing_of_the_values_that_it_is_taken_from():
    """Units learned from all particles are large where the variate is: a bias of some per cent."""
    t = power_grid(3)
    posts, slopes = tempered_runs(1, 20, t, "units")
    values = [square_cost(p.x[0])[None, :, None] for p in posts]
    even = torch.arange(20) % 2 == 0
    other = [torch.where(even[:, None], v, v.square()) for v in values]
    taken, again = (
        [v - left for v, left in zip(vs, remainders(posts, vs, slopes, 0), strict=True)]
        for vs in (values, other)
    )
    for one, two in zip(taken, again, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one[:, ~even], two[:, ~even])


def test_guided_runs_at_several_temperatures_give_the_evidence():
    t = power_grid(5).tolist()
    runs = [
        sg.sample(
            MIXTURE, lambda x, s=s: s * reading_cost(x), num_particles=60, num_systems=4,
            num_steps=30, seed=i, progress=False,
        )
        for i, s in enumerate(t)
    ]  # fmt: skip
    slopes = [
        scores(run, lambda x, s=s: MIXTURE.log_prob(x) - s * reading_cost(x))
        for run, s in zip(runs, t, strict=True)
    ]
    found = thermodynamic_log_z(runs, t, reading_cost, slopes)
    exact = MIXTURE.log_evidence(SUM, READ, 0.5)
    torch.testing.assert_close(found.log_z, exact.expand(4), atol=0.15, rtol=0)
    assert float(found.variance_ratio.mean()) < 0.5
    with pytest.raises(InvalidInput, match="seeds are 0, 0, 1"):
        thermodynamic_log_z([runs[0], *runs[:4]], t, reading_cost, slopes)


def test_bad_input_to_thermodynamic_integration_is_refused():
    t = power_grid(3)
    posts, slopes = tempered_runs(2, 12, t, "bad")
    for wrong in ([0.0, 1.0], [0.1, 0.5, 1.0], [0.0, 0.5, 0.9], [0.0, 0.5, 0.5, 1.0]):
        with pytest.raises(InvalidInput, match="increase from 0 to 1"):
            thermodynamic_log_z(posts, wrong, square_cost, slopes)
    with pytest.raises(InvalidInput, match="2 runs and 3 scores"):
        thermodynamic_log_z(posts[:2], t, square_cost, slopes)
    with pytest.raises(InvalidInput, match="3 runs and 2 scores"):
        thermodynamic_log_z(posts, t, square_cost, slopes[:2])
    fewer, _ = tempered_runs(1, 12, t, "fewer")
    with pytest.raises(InvalidInput, match="the same systems"):
        thermodynamic_log_z([*posts[:2], fewer[2]], t, square_cost, slopes)
    with pytest.raises(InvalidInput, match=r"gave \(24, 3\), expected \(M,\)"):
        thermodynamic_log_z(posts, t, lambda x: x, slopes)
    with pytest.raises(InvalidInput, match="a score is"):
        thermodynamic_log_z(posts, t, square_cost, [s[:, :5] for s in slopes])
    with pytest.raises(InvalidInput, match="must be finite"):
        thermodynamic_log_z(posts, t, lambda x: square_cost(x) / 0, slopes)
