"""Unknown parameters of a cost: their priors, costs that have some, and what a result says of them."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    HalfCauchy,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import smcguide as sg
from smcguide import Independent, Parameters
from smcguide.costs import LinearGaussian, ParametricCost, ParametricFunction
from smcguide.parameter_moves import HMC, MALA, RandomWalk
from smcguide.potentials import InflatedGaussian, MonteCarlo, Tweedie
from smcguide.testing import GaussianLaw, gaussian_chain, generator, z_test
from smcguide.testing.conformance.proposal import COVARIANCE, MEAN, TIMES

F64 = torch.float64
Y = torch.tensor([0.3, -1.2], dtype=F64)


def t(*values, dtype=F64):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=dtype)


def priors(dtype=F64):
    """Name -> distribution and p."""
    of = partial(t, dtype=dtype)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=dtype)
    return {
        "lognormal": (LogNormal(of(-0.5), of(0.7)), 1),
        "beta": (Beta(of(0.7), of(2.0)), 1),
        "halfcauchy": (HalfCauchy(of(2.0)), 1),
        "uniform": (Uniform(of(-1.0), of(3.0)), 1),
        "normals": (Normal(of(0.0, 1.0, -2.0), of(1.0, 0.1, 5.0)), 3),
        "dirichlet": (Dirichlet(of(0.8, 1.0, 2.0)), 2),
        "gaussian": (MultivariateNormal(of(0.5, -1.0), covariance), 2),
    }


NAMES = list(priors())
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])


MIXTURE = MixtureSameFamily(Categorical(torch.ones(2)), Normal(t(0.0, 1.0), t(1.0, 2.0)))

# ---- priors ----------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("name", ["lognormal", "beta", "halfcauchy", "uniform"])
def test_the_density_on_the_line_integrates_to_one(name, dtype) -> None:
    parameters = Independent({name: priors(dtype)[name][0]})
    theta = torch.linspace(-50.0, 50.0, 100_001, dtype=F64)[:, None]
    density = parameters.log_prob(theta).exp()
    assert density.dtype == F64
    assert float(density.sum()) * 1e-3 == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_the_priors_with_the_jacobian(name) -> None:
    """log p(value) + log |det d value / d theta|, the latter by autograd."""
    prior, p = priors()[name]
    parameters = Independent({name: prior})
    theta = parameters.draw(6, generator("jacobian"))
    for row, log_prob in zip(theta, parameters.log_prob(theta), strict=True):

        def value(free):
            return parameters.constrain(free[None])[name][0]

        # of a point on the simplex all coordinates but the last
        J = torch.autograd.functional.jacobian(lambda free: value(free).reshape(-1)[:p], row)
        expected = prior.log_prob(value(row)).sum() + torch.linalg.slogdet(J)[1]
        assert float(log_prob) == pytest.approx(float(expected), abs=1e-9)


@DTYPES
def test_several_parameters_lie_side_by_side(dtype) -> None:
    given = priors(dtype)
    parameters = Independent({name: prior for name, (prior, _) in given.items()})
    assert parameters.size == sum(p for _, p in given.values())
    theta = parameters.draw(50, generator("side by side"))
    assert theta.shape == (50, parameters.size) and theta.dtype == F64
    values, total, begin = parameters.constrain(theta), 0.0, 0
    for name, (prior, p) in given.items():
        own, part = Independent({name: prior}), theta[:, begin : begin + p]
        assert torch.equal(values[name], own.constrain(part)[name])
        total, begin = total + own.log_prob(part), begin + p
    assert torch.allclose(parameters.log_prob(theta), total, rtol=1e-12)
    assert list(values) == list(given)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_values_have_the_priors_shape_and_support(name, dtype) -> None:
    prior, p = priors(dtype)[name]
    parameters = Independent({name: prior})
    assert parameters.size == p
    theta = parameters.draw(200, generator("support"))
    value = parameters.constrain(theta)[name]
    assert value.shape == (200, *prior.batch_shape, *prior.event_shape) and value.dtype == F64
    assert bool(prior.support.check(value).all())
    assert bool(parameters.log_prob(theta).isfinite().all())


@pytest.mark.parametrize(
    "name", ["lognormal", "beta", "uniform", "normals", "dirichlet", "gaussian"]
)
def test_draws_have_the_priors_moments(name) -> None:
    prior, _ = priors()[name]
    value = Independent({name: prior}).constrain(
        Independent({name: prior}).draw(20_000, generator("moments"))
    )[name]
    z_test(value, prior.mean.reshape(-1), ceiling=0.05)
    centred = (value - prior.mean).square()
    z_test(centred, prior.variance.reshape(-1), ceiling=0.5)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_far_out_the_density_is_a_number_or_zero(name, dtype) -> None:
    """Where a value is rounded over the edge of its support, or is no number."""
    parameters = Independent({name: priors(dtype)[name][0]})
    for far in (-1e4, -60.0, 60.0, 1e4, math.nan, math.inf):
        theta = torch.full((2, parameters.size), far, dtype=F64)
        theta[1] = 0.3
        log_prob = parameters.log_prob(theta)
        assert not float(log_prob[0]) > 0
        assert float(log_prob[1]) == float(parameters.log_prob(theta[1:])) > -100


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_differentiable(name) -> None:
    parameters = Independent({name: priors()[name][0]})
    theta = parameters.draw(4, generator("gradient")).requires_grad_()
    assert torch.autograd.gradcheck(parameters.log_prob, (theta,))


def test_only_the_generator_decides_and_the_global_one_is_left_alone() -> None:
    state = torch.get_rng_state()
    parameters = Independent({name: prior for name, (prior, _) in priors().items()})
    first, again, other = (parameters.draw(5, generator(name)) for name in "aab")
    assert torch.equal(first, again) and not torch.equal(first, other)
    source = generator("a")
    assert not torch.equal(parameters.draw(5, source), parameters.draw(5, source))
    scales = parameters.scales
    torch.manual_seed(7)
    assert torch.equal(parameters.draw(5, generator("a")), first)
    assert torch.equal(Independent(parameters.priors).scales, scales)
    torch.set_rng_state(state)
    parameters.draw(5, generator("a"))
    assert torch.equal(torch.get_rng_state(), state)


def test_scales_are_the_width_of_the_bulk_even_where_tails_are_heavy() -> None:
    parameters = Independent({
        "lognormal": LogNormal(t(3.0), t(0.7)),
        "normals": Normal(t(0.0, 100.0), t(1.0, 5.0)),
        "cauchy": StudentT(t(1.0)),
        "halfcauchy": HalfCauchy(t(2.0)),
    })  # fmt: skip
    assert parameters.scales.shape == (5,)
    # the quartiles of a Cauchy law are at +-1, in normal standard deviations 2 / 1.349
    expected = t(0.7, 1.0, 5.0, 2 / 1.349, 2 * math.log(math.tan(3 * math.pi / 8)) / 1.349)
    assert torch.allclose(parameters.scales, expected, rtol=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Independent: no parameters given"),
        ({"rate": 1.0}, "The prior of 'rate' is 1.0; expected a continuous torch distribution"),
        (
            {"sigma": LogNormal(0.0, 1.0), "n": Poisson(3.0)},
            "The prior of 'n' is Poisson.*Sum discrete",
        ),
        ({"a": Normal(torch.zeros(0), 1.0)}, "have no coordinates"),
        ({"a": MIXTURE}, "(?s)The prior of 'a' is Mixture.*has no bijection from R"),
        ({"n": LogNormal}, "The prior of 'n' is .*expected a continuous torch distribution"),
    ],
)
def test_what_is_no_continuous_prior_is_refused(given, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        Independent(given)
    with pytest.raises(sg.InvalidInput, match=message):
        ParametricFunction(lambda x0, **given: x0[:, 0], given)


# ---- costs -----------------------------------------------------------------------------------------


def misfit(x0, sigma):
    return -Normal(x0, sigma[:, None]).log_prob(Y.to(x0)).sum(-1)


SIGMA = LogNormal(t(-0.3), t(0.5))
COST = ParametricFunction(misfit, {"sigma": SIGMA})


def events(*shape, stream="events"):
    return torch.randn(*shape, 2, generator=generator(stream), dtype=F64)


def thetas(*shape, stream="thetas"):
    return COST.parameters.draw(math.prod(shape), generator(stream)).reshape(*shape, 1)


def one_by_one(x0, theta):
    """The cost of events (S, n, 2) with their own theta (S, n, 1) each."""
    rows = zip(x0.reshape(-1, 1, 2), theta.reshape(-1).exp(), strict=True)
    return torch.cat([misfit(x, sigma[None]) for x, sigma in rows]).reshape(x0.shape[:2])


def test_every_particle_has_its_own_parameters() -> None:
    x0, theta = events(3, 5), thetas(3, 5)
    values = COST.at(theta)(x0)
    assert torch.allclose(values, one_by_one(x0, theta))
    assert values.std() > 0.1


def test_one_theta_serves_all_events_of_all_systems() -> None:
    x0, theta = events(3, 5), thetas(1, 1)
    values = COST.at(theta)(x0)
    assert torch.allclose(values, one_by_one(x0, theta.expand(3, 5, 1)))
    assert COST.at(theta).num_systems is None


def test_one_theta_per_system_serves_its_events() -> None:
    x0, theta = events(3, 5), thetas(3, 1)
    assert torch.allclose(COST.at(theta)(x0), one_by_one(x0, theta.expand(3, 5, 1)))
    assert COST.at(theta).num_systems == 3


def test_neighbours_share_a_theta_where_there_are_more_events() -> None:
    J, theta = 4, thetas(3, 5)
    x0 = events(3, 5, J)
    values = COST.at(theta)(x0.flatten(1, 2))
    wide = theta[:, :, None].expand(3, 5, J, 1)
    assert torch.allclose(values, one_by_one(x0.flatten(1, 2), wide.flatten(1, 2)))


def test_several_draws_of_a_value_share_their_particles_theta() -> None:
    potential, K = MonteCarlo(num_draws=6, variance=1.0), 1
    model = parametric(potential=potential)
    first = model.initial((2, 5), generator("draws"))
    moved = model.step(0, first.x, first.carry, generator("step"))
    level, fields = model.levels[K], moved.carry
    r = (1 / (1 + (level.alpha / level.sigma) ** 2)) ** 0.5
    for s, n in [(0, 0), (1, 3), (1, 4)]:
        around = fields["x0_hat"][s, n] + r * fields["psi_noise"][s, n]
        sigma = fields["theta"][s, n].exp().expand(6)
        expected = (-misfit(around, sigma)).logsumexp(0) - math.log(6)
        assert float(fields["log_psi"][s, n]) == pytest.approx(float(expected), abs=1e-9)


def test_without_parameters_a_parametric_cost_says_what_to_ask() -> None:
    with pytest.raises(
        sg.InvalidInput, match=r"misfit has unknown parameters; ask cost\.at\(theta\)"
    ):
        COST(events(1, 2))
    assert COST.at(None) is COST
    with pytest.raises(sg.InvalidInput, match="unknown parameters"):
        COST.at(None)(events(1, 2))


def test_a_cost_without_parameters_is_itself_at_any() -> None:
    cost = LinearGaussian(torch.eye(2), Y, 1.0)
    assert cost.parameters is None
    assert cost.at(thetas(1, 3)) is cost and cost.at(None) is cost


def test_a_potential_that_forgets_the_parameters_is_told() -> None:
    @dataclass(frozen=True)
    class Forgetful(sg.potentials.Potential):
        def log_value(self, look):
            return -self.cost(look.x0_hat)

    with pytest.raises(sg.InvalidInput, match=r"In a potential: self\.cost\.at\(look\.theta\)"):
        sample(potential=Forgetful())


def test_functions_get_the_parameters_in_the_events_dtype_and_shape() -> None:
    seen = []

    def function(x0, sigma, kernel, cov):
        seen.append((x0.dtype, sigma, kernel, cov))
        return x0[:, 0] * 0

    given = {
        "cov": Dirichlet(torch.ones(3, 2)), "sigma": LogNormal(0.0, 1.0),
        "kernel": Normal(torch.zeros(2, 2), 1.0),
    }  # fmt: skip
    cost = ParametricFunction(function, given)
    theta = cost.parameters.draw(6, generator("dtype")).reshape(2, 3, -1)
    cost.at(theta)(events(2, 3).float())
    dtype, *values = seen[0]
    assert dtype == torch.float32 and all(a.dtype == dtype for a in values)
    assert [a.shape for a in values] == [(6,), (6, 2, 2), (6, 3, 2)]


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x0, sigma: x0, r"returned \(1, 2\)"),
        (lambda x0, sigma: x0.sum(), r"returned \(\)"),
        (lambda x0, sigma: 1.0, "returned float"),
    ],
)
def test_a_function_that_is_not_one_number_per_event_is_refused(function, got, untouchable) -> None:
    cost = ParametricFunction(function, {"sigma": SIGMA})
    with pytest.raises(
        sg.InvalidInput, match=f"The cost function .*{got}; it must return one number"
    ):
        untouchable(cost)


def test_a_cost_that_is_nan_for_typical_parameters_is_refused(untouchable) -> None:
    with pytest.raises(sg.InvalidInput, match="must not be NaN"):
        untouchable(ParametricFunction(lambda x0, sigma: (sigma - 1e3).log(), {"sigma": SIGMA}))


class Bent(ParametricCost):
    """An author's own cost and prior: a loose and a tight coordinate."""

    class Wide(Parameters):
        size = 2

        def draw(self, num, generator):
            z = torch.randn(num, 2, generator=generator, dtype=F64)
            return z * t(3.0, 0.5)

        def log_prob(self, theta):
            return Normal(0.0, t(3.0, 0.5)).log_prob(theta).sum(-1)

    parameters = Wide()

    def __init__(self, event_shape=(2,)):
        self.event_shape = event_shape

    def evaluate(self, x0, theta):
        return (x0 - theta).square().sum(-1)

    def check(self, event_shape, like):
        if event_shape != self.event_shape:
            raise sg.InvalidInput(f"Bent: events of shape {event_shape}")

    def __repr__(self):
        return "Bent()"


