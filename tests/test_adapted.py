"""Gaussian values of the state: the noised observation, its anticipation, the fully adapted proposal."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

import smcguide as sg
from smcguide.conditioning import GaussianValue
from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.potentials import Anticipated, InflatedGaussian, NoisedObservation, Terminal
from smcguide.problem import Problem
from smcguide.proposals import Adapted, Bootstrap
from smcguide.records import Look
from smcguide.schedules import EDM, VP, RectifiedFlow
from smcguide.testing import PotentialSuite, ProposalSuite, gaussian_chain, generator, seed, z_test
from smcguide.testing.exact_value import ExactValue

F64 = torch.float64


def randn(*shape, name="x"):
    return torch.randn(shape, generator=generator(name), dtype=F64)


# ---- a Gaussian value against dense linear algebra --------------------------------------------------

SIZES = {
    "few": (2, 5),
    "one": (1, 5),
    "all": (5, 5),
    "more rows than columns": (7, 5),
    "none": (0, 5),
}
each_size = pytest.mark.parametrize("size", SIZES)


def value(size):
    m, d = SIZES[size]
    root = randn(m, m, name="Omega")
    F, v = randn(m, d, name="F"), randn(2, m, name="v")
    if m > 2:
        F[2] = F[0]  # a direction less
    return GaussianValue(F, v, root @ root.mT + 0.1 * torch.eye(m, dtype=F64))


def density(law, x, extra=0.0):
    """log N(v; F x, Omega + extra F F^T), (2, 3), directly."""
    if not len(law.Omega):
        return torch.zeros(x.shape[:2], dtype=F64)
    cov = law.Omega + extra * law.F @ law.F.mT
    return MultivariateNormal(x.flatten(2) @ law.F.mT, cov).log_prob(law.v[:, None])


@each_size
def test_density_and_mean_of_a_gaussian_value(size):
    law, x = value(size), randn(2, 3, 5)
    torch.testing.assert_close(law.log_density(x), density(law, x), rtol=1e-9, atol=1e-9)
    for c in (0.0, 0.7, torch.tensor(0.7, dtype=F64)):
        got = law.log_mean(Gaussian(x, c))
        torch.testing.assert_close(got, density(law, x, float(c) ** 2), rtol=1e-9, atol=1e-9)


@each_size
def test_conditioned_kernel_is_the_normalised_product(size):
    """p psi / q is one number for all x: that of `log_mean`."""
    law, base, z = value(size), Gaussian(randn(2, 3, 5), 0.7), randn(2, 3, 5, name="z")
    q = law.condition(base)
    constant = base.log_ratio(q, z) + law.log_density(q.sample(z))
    torch.testing.assert_close(constant, law.log_mean(base), rtol=1e-9, atol=1e-9)
    m = len(law.Omega)
    if m:
        K = 0.49 * law.F.mT @ torch.linalg.inv(0.49 * law.F @ law.F.mT + law.Omega)
        mean = base.mean + (law.v[:, None] - base.mean @ law.F.mT) @ K.mT
        torch.testing.assert_close(q.mean, mean, rtol=1e-9, atol=1e-9)
        root = 0.7 * torch.eye(5, dtype=F64) + (q.basis * (q.along - 0.7)) @ q.basis.mT
        torch.testing.assert_close(root @ root, 0.49 * (torch.eye(5, dtype=F64) - K @ law.F))


def test_a_base_with_many_stds_is_refused():
    with pytest.raises(InvalidInput, match="one std for all coordinates"):
        value("few").condition(Gaussian(randn(2, 3, 5), torch.ones(5, dtype=F64)))


# ---- conformance ------------------------------------------------------------------------------------


class TestZhao(PotentialSuite):
    def instances(self):
        return [NoisedObservation(), Anticipated(NoisedObservation())]


class TestMCGdiff(PotentialSuite):
    tends_to_cost = False  # nothing is asked below the measurement's own noise level

    def instances(self):
        inner = NoisedObservation("mcgdiff")
        return [inner, NoisedObservation("mcgdiff", 0.5), Anticipated(inner)]


class TestAdapted(ProposalSuite):
    """With a guide, any potential of the model will do. On few steps it is narrower than its reasons (as
    published, "mcgdiff" by far), hence the ceilings."""

    ceilings = {"InflatedGaussian": 0.06, "Terminal": 0.06}  # noqa: RUF012

    def instances(self):
        wide = NoisedObservation("mcgdiff", 1.0)
        return [Adapted(guide=NoisedObservation()), Adapted(guide=wide)]


# ---- the paths of the observation -------------------------------------------------------------------

A = torch.tensor([[1.0, -0.5, 0.3], [0.2, 1.0, -0.7]], dtype=F64)
Y, STD = torch.tensor([2.0, 0.5], dtype=F64), torch.tensor([0.5, 0.3], dtype=F64)
SCHEDULES = {"VP": VP(), "EDM": EDM(), "RectifiedFlow": RectifiedFlow()}
RATIOS = (8.0, 3.0, 1.5, 0.8, 0.4, 0.2)
MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=F64)
COVARIANCE = torch.tensor([[1.5, 0.6, 0.0], [0.6, 0.8, 0.2], [0.0, 0.2, 1.0]], dtype=F64)


def times_of(schedule, ratios=RATIOS):
    logs = -2 * torch.tensor(ratios, dtype=F64).log()
    return torch.cat([torch.as_tensor(schedule.time(logs)), torch.zeros(1, dtype=F64)])


def gaussian_model(potential, proposal=None, schedule=None, kind=sg.GuidedDiffusion, **parts):
    prior = sg.priors.GaussianMixture(
        torch.ones(1), MEAN[None], COVARIANCE, schedule=schedule or VP()
    )
    given = {
        "cost": sg.costs.LinearGaussian(A, Y, STD), "kernel": sg.kernels.DDPM(),
        "times": times_of(prior.schedule),
    }  # fmt: skip
    return kind(prior, potential=potential, proposal=proposal or Adapted(), **given | parts)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zhao_is_the_recursion(schedule):
    """Each level from the one below, with the noising and the reverse step as coefficients."""
    model = gaussian_model(NoisedObservation(), schedule=SCHEDULES[schedule])
    x = randn(1, 4, 3)
    F, v, Om = A, Y, torch.diag(STD**2)
    for k, (t, s) in reversed(list(enumerate(pairwise(model.levels)))):
        a, c = t.alpha / s.alpha, model.std(k)
        noising = t.sigma**2 - (a * s.sigma) ** 2
        Om = a**2 * (c**2 * F @ F.T + Om) + noising * torch.eye(2, dtype=F64)
        F, v = a * F / a, a * v
        exact = MultivariateNormal(x @ F.T, Om).log_prob(v)
        got = model.potential.log_value(Look(x, x, t))
        torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
    data = model.potential.law(model.levels[-1]).log_density(x)
    torch.testing.assert_close(data, -model.cost(x))


@pytest.mark.parametrize("path", ["zhao", "mcgdiff"])
def test_paths_are_the_same_on_every_schedule(path):
    """The same noise levels, another schedule: values of x_t / alpha_t differ by a constant, and nothing
    else of a run differs."""
    results = []
    for schedule in (VP(), EDM()):
        model = gaussian_model(NoisedObservation(path), schedule=schedule)
        t = model.levels[2]
        values = model.potential.log_value(Look(t.alpha * randn(1, 4, 3), randn(1, 4, 3), t))
        results.append(values - values[:, :1])
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)
    assert float(results[0].abs().max()) > 0.1


def test_zhao_at_pure_noise_is_flat():
    """Rectified flow begins at alpha = 0: finite, and of all states near 0 alike."""
    model = gaussian_model(NoisedObservation(), schedule=RectifiedFlow())
    start = model.prior.schedule.level(1.0)
    assert start.alpha == 0
    law = model.potential.law(start)
    assert bool((law.v == 0).all())
    assert bool(torch.isfinite(law.log_density(randn(1, 4, 3))).all())


def test_mcgdiff_by_hand():
    """A diagonal operator: each entry has its own level, below which it says nothing."""
    s, std = torch.tensor([2.0, 0.5], dtype=F64), torch.tensor([0.4, 0.6], dtype=F64)
    y, kappa = torch.tensor([1.0, -0.7], dtype=F64), 1e-4
    operator = torch.cat([torch.diag(s), torch.zeros(2, 1, dtype=F64)], 1)
    cost = sg.costs.LinearGaussian(operator, y, std)
    bound = NoisedObservation("mcgdiff").bind(Problem(cost, (3,)))
    x, tau = randn(1, 4, 3), std / s  # levels 0.2 and 1.2
    for lam in (5.0, 1.21, 0.8, 0.21, 0.1):
        t = VP().level(float(VP().time(-2 * torch.tensor(lam, dtype=F64).log())))
        expected = torch.zeros(1, 4, dtype=F64)
        for i in range(2):
            if tau[i] <= lam:
                shrink = t.alpha * math.sqrt(1 + float(tau[i]) ** 2)  # alpha_t / alpha_tau
                law = torch.distributions.Normal(
                    t.alpha * y[i] / s[i], math.sqrt(1 - (1 - kappa) * shrink**2)
                )
                expected = expected + law.log_prob(x[..., i])
        torch.testing.assert_close(bound.log_value(Look(x, x, t)), expected, rtol=1e-8, atol=1e-8)


def test_other_summands_are_left_to_the_last_weight():
    def penalty(x):
        return x[:, 2] ** 2

    cost = sg.costs.LinearGaussian(A, Y, STD)
    x, values = randn(1, 4, 3), []
    for c in (cost, cost + penalty):
        model = gaussian_model(NoisedObservation(), cost=c)
        values.append(model.potential.log_value(Look(x, x, model.levels[3])))
    assert torch.equal(*values)
    split = sg.costs.LinearGaussian(A[:1], Y[:1], STD[:1])
    split = split + sg.costs.LinearGaussian(A[1:], Y[1:], STD[1:])
    model = gaussian_model(NoisedObservation(), cost=split)
    got = model.potential.log_value(Look(x, x, model.levels[3]))
    torch.testing.assert_close(got, values[0])


# ---- anticipation -----------------------------------------------------------------------------------


def test_anticipated_is_the_mean_over_the_base_step():
    model = gaussian_model(Anticipated(NoisedObservation()))
    x = model.draw_initial((1, 3), generator("states"))
    look = model.look_at(2, x)
    base = model.base_kernel(2, x, look.x0_hat)
    z = randn(1, 200_000, 3, name="z")
    for i in range(3):
        next_x = base.mean[:, i : i + 1] + base.std * z
        weight = model.potential.law(model.levels[3]).log_density(next_x).exp()
        ratio = weight / look.value[:, i : i + 1].exp()
        z_test(ratio[0], 1.0, ceiling=0.01)


def test_before_the_last_step_nothing_is_unknown():
    """psi = exp(-C) of where the step leads: the last weight is 1, whatever the summands of the cost."""
    cost = sg.costs.LinearGaussian(A, Y, STD) + (lambda x: x[:, 2] ** 2)
    model = gaussian_model(Anticipated(NoisedObservation()), cost=cost)
    post = sg.run(model, num_particles=20, record=("log_weights",), progress=False)
    last, before = post.recorded["log_weights"][0, -1], post.recorded["log_weights"][0, -2]
    torch.testing.assert_close(last, before, rtol=1e-12, atol=1e-12)
    assert post.evaluations["cost"] == 2 * 20  # where the last step leads, and there


@pytest.mark.parametrize("anticipated", [True, False])
@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_exact_value_makes_all_weights_equal(anticipated, eta, schedule):
    """A step adds nothing to a weight, whatever was drawn; where the chain starts from nothing but noise,
    all weights are the evidence."""
    inner = ExactValue(MEAN, COVARIANCE, eta)
    potential = Anticipated(inner) if anticipated else inner
    flow = schedule == "RectifiedFlow"
    times = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.1, 0.0], dtype=F64) if flow else None
    parts = {"times": times} if flow else {}
    model = gaussian_model(
        potential, schedule=SCHEDULES[schedule], kernel=sg.kernels.DDIM(eta), **parts
    )
    post = sg.run(
        model, num_particles=16, num_systems=2, trigger=sg.triggers.never(),
        record=("log_weights",), progress=False,
    )  # fmt: skip
    log_w = post.recorded["log_weights"]
    assert float((log_w - log_w[:, :1]).abs().max()) < 1e-8
    if flow and eta == 1:
        truth = gaussian_chain(MEAN, COVARIANCE, model.levels).log_evidence(A, Y, torch.diag(STD))
        assert float((post.log_evidence - truth).abs().max()) < 1e-8
        assert float(log_w.std()) < 1e-8


# ---- weights ----------------------------------------------------------------------------------------

COARSE = times_of(VP(), (4.0, 1.5, 0.7, 0.3))
PLAIN = sg.costs.LinearGaussian(A, Y, 0.5)


def ratios(potential, proposal=None, kind=sg.GuidedDiffusion, trigger=None, num_systems=2000):
    """Z_hat / Z and times the mean, and their expectations, on four coarse steps."""
    model = gaussian_model(potential, proposal, kind=kind, cost=PLAIN, times=COARSE)
    law = gaussian_chain(MEAN, COVARIANCE, model.levels)
    post = sg.run(
        model, num_particles=64, num_systems=num_systems, seed=seed(f"{potential!r}"),
        trigger=trigger or sg.triggers.always(), progress=False,
    )  # fmt: skip
    ratio = torch.exp(post.log_evidence - law.log_evidence(A, Y, 0.5))[:, None]
    truth = torch.cat([torch.ones(1, dtype=F64), law.posterior(A, Y, 0.5).mean])
    return torch.cat([ratio, ratio * post.mean()], 1), truth


METHODS = {
    "zhao": Anticipated(NoisedObservation()),
    "mcgdiff": Anticipated(NoisedObservation("mcgdiff")),
    "mcgdiff, wide": Anticipated(NoisedObservation("mcgdiff", 0.5)),
    "not anticipated": NoisedObservation(),
}


@pytest.mark.parametrize("trigger", [sg.triggers.always(), sg.triggers.ess_below(0.5)], ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_evidence_and_mean_are_exact(method, trigger):
    late = method == "not anticipated"  # heavy tails
    z_test(*ratios(METHODS[method], trigger=trigger), ceiling=0.15 if late else 0.04)


@pytest.mark.parametrize("potential", [InflatedGaussian(), Terminal(), METHODS["zhao"]], ids=repr)
@pytest.mark.parametrize("proposal", [Adapted(guide=NoisedObservation()), Bootstrap()], ids=repr)
def test_proposal_and_potential_need_not_match(proposal, potential):
    z_test(*ratios(potential, proposal), ceiling=0.05)


def test_weighing_before_the_step_has_less_variance():
    """Planted: the value of the new state is weighed after it was drawn. The same expectation, but
    selection comes one step too late."""
    early, late = METHODS["zhao"], METHODS["not anticipated"]
    before, after = ratios(early), ratios(late)
    z_test(*before, ceiling=0.03)
    z_test(*after, ceiling=0.15)
    spread = [float(got[:, 0].log().std()) for got, _ in (before, after)]
    assert spread[1] > 1.25 * spread[0]


def test_without_selection_anticipation_changes_nothing():
    runs = []
    for potential in (METHODS["zhao"], METHODS["not anticipated"]):
        model = gaussian_model(potential, cost=PLAIN, times=COARSE)
        runs.append(
            sg.run(model, num_particles=16, trigger=sg.triggers.never(), seed=3, progress=False)
        )
    torch.testing.assert_close(runs[0].log_weights, runs[1].log_weights, rtol=1e-9, atol=1e-9)


class DividesByAnother(sg.GuidedDiffusion):
    """The value is asked again, from the inner potential, when it is divided out."""

    def advance(self, k, x, carry, *given):
        moved = super().advance(k, x, carry, *given)
        again = self.potential.inner.law(self.levels[k]).log_density(x)
        return sg.Propagated(moved.x, moved.log_g + carry["log_psi"] - again, moved.carry)


class ForgetsBasis(sg.GuidedDiffusion):
    """The density ratio of a proposal as if its coordinates were independent."""

    def kernels(self, k, x, carry, guide_last=False):
        base, q = super().kernels(k, x, carry, guide_last)
        return (base, q) if q.basis is None else (Blind(base.mean, base.std), q)


class Blind(Gaussian):
    def compared(self, proposal, z):
        return super().compared(Gaussian(proposal.mean, proposal.std), z)


@pytest.mark.parametrize("kind", [DividesByAnother, ForgetsBasis])
def test_planted_bugs_are_caught_T6(kind):
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*ratios(METHODS["zhao"], kind=kind), ceiling=0.04)


# ---- systems, precision, chunks, a mixture ----------------------------------------------------------


def test_every_system_has_its_own_observation():
    y = torch.stack([Y, -Y])
    batched = sg.costs.LinearGaussian(A, y, STD, batched=True)
    for path in ("zhao", "mcgdiff"):
        potential = Anticipated(NoisedObservation(path))
        many = gaussian_model(potential, cost=batched)
        x = randn(2, 3, 3)
        for i in range(2):
            one = gaussian_model(potential, cost=sg.costs.LinearGaussian(A, y[i], STD))
            torch.testing.assert_close(
                many.look_at(1, x).value[i : i + 1], one.look_at(1, x[i : i + 1]).value
            )
        assert sg.run(many, num_particles=8, progress=False).x.shape == (2, 8, 3)


def test_chunks_and_float32():
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None].float(), COVARIANCE)
    posts = []
    for size, dtype in ((None, F64), (6, F64), (None, torch.float32)):
        model = sg.GuidedDiffusion(
            prior.to(dtype=dtype), PLAIN, kernel=sg.kernels.MatchedDDPM(), times=COARSE,
            potential=METHODS["zhao"], proposal=Adapted(), chunk_size=size,
        )  # fmt: skip
        posts.append(sg.run(model, num_particles=16, num_systems=2, progress=False))
    torch.testing.assert_close(posts[0].log_weights, posts[1].log_weights)
    assert posts[2].x.dtype == torch.float32
    assert bool(torch.isfinite(posts[2].log_weights).all())


def test_images_are_flattened():
    prior = sg.priors.GaussianMixture(torch.ones(1), randn(1, 1, 2, 3), scale=1.0)
    mask = torch.tensor([[[True, False, True], [False, False, True]]])
    cost = sg.costs.LinearGaussian(mask, randn(1, 2, 3, name="y"), 0.3)
    post = sg.sample(
        prior, cost, potential=METHODS["zhao"], proposal=Adapted(), num_steps=20, progress=False
    )
    assert post.particles.shape == (512, 1, 2, 3)
    truth = prior.log_evidence(cost.matrix((1, 2, 3)), cost.y[0, 0], 0.3)
    assert abs(float(post.log_evidence - truth)) < 1


@pytest.mark.parametrize("index", [0, 1])
def test_on_a_mixture_of_25(index):
    """Two instances in eight dimensions with two measurements, and no gradient anywhere."""
    sys.path.insert(0, str(Path(sg.__file__).parents[1] / "benchmarks"))
    from mixture25 import instance

    prior, operator, y, std = instance(index, 8, 2)
    post = sg.sample(
        prior, sg.costs.LinearGaussian(operator, y, std), num_particles=300, num_systems=8,
        num_steps=40, potential=METHODS["zhao"], proposal=Adapted(), progress=False,
    )  # fmt: skip
    errors = post.log_evidence - prior.log_evidence(operator, y, std)
    assert abs(float(errors.mean())) < 0.6
    assert float(errors.std()) < 0.8
    assert "network_backward" not in post.evaluations


# ---- refusals ---------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="path must be"):
        NoisedObservation("deterministic")
    for kappa in (0.0, 1.5, math.nan):
        with pytest.raises(InvalidInput, match="kappa in"):
            NoisedObservation("mcgdiff", kappa)
    with pytest.raises(InvalidInput, match=r"LinearGaussian.*potentials\.InflatedGaussian"):
        gaussian_model(NoisedObservation(), cost=lambda x: x[:, 0] ** 2)
    with pytest.raises(InvalidInput, match=r"Anticipated\(NoisedObservation\(\)\)"):
        gaussian_model(Anticipated(InflatedGaussian()))
    with pytest.raises(InvalidInput, match=r"Adapted\(guide=NoisedObservation\(\)\)"):
        gaussian_model(InflatedGaussian())
    with pytest.raises(InvalidInput, match="needs a potential that is a Gaussian"):
        gaussian_model(NoisedObservation(), Adapted(guide=InflatedGaussian()))
    large = sg.costs.LinearGaussian(
        torch.ones(2049, dtype=torch.bool), torch.zeros(2049, dtype=F64), 1.0
    )
    with pytest.raises(InvalidInput, match="2049 measurements"):
        NoisedObservation().check(large)