def test_an_authors_own_cost_and_prior_will_do() -> None:
    post = sample(Bent(), num_particles=400, num_steps=20)
    assert post.parameters.keys() == {"theta"} and post.parameters["theta"].shape == (1, 400, 2)
    # y = 0 observed of x - theta with variance 1/2 and prior variances 1 and 9, 1/4
    wide, tight = post.marginal("theta").std()
    assert 0.9 < float(wide) < 1.5 and 0.3 < float(tight) < 0.55
    with pytest.raises(sg.InvalidInput, match="Bent: events of shape"):
        sample(Bent((3,)))
    with pytest.raises(sg.InvalidInput, match="Bent: events of shape"):
        Bent((3,)).at(torch.zeros(1, 1, 2)).check((2,), torch.zeros(()))


# ---- sums ------------------------------------------------------------------------------------------


def test_a_sum_is_the_sum_at_the_same_parameters() -> None:
    plain = LinearGaussian(torch.eye(2), Y, 0.5)
    cost = plain + COST
    x0, theta = events(2, 4), thetas(2, 4)
    expected = plain(x0).double() + COST.at(theta)(x0)
    assert torch.allclose(cost.at(theta)(x0), expected)
    assert cost.parameters is COST.parameters
    assert (COST + plain).parameters is COST.parameters
    assert cost.at(theta).parameters is None
    with pytest.raises(sg.InvalidInput, match="unknown parameters"):
        cost(x0)


def test_a_sum_has_one_prior_of_parameters() -> None:
    other = ParametricFunction(misfit, {"sigma": SIGMA})
    with pytest.raises(sg.InvalidInput, match="Sum of two costs with unknown parameters"):
        COST + other
    both, theta, x0 = Bent() + Bent(), thetas(2, 8).reshape(2, 4, 2), events(2, 4)
    assert torch.allclose(both.at(theta)(x0), 2 * Bent().at(theta)(x0))


def test_a_sum_with_a_linear_measurement_is_exact_with_the_default_parts() -> None:
    """Known noise in one measurement, unknown in another: InflatedGaussian values the first."""
    A, known = (
        torch.tensor([[1.0, -0.4]], dtype=F64),
        LinearGaussian(t([[1.0, -0.4]]), t([1.9]), 0.5),
    )
    B, y = t([[0.3, 1.0], [-0.8, 0.5], [0.6, 0.6]]), t([-0.9, 0.4, 1.6])

    def rest(x0, sigma):
        return -Normal(x0 @ B.T, sigma[:, None]).log_prob(y).sum(-1)

    cost = known + ParametricFunction(rest, {"sigma": SIGMA})
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE)
    model = sg.model(prior, cost, kernel=sg.kernels.DDPM(), times=TIMES)
    assert isinstance(model.potential, InflatedGaussian)
    assert isinstance(model.proposal, sg.proposals.Gradient)
    assert model.parameter_move == RandomWalk()

    law: GaussianLaw = gaussian_chain(MEAN, COVARIANCE, model.levels)
    grid = torch.linspace(-5.0, 4.0, 301, dtype=F64)
    log_p = SIGMA.log_prob(grid.exp()) + grid + math.log(float(grid[1] - grid[0]))
    for i, s in enumerate(grid.exp()):  # in units of the noise
        scaled = torch.cat([A / 0.5, B / s]), torch.cat([t([1.9]) / 0.5, y / s])
        log_p[i] += law.log_evidence(*scaled, 1.0) - math.log(0.5) - 3 * float(s.log())
    truth = float(log_p.exp().sum().log()), float(log_p.softmax(0) @ grid.exp())

    post = sg.run(
        model,
        num_particles=16,
        num_systems=1000,
        progress=False,
        trigger=sg.triggers.ess_below(0.9),
    )
    ratio = torch.exp(post.log_evidence - truth[0])
    z_test(ratio, 1.0, ceiling=0.05)
    z_test(ratio * post.marginal("sigma").mean(), truth[1], ceiling=0.05)


# ---- runs ------------------------------------------------------------------------------------------

PRIOR = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
KNOWN = LinearGaussian(torch.eye(2), Y, 0.5)
QUICK = {"num_steps": 6, "potential": Tweedie(), "num_particles": 40, "progress": False}


def sample(cost=COST, prior=PRIOR, **options):
    return sg.sample(prior, cost, **(QUICK | options))


def parametric(cost=COST, **options):
    return sg.model(PRIOR, cost, **({"num_steps": 6, "potential": Tweedie()} | options))


class Untouchable(sg.priors.GaussianMixture):
    def denoise(self, x, t):
        raise RuntimeError("The network was asked.")


@pytest.fixture
def untouchable():
    """`sample` with a network that must not be asked."""
    prior = Untouchable(torch.ones(1), torch.zeros(1, 2, dtype=F64), scale=1.0)
    with pytest.raises(RuntimeError, match="network was asked"):  # the guard is up
        sample(prior=prior)
    return partial(sample, prior=prior)


def test_a_move_of_parameters_needs_parameters(untouchable) -> None:
    with pytest.raises(
        sg.InvalidInput, match=r"parameter_move=MALA.*: the cost .* has no parameters"
    ):
        untouchable(KNOWN, parameter_move=MALA())


def test_a_move_of_parameters_is_an_object_of_its_room(untouchable) -> None:
    with pytest.raises(sg.InvalidInput, match=r"parameter_move: got .*write MALA\(\)"):
        untouchable(COST, parameter_move=MALA)
    with pytest.raises(sg.InvalidInput, match="parameter_move: got PCN"):
        untouchable(COST, parameter_move=sg.moves.PCN())
    with pytest.raises(sg.InvalidInput, match="parameter_move: got None"):
        sg.GuidedDiffusion(
            PRIOR, COST, kernel=sg.kernels.DDPM(), times=TIMES, potential=Tweedie(),
            proposal=sg.proposals.Bootstrap(),
        )  # fmt: skip


def by_numpy(x0, sigma):
    return torch.from_numpy(((x0.numpy() - Y.numpy()) ** 2).sum(-1) / sigma.numpy() ** 2)


def deaf(x0, sigma):
    return misfit(x0, sigma.detach())


@pytest.mark.parametrize("move", [MALA(), HMC()], ids=repr)
@pytest.mark.parametrize("function", [by_numpy, deaf])
def test_a_move_that_follows_a_gradient_needs_one(function, move, untouchable) -> None:
    cost = ParametricFunction(function, {"sigma": SIGMA})
    message = f"{type(move).__name__}.* follows the gradient of {function.__name__} with respect"
    with pytest.raises(sg.InvalidInput, match=message):
        untouchable(cost, parameter_move=move)
    assert sample(cost).parameters["sigma"].shape == (1, 40)  # values are enough for a random walk


def test_the_gradient_with_respect_to_the_event_is_another_matter() -> None:
    def blind(x0, sigma):
        return misfit(x0.detach(), sigma)

    post = sample(ParametricFunction(blind, {"sigma": SIGMA}), parameter_move=HMC())
    assert post.parameters["sigma"].shape == (1, 40)


def test_a_value_that_must_not_be_differentiated_is_refused(untouchable) -> None:
    value = sg.potentials.ControlValue(sg.proposals.DTM(guide=Tweedie()), Tweedie())
    options = {"potential": value, "proposal": sg.proposals.Bootstrap()}
    with pytest.raises(sg.InvalidInput, match="follows the gradient of ControlValue"):
        untouchable(COST, parameter_move=MALA(), **options)
    assert sample(**options).parameters["sigma"].shape == (1, 40)


def test_values_with_a_past_are_refused(untouchable) -> None:
    with pytest.raises(sg.InvalidInput, match="depends on a particle's past, under the parameters"):
        untouchable(COST, potential=sg.potentials.FKSteering())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: sg.Candidates(m, num=4), "Candidates: .*unknown parameters of the cost"),
        (
            lambda m: sg.particle_gibbs(m, sweeps=2, num_particles=8),
            "Conditional SMC: .*unknown parameters of the cost",
        ),
        (lambda m: sg.rollover(m, budget=20), "rollover: .*unknown parameters of the cost"),
    ],
)
def test_methods_that_only_propagate_refuse_unknown_parameters(ask, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        ask(parametric(proposal=sg.proposals.Bootstrap()))


def test_the_first_parameters_are_draws_of_the_prior() -> None:
    post = sample(
        num_particles=4000, trigger=sg.triggers.never(), proposal=sg.proposals.Bootstrap()
    )
    z_test(post.parameters["sigma"][0], float(SIGMA.mean), ceiling=0.02)
    z_test(post.parameters["sigma"][0].log().square(), 0.3**2 + 0.5**2, ceiling=0.02)


@pytest.mark.parametrize("move", [RandomWalk(), HMC(0.2, 2, every_step=True)], ids=repr)
def test_chunks_change_nothing(move) -> None:
    options = {"num_systems": 2, "num_particles": 15, "num_steps": 4, "potential": None}
    runs = [
        sample(KNOWN + COST, parameter_move=move, chunk_size=size, **options)
        for size in (None, 14, 1)
    ]
    for post in runs[1:]:
        for name in ("x", "log_w", "log_z"):
            assert torch.allclose(getattr(post, name), getattr(runs[0], name), rtol=1e-9, atol=1e-9)
        for name, a in runs[0].parameters.items():
            assert torch.allclose(post.parameters[name], a, rtol=1e-9)


def test_only_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, other = sample(seed=1), sample(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = sample(seed=1)
    torch.set_rng_state(state)
    for name in ("x", "log_w"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.parameters["sigma"], again.parameters["sigma"])
    assert not torch.equal(first.parameters["sigma"], other.parameters["sigma"])


def test_the_variational_bound_is_given_up_where_parameters_moved() -> None:
    """The path knows what events have paid for; what parameters have gained by moving it does not."""
    options = {"num_particles": 2000, "trigger": sg.triggers.never()}
    post = sample(**options)
    assert float(post.dtm_bound) < float(post.log_evidence)
    assert bool(sample(parameter_move=RandomWalk(every_step=True), **options).dtm_bound.isnan())


def test_results_say_which_move_was_made() -> None:
    assert sample().settings["parameter_move"] == repr(RandomWalk())
    assert sample(parameter_move=HMC()).settings["parameter_move"] == repr(HMC())
    assert "parameter_move" not in sample(KNOWN).settings
    assert "parameter_acceptance" not in sample(KNOWN).trace
    assert sample().exactness == "exact"


def test_events_may_be_float32() -> None:
    post = sample(dtype=torch.float32)
    assert post.x.dtype == torch.float32 and post.log_w.dtype == F64
    assert post.parameters["sigma"].dtype == F64


def test_one_observation_per_system_beside_unknown_parameters() -> None:
    batched = LinearGaussian(torch.eye(2), torch.stack([Y, Y + 3, Y - 3]), 0.5, batched=True)
    for N in (40, 1):
        post = sample(batched + COST, num_particles=N)
        assert post.parameters["sigma"].shape == (3, N)
        assert post.log_evidence.shape == (3,)
    sigma = sample(batched + COST, num_particles=1000).marginal("sigma").mean()
    assert float(sigma[0]) < 0.7 * float(sigma[1:].min())  # where the two agree the noise is low


def test_grids_that_go_up_again_keep_the_parameters() -> None:
    times = sg.grids.recurrent(sg.grids.karras(4), repeats=2)
    post = sample(num_steps=None, times=times, num_particles=100)
    assert bool(post.parameters["sigma"].isfinite().all())


def test_frozen_strengths_serve_unknown_parameters() -> None:
    potential = sg.potentials.Tempered(Tweedie(1.0), sg.potentials.Adaptive(0.9))
    model = parametric(potential=potential, parameter_move=HMC(0.2, 2, every_step=True))
    options = {"num_particles": 50, "progress": False}
    frozen = sg.freeze(model, sg.run(model, seed=1, **options))
    post = sg.run(frozen, **options)
    assert post.exactness == "exact" and post.parameters["sigma"].shape == (1, 50)


# ---- answers ---------------------------------------------------------------------------------------


def offset_misfit(x0, sigma, offset):
    return misfit(x0 + offset, sigma)


TWO = ParametricFunction(
    offset_misfit, {"sigma": SIGMA, "offset": Normal(torch.zeros(2).double(), t(0.5, 2.0))}
)


@pytest.fixture(scope="module")
def post():
    """Three replicates with a scalar and a vector parameter, and weights that differ."""
    return sample(TWO, num_systems=3, num_particles=60)


def test_parameters_have_one_row_per_particle(post) -> None:
    assert {n: a.shape for n, a in post.parameters.items()} == {
        "sigma": (3, 60), "offset": (3, 60, 2),
    }  # fmt: skip
    assert bool((post.parameters["sigma"] > 0).all())


def test_a_marginal_answers_for_its_parameter(post) -> None:
    for name, a in post.parameters.items():
        marginal, W = post.marginal(name), post.weights.reshape(3, 60, *[1] * (a.ndim - 2))
        mean = (W * a).sum(1)
        assert torch.allclose(marginal.mean(), mean)
        variance = (W * (a - mean[:, None]).square()).sum(1)
        assert torch.allclose(marginal.std(), variance.sqrt())
        assert torch.allclose(marginal.expect(torch.cos), (W * a.cos()).sum(1))
        assert marginal.quantile([0.1, 0.9]).shape == (2, *mean.shape)
        assert marginal.draws(7).shape == (3, 7, *a.shape[2:])
        assert marginal.expect_se().shape == mean.shape
        assert torch.equal(marginal.particles, a)
        assert torch.equal(marginal.log_evidence, post.log_evidence)
        assert torch.equal(marginal.weights, post.weights)
        assert marginal.parameters == {}
    alone = sample(TWO, num_particles=60)
    assert alone.marginal("sigma").mean().shape == ()
    assert alone.marginal("offset").mean().shape == (2,)
    assert alone.marginal("sigma").quantile(0.5).shape == ()


def test_a_marginal_of_no_parameter_is_refused(post) -> None:
    with pytest.raises(
        sg.InvalidInput, match=r"no parameter 'tau'; there are \['offset', 'sigma'\]"
    ):
        post.marginal("tau")
    with pytest.raises(sg.InvalidInput, match=r"no parameter 'sigma'; there are \[\]"):
        sample(KNOWN).marginal("sigma")


def test_a_marginal_forgets_recorded_events_and_keeps_the_rest(tmp_path) -> None:
    post = sample(TWO, record=("particles", "ancestors", "log_weights", "paths"))
    for name in post.parameters:
        marginal = post.marginal(name)
        assert marginal.recorded.keys() == {"ancestors", "log_weights"}
        marginal.save(tmp_path / "run.nc")
        assert torch.equal(sg.Posterior.load(tmp_path / "run.nc").x, post.parameters[name])


def particle_of(post, s, x):
    return int((post.x[s] == x).all(-1).nonzero()[0])


def test_draws_are_joint(post) -> None:
    """The event and the parameters of a draw belong to one particle, chosen by weight."""
    for samples, num in ((post.get_samples(), 60), (post.get_samples(500, seed=3), 500)):
        assert list(samples) == ["x0", "sigma", "offset"]
        assert samples["sigma"].shape == (3, num) and samples["offset"].shape == (3, num, 2)
        for s in range(3):
            chosen = [particle_of(post, s, x) for x in samples["x0"][s]]
            for name, a in post.parameters.items():
                assert torch.equal(samples[name][s], a[s, chosen]), name
            counts = torch.bincount(torch.tensor(chosen), minlength=60)
            # stratified draws: a share of n W of them is cut by at most three strata
            assert float((counts - num * post.weights[s]).abs().max()) <= 3
    assert not torch.equal(
        post.get_samples(500, seed=3)["sigma"], post.get_samples(500, seed=4)["sigma"]
    )
    assert torch.equal(post.get_samples(50, seed=3)["x0"], post.draws(50, seed=3))


def test_weighted_samples_are_the_particles(post) -> None:
    samples, log_w = post.get_weighted_samples()
    assert list(samples) == ["x0", "sigma", "offset"]
    assert torch.equal(samples["x0"], post.x) and torch.equal(log_w, post.log_w)
    assert torch.equal(samples["offset"], post.parameters["offset"])
    alone = sample(TWO, num_particles=20)
    samples, log_w = alone.get_weighted_samples()
    assert samples["offset"].shape == (20, 2) and log_w.shape == (20,)


def test_without_parameters_there_are_events_only() -> None:
    plain = sample(KNOWN)
    assert plain.parameters == {}
    assert list(plain.get_samples()) == list(plain.get_weighted_samples()[0]) == ["x0"]


def test_a_pool_has_all_parameters_each_system_weighted_by_its_evidence(post) -> None:
    pool = post.pooled()
    Z = post.log_evidence.softmax(0)
    for name, a in post.parameters.items():
        assert torch.equal(pool.parameters[name], a.flatten(0, 1)[None])
        means = post.marginal(name).mean()
        expected = torch.einsum("s,s...->...", Z, means)
        assert torch.allclose(pool.marginal(name).mean(), expected)
    index = particle_of(pool, 0, post.x[2, 5])
    assert pool.parameters["sigma"][0, index] == post.parameters["sigma"][2, 5]


def test_equal_weights_keep_the_parameters(post) -> None:
    plain = post.unweighted()
    assert torch.equal(plain.parameters["sigma"], post.parameters["sigma"])
    assert torch.allclose(
        plain.marginal("offset").mean(), post.parameters["offset"].mean(1), rtol=1e-12
    )
