"""Moves: laws that stay, evidence that stays unbiased, acceptance that does not depend on the dimension.

Planted bugs are put where they would occur, and the assertion that passes above them must fail.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

import smcguide as sg
from smcguide import moves, pilot, refresh, starts
from smcguide.exactness import EXACT, LIMIT
from smcguide.kernels import Kernel
from smcguide.moves import MALA, PCN, PCNL, Move, Restart
from smcguide.potentials import InflatedGaussian, Potential, Terminal
from smcguide.potentials.tempered import Adaptive, Tempered
from smcguide.records import Gaussian, Particles
from smcguide.testing import GaussianLaw, MoveSuite, gaussian_chain, generator, z_test
from smcguide.testing.conformance.move import InvariantLaw, moving_model
from smcguide.testing.conformance.proposal import (
    COVARIANCE,
    MATRIX,
    MEAN,
    NOISE_STD,
    OBSERVED,
    linear_gaussian_answer,
)

COST = sg.costs.LinearGaussian(MATRIX, OBSERVED, NOISE_STD)
PRIOR = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE)
OFTEN = sg.triggers.ess_below(0.9)
GAUSSIAN = [PCN(0.6), PCNL(0.8), MALA(0.9)]


@dataclass(frozen=True)
class RandomWalk(Move):
    """The move of the docstring of `moves.base`."""

    size: float = 0.7

    def coefficients(self):
        return 1.0, 0.0, self.size

    def resized(self, factor):
        return replace(self, size=factor * self.size)


@dataclass(frozen=True)
class Tilt(Potential):
    """Selects parents strongly, and is divided out again at the end."""

    uses_cost = 0

    def log_value(self, look):
        return 0.5 * look.x.sum(-1).double()


class TestPCN(MoveSuite):
    def instances(self):
        return [PCN(0.6)]


class TestPCNL(MoveSuite):
    def instances(self):
        return [PCNL(0.8)]


class TestMALA(MoveSuite):
    def instances(self):
        return [MALA(0.9)]


class TestRandomWalk(MoveSuite):
    def instances(self):
        return [RandomWalk()]


def sweep(model, k, move, x, fields, visits=20, stream="sweep"):
    source = generator(stream)
    for _ in range(visits):
        with torch.no_grad():
            x, fields, _ = refresh.attempt(model, k, move, x, fields, source)
    return x, fields


def ratios(model, num_particles=16, num_systems=2000, trigger=OFTEN, seed=5):
    """Z_hat / Z of independent systems, and the run."""
    post = sg.run(
        model, num_particles=num_particles, num_systems=num_systems, trigger=trigger, seed=seed,
        progress=False,
    )  # fmt: skip
    return torch.exp(post.log_evidence - linear_gaussian_answer(model)[0]), post


# ---- formulas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("move", [*GAUSSIAN, RandomWalk()], ids=repr)
def test_the_ratio_is_a_difference_of_log_densities(move, strength) -> None:
    model = moving_model(move, InflatedGaussian())
    law = InvariantLaw(model, 2, 500, "ratio")
    x, here = law.population("ratio")
    there_x, there, correction = refresh._candidate(
        model, 2, move, x, here, generator("z"), strength
    )
    rho, b, s = move.coefficients()

    def log_normal(x, mean, std):
        return torch.distributions.Normal(mean, std).log_prob(x).sum(-1)

    def log_candidate(a, b_, grad):
        v, w = (a - law.mean) / law.std, (b_ - law.mean) / law.std
        return log_normal(w, rho * v + b * strength * law.std * grad, s)

    grads = [f["grad"] if b else torch.zeros_like(x) for f in (here, there)]
    expected = log_normal(there_x, law.mean, law.std) - log_normal(x, law.mean, law.std)
    expected += log_candidate(there_x, x, grads[1]) - log_candidate(x, there_x, grads[0])
    assert float((correction - expected).abs().max()) < 1e-9


def test_the_acceptance_of_pcnl_is_the_published_one_A18() -> None:
    """L(x' -> x) - L(x -> x') of Psi-Sampler, section 4.5 of the methods."""
    delta, move = 0.8, PCNL(0.8)
    model = moving_model(move, InflatedGaussian())
    law = InvariantLaw(model, 0, 500, "pcnl")
    x, here = law.population("pcnl")
    there_x, there, correction = refresh._candidate(model, 0, move, x, here, generator("z"), 1.0)
    rho = (1 - delta / 4) / (1 + delta / 4)

    def L(x, there_x, fields):
        v, w, g = x / law.std, there_x / law.std, law.std * fields["grad"]
        inner = ((w - rho * v) / math.sqrt(1 - rho**2) * g).sum(-1)
        return fields["log_psi"] - delta / 8 * g.square().sum(-1) + math.sqrt(delta) / 2 * inner

    published = L(there_x, x, there) - L(x, there_x, here)
    ours = there["log_psi"] - here["log_psi"] + correction
    assert float((published - ours).abs().max()) < 1e-9


@pytest.mark.parametrize("move", [*GAUSSIAN, RandomWalk()], ids=repr)
@pytest.mark.parametrize("k", [0, 2])
def test_what_a_move_leaves_behind_belongs_to_its_state(move, k) -> None:
    model = moving_model(move, InflatedGaussian())
    x, fields = sweep(model, k, move, *InvariantLaw(model, k, 300, "fields").population("fields"))
    for name, a in model.look_ahead(k, x, {}).items():
        assert torch.equal(a, fields[name]), name


# ---- the law at the noise end ----------------------------------------------------------------------

TWO = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[4.0, -3.0], [-4.0, 0.0]]).double(), scale=1.0
)


def noise_end(move, stream="noise end"):
    """Draws of a two-component p_T that is far from N(0, sigma^2), moved; first and second moments minus
    the true ones, (n, 5)."""
    model = sg.GuidedDiffusion(
        TWO, COST, kernel=sg.kernels.DDPM(), times=torch.tensor([0.5, 0.2, 0.0]),
        potential=Terminal(), proposal=sg.proposals.Bootstrap(), move=move,
    )  # fmt: skip
    T = model.levels[0]
    x = model.draw_initial((1, 8000), generator(stream))
    law = Gaussian(torch.zeros_like(x), T.sigma)
    parent = {"parent_mean": law.mean, "parent_std": law.std_like(x)}
    x, _ = sweep(model, 0, move, x, model.look_ahead(0, x, {}) | parent, visits=30)
    w, m = torch.tensor([0.3, 0.7]).double(), T.alpha * TWO._m
    mean = w @ m
    second = (
        torch.einsum("k,ki,kj->ij", w, m, m) + (T.alpha**2 + T.sigma**2) * torch.eye(2).double()
    )
    outer = x[0, :, :, None] * x[0, :, None, :]
    return torch.cat([x[0] - mean, (outer - second).flatten(1)], 1)


@pytest.mark.parametrize("move", [*GAUSSIAN, RandomWalk(), Restart()], ids=repr)
def test_the_prior_knows_its_own_law_at_the_noise_end(move) -> None:
    z_test(noise_end(move), 0.0, ceiling=0.2)


def test_planted_initial_law_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(refresh, "_initial_ratio", lambda model, x: 0.0)
    for move in (PCN(0.6), MALA(0.9), Restart()):
        with pytest.raises(AssertionError):
            z_test(noise_end(move), 0.0, ceiling=0.2)


# ---- planted bugs: invariance ----------------------------------------------------------------------


def inverted(model, k, x, fields, right=refresh._evaluate):
    """The ratio of psi upside down."""
    there = right(model, k, x, fields)
    return there | {"log_psi": 2 * fields["log_psi"] - there["log_psi"]}


def uncorrected(*given, right=refresh._candidate):
    """The Gaussian terms of the ratio dropped."""
    x, there, correction = right(*given)
    return x, there, torch.zeros_like(correction)


def forgetful(*given, right=refresh.attempt):
    """The cached value stays that of the old state."""
    x, out, accepted = right(*given)
    return x, out | {"log_psi": given[4]["log_psi"]}, accepted


@pytest.mark.parametrize(
    ("move", "name", "wrong"),
    [
        (PCN(0.6), "_evaluate", inverted),
        (PCNL(0.8), "_evaluate", inverted),
        (MALA(0.9), "_candidate", uncorrected),
        (PCNL(0.8), "_candidate", uncorrected),
        (RandomWalk(), "_candidate", uncorrected),
        (PCN(0.6), "attempt", forgetful),
        (MALA(0.9), "attempt", forgetful),
    ],
    ids=lambda a: getattr(a, "__name__", repr(a)),
)
def test_planted_bug_in_a_move_is_caught_T6(monkeypatch, move, name, wrong) -> None:
    model = moving_model(move, InflatedGaussian())
    law = InvariantLaw(model, 3, 8000, "planted")
    population = law.population("planted")
    law.test(sweep(model, 3, move, *population)[0])
    monkeypatch.setattr(refresh, name, wrong)
    with pytest.raises(AssertionError):
        law.test(sweep(model, 3, move, *population)[0])


def test_planted_parents_not_gathered_is_caught_T6(monkeypatch) -> None:
    right = Particles.take

    def wrong(self, ancestors, *log_w):
        taken = right(self, ancestors, *log_w)
        return replace(taken, carry={**taken.carry, "parent_mean": self.carry["parent_mean"]})

    model = moving_model(PCN(1.0, num_moves=3), Tilt())
    always = sg.triggers.always()
    z_test(ratios(model, 32, 8000, always)[0], 1.0, ceiling=0.005)
    monkeypatch.setattr(Particles, "take", wrong)
    with pytest.raises(AssertionError):
        z_test(ratios(model, 32, 8000, always)[0], 1.0, ceiling=0.005)


# ---- evidence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_particles", "num_systems"), [(16, 1500), (400, 120)])
@pytest.mark.parametrize("potential", [InflatedGaussian(), Terminal(), Tilt()], ids=repr)
@pytest.mark.parametrize("when", ["every_step", "waste_free", "resampled"])
@pytest.mark.parametrize("move", GAUSSIAN[:2], ids=repr)
def test_evidence_and_mean_stay_unbiased_A18(
    move, when, potential, num_particles, num_systems
) -> None:
    move = replace(
        move, num_moves=3, every_step=when == "every_step", waste_free=when == "waste_free"
    )
    model = moving_model(move, potential)
    ratio, post = ratios(model, num_particles, num_systems)
    z_test(ratio, 1.0, ceiling=0.02)
    assert post.exactness == EXACT
    mean = linear_gaussian_answer(model)[1].mean
    z_test(ratio[:, None] * post.mean(), mean, ceiling=0.03)


@pytest.mark.parametrize("proposal", [sg.proposals.Gradient(), sg.proposals.DTM(warm_start=True)])
def test_evidence_with_guided_proposals(proposal) -> None:
    model = sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(5), proposal=proposal,
        potential=InflatedGaussian(), move=PCNL(1.0, every_step=True, num_moves=2),
    )  # fmt: skip
    z_test(ratios(model)[0], 1.0, ceiling=0.02)


def test_moves_of_the_first_noise_serve_a_deterministic_chain() -> None:
    """Where no step adds noise, all diversity is in x_T: it moves, nothing else can."""
    move = PCN(0.7, num_moves=3, every_step=True)
    times = moving_model(None, Terminal()).levels
    model = sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDIM(0.0), times=torch.tensor([t.time for t in times]),
        potential=InflatedGaussian(), proposal=sg.proposals.Bootstrap(), move=move,
    )  # fmt: skip
    post = sg.run(model, num_particles=16, num_systems=1500, progress=False)
    truth = gaussian_chain(MEAN, COVARIANCE, model.levels, eta=0.0)
    ratio = torch.exp(post.log_evidence - truth.log_evidence(MATRIX, OBSERVED, NOISE_STD))
    z_test(ratio, 1.0, ceiling=0.04)
    moved = post.trace["acceptance"].isfinite().all(0)
    assert moved.tolist() == [False, True] + [False] * (model.num_steps - 1)


@dataclass(frozen=True)
class Remembering(Potential):
    """Depends on the past through what it remembers: half of the previous value, say."""

    is_markov = False
    num_draws = 1

    def log_value(self, look):
        raise NotImplementedError

    def evaluate(self, look):
        shaken = look.x0_hat + 0.2 * look.noise[:, :, 0]
        own = -0.5 * self.cost(shaken).double()
        return own if look.memory is None else own + 0.5 * look.memory, own


@pytest.mark.parametrize("move", [PCN(0.6, every_step=True), MALA(0.9, every_step=True)], ids=repr)
def test_values_with_a_past_and_random_numbers_of_their_own_move_too(move) -> None:
    model = moving_model(move, Remembering())
    z_test(ratios(model)[0], 1.0, ceiling=0.03)


def test_a_strength_that_was_chosen_holds_while_particles_move() -> None:
    potential = Tempered(InflatedGaussian(), Adaptive(0.999))
    model = moving_model(MALA(0.9, every_step=True), potential)
    source = generator("chosen")
    first = model.initial((2, 50), source)
    first = model.adapt(0, torch.zeros_like(first.log_g), first)
    moved = model.adapt(1, first.log_g, model.step(0, first.x, first.carry, source))
    x, carry = model.refresh(1, moved.x, moved.carry, None, source)
    assert model.exactness == LIMIT and float(carry["strength"].max()) < 1
    assert not torch.equal(x, moved.x)
    for name, a in model.look_ahead(1, x, carry).items():
        torch.testing.assert_close(carry[name], a, rtol=0, atol=1e-12)


# ---- who moved -------------------------------------------------------------------------------------


def test_acceptance_is_recorded_where_something_moved_A10() -> None:
    trigger = sg.triggers.at_steps([0, 2, 3])  # step 3 has no noise: never resampled
    for move in (PCN(0.5), PCN(0.5, num_moves=3, waste_free=True)):
        _, post = ratios(moving_model(move, InflatedGaussian()), 16, 3, trigger)
        rate = post.trace["acceptance"]
        assert rate.shape == (3, 5)
        assert rate.isfinite().all(0).tolist() == [False, True, False, True, False]
        assert 0 < float(rate.nanmean()) < 1
    _, post = ratios(moving_model(PCN(0.5, every_step=True), InflatedGaussian()), 16, 3, trigger)
    assert post.trace["acceptance"].isfinite().all(0).tolist() == [False] + [True] * 4


def test_only_the_systems_just_resampled_move() -> None:
    def some(step, log_w):
        return torch.arange(len(log_w)) == step

    for move in (PCN(0.5, num_moves=2), PCN(0.5, num_moves=3, waste_free=True)):
        _, post = ratios(moving_model(move, InflatedGaussian()), 16, 3, some)
        moved = post.trace["acceptance"].isfinite()
        assert torch.equal(moved, post.trace["resampled"]), moved
        assert int(moved.sum()) == 3


def test_moves_that_do_not_happen_cost_nothing_on_the_cpu() -> None:
    plain = ratios(moving_model(None, Terminal()), 16, 3, sg.triggers.ess_below(0.01))[1]
    ready = ratios(moving_model(PCN(0.5), Terminal()), 16, 3, sg.triggers.ess_below(0.01))[1]
    assert ready.evaluations == plain.evaluations
    assert torch.equal(ready.x, plain.x)


def test_a_candidate_without_a_value_is_never_accepted() -> None:
    @dataclass(frozen=True)
    class Cliff(Potential):
        def log_value(self, look):
            value = -0.1 * look.x.square().sum(-1)
            return torch.where(look.x[..., 0] > 0, value, torch.inf)

    model = moving_model(RandomWalk(), Cliff())
    x = torch.full((1, 500, 2), 0.3).double()
    parent = {"parent_mean": x, "parent_std": torch.ones(1, 500, 1).double()}
    x, fields = sweep(model, 1, RandomWalk(), x, model.look_ahead(1, x, {}) | parent)
    assert float(x[..., 0].min()) > 0 and bool(fields["log_psi"].isfinite().all())


def test_a_posterior_with_moves_can_be_saved_and_drawn(tmp_path) -> None:
    model = moving_model(PCN(0.5), InflatedGaussian(), start=starts.TemperedStart(PCN(0.5)))
    _, post = ratios(model, 16, 2, sg.triggers.at_steps([2]))
    post.plot()
    post.save(tmp_path / "moved.nc")
    again = sg.Posterior.load(tmp_path / "moved.nc")
    for name, a in post.trace.items():
        torch.testing.assert_close(again.trace[name], a, equal_nan=True, rtol=0, atol=0)
    assert "PCN(num_moves=1" in post.summary()


@pytest.mark.parametrize(
    "move",
    [PCN(0.5, every_step=True), PCNL(0.5), PCN(0.5, num_moves=3, waste_free=True), Restart(2)],
    ids=repr,
)
def test_chunks_do_not_change_results(move) -> None:
    posts = []
    for chunk_size in (None, 10):
        model = sg.GuidedDiffusion(
            PRIOR, COST, kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(5), move=move,
            potential=InflatedGaussian(), proposal=sg.proposals.Bootstrap(), chunk_size=chunk_size,
            start=starts.TemperedStart(PCNL(0.5), temperatures=3),
        )  # fmt: skip
        posts.append(sg.run(model, num_particles=16, num_systems=2, trigger=OFTEN, progress=False))
    assert float((posts[0].x - posts[1].x).abs().max()) < 1e-9
    assert float((posts[0].log_evidence - posts[1].log_evidence).abs().max()) < 1e-9
    assert posts[0].evaluations == posts[1].evaluations


# ---- dimension -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Isotropic(Potential):
    """log psi = -a |x|^2 / (2 sqrt d), whose spread over N(0, I) hardly depends on d."""

    a: float = 2.0
    uses_cost = 0

    def log_value(self, look):
        x = look.x.flatten(2).double()
        return -self.a / (2 * x.shape[-1] ** 0.5) * x.square().sum(-1)


def acceptance(move, d, num=400, visits=6):
    """Mean acceptance at the noise end on exact draws of the target."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, d).double(), scale=1.0)
    model = sg.GuidedDiffusion(
        prior, lambda x: 0 * x[:, 0], kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(2),
        potential=Isotropic(), proposal=sg.proposals.Bootstrap(), move=move,
    )  # fmt: skip
    source = generator(f"dimension {d}")
    x = torch.randn(1, num, d, generator=source, dtype=torch.float64)
    x = x / (1 + Isotropic().a / d**0.5) ** 0.5
    law, rates = Gaussian(torch.zeros_like(x), model.levels[0].sigma), []
    fields = model.look_ahead(0, x, {}) | {"parent_mean": law.mean, "parent_std": law.std_like(x)}
    for _ in range(visits):
        x, fields, accepted = refresh.attempt(model, 0, move, x, fields, source)
        rates.append(float(accepted.double().mean()))
    return sum(rates) / visits


@pytest.mark.parametrize("move", [PCN(0.5), PCNL(0.5), PCNL(2.0)], ids=repr)
def test_acceptance_is_stable_from_2_to_4096_dimensions_A18(move) -> None:
    rates = [acceptance(move, d) for d in (2, 64, 4096)]
    assert min(rates) > 0.45, rates
    assert max(rates) - min(rates) < 0.2, rates
    assert abs(rates[2] - rates[1]) < 0.08, rates


def test_acceptance_of_mala_collapses_A18() -> None:
    low, high = (acceptance(MALA(0.7), d) for d in (2, 4096))
    assert low > 0.7
    assert high < 0.05


# ---- restart ---------------------------------------------------------------------------------------

TAU = 1.5
ISOTROPIC = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=TAU)


@dataclass(frozen=True)
class Reversal(Kernel):
    """The exact reversal of the noising of N(0, TAU^2 I), on any grid."""

    def step(self, x, x0_hat, t, s, memory=None):
        if s.sigma == 0:
            return Gaussian(x0_hat, 0.0)
        v_t, v_s = (level.alpha**2 * TAU**2 + level.sigma**2 for level in (t, s))
        gain = t.alpha / s.alpha * v_s / v_t
        return Gaussian(gain * x, math.sqrt(v_s - gain**2 * v_t))


def restarted(kernel, num_steps, num=6000):
    """The label of a model, and draws (num, 2) of p_k psi_k, whitened, after 20 restarts over a sixth of
    the grid."""
    move, k = Restart(num_steps // 6), num_steps * 2 // 3
    model = sg.GuidedDiffusion(
        ISOTROPIC, COST, kernel=kernel, times=sg.grids.log_snr(num_steps), move=move,
        potential=InflatedGaussian(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    t = model.levels[k]
    points = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()[None]
    value, _, vjp = model.pullback(lambda x: (model.look_at(k, x).value, None), points)
    slopes = vjp(torch.ones_like(value))[0]  # of a quadratic
    precision = torch.eye(2).double() / (t.alpha**2 * TAU**2 + t.sigma**2) - slopes[1:] + slopes[0]
    centre, L = torch.linalg.solve(precision, slopes[0]), torch.linalg.cholesky(precision)
    z = torch.randn(num, 2, generator=generator("restart"), dtype=torch.float64)
    x = (centre + torch.linalg.solve_triangular(L.T, z.T, upper=True).T)[None]
    law = Gaussian(torch.zeros_like(x), 1.0)  # a parent that the first candidate replaces
    parent = {"parent_mean": law.mean, "parent_std": law.std_like(x)}
    x, _ = sweep(model, k, move, x, model.look_ahead(k, x, {}) | parent)
    return model.exactness, (x[0] - centre) @ L


def test_restart_leaves_p_psi_alone_where_the_chain_is_the_reversal() -> None:
    label, white = restarted(Reversal(), 6)
    assert label == LIMIT
    z_test(white, 0.0, ceiling=0.02)
    outer = (white[:, :, None] * white[:, None]).flatten(1)
    z_test(outer, torch.eye(2).flatten(), ceiling=0.03)


def test_restart_is_right_in_the_limit_of_fine_grids_only() -> None:
    gaps = []
    for num_steps in (6, 48, 384):
        label, white = restarted(sg.kernels.DDPM(), num_steps)
        assert label == LIMIT
        gaps.append(float((white.T @ white / len(white) - torch.eye(2)).abs().max()))
    assert gaps[0] > 0.3 > gaps[1] > gaps[2], gaps
    assert gaps[2] < 0.08, gaps


def test_planted_restart_that_accepts_everything() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refresh, "_evaluate", level_value)
        _, white = restarted(Reversal(), 6)
    with pytest.raises(AssertionError):
        z_test(white, 0.0, ceiling=0.02)


def level_value(model, k, x, fields, right=refresh._evaluate):
    """Every state is as good as any other."""
    return right(model, k, x, fields) | {"log_psi": fields["log_psi"]}


def test_a_restarted_particle_has_its_new_parent() -> None:
    model = moving_model(Restart(1), Terminal())
    x, fields = InvariantLaw(model, 2, 400, "parents").population("parents")
    x_new, new, accepted = refresh.attempt(model, 2, Restart(1), x, fields, generator("restart"))
    assert bool(accepted.all())
    assert float((new["parent_mean"] - fields["parent_mean"]).abs().min()) > 0
    white = (x_new - new["parent_mean"]) / new["parent_std"]
    z_test(white[0], 0.0, ceiling=0.1)
    z_test(white[0].square(), 1.0, ceiling=0.15)


# ---- grids that go up again ------------------------------------------------------------------------


def recurrent_law(levels):
    """Law of x_0 under the DDPM chain with noising steps where the grid goes up."""
    T, eye = levels[0], torch.eye(2, dtype=torch.float64)
    law = GaussianLaw(T.alpha * MEAN, T.alpha**2 * COVARIANCE + T.sigma**2 * eye)
    for t, s in pairwise(levels):
        if s.sigma / s.alpha > t.sigma / t.alpha:
            shrink = s.alpha / t.alpha
            law = law.affine(shrink * eye, 0 * MEAN, s.sigma**2 - (shrink * t.sigma) ** 2)
            continue
        gain = torch.linalg.solve(t.alpha**2 * COVARIANCE + t.sigma**2 * eye, t.alpha * COVARIANCE)
        v = s.sigma**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2)
        c = (s.sigma**2 - v) ** 0.5 / t.sigma
        pull = s.alpha - c * t.alpha
        law = law.affine(pull * gain + c * eye, pull * (MEAN - t.alpha * gain @ MEAN), v)
    return law


@dataclass(frozen=True)
class Ratios:
    """Three coarse steps at noise levels 10, 1, 1/2, 0."""

    def __call__(self, schedule):
        ratios = torch.tensor([10.0, 1.0, 0.5], dtype=torch.float64)
        return torch.cat([schedule.time(-2 * ratios.log()), torch.zeros(1, dtype=torch.float64)])


def recurrent_model(repeats, proposal=None, move=None, span=1, grid=None, potential=None):
    return sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDPM(), move=move, potential=potential or InflatedGaussian(),
        times=sg.grids.recurrent(grid or Ratios(), repeats=repeats, span=span),
        proposal=proposal or sg.proposals.Bootstrap(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("repeats", "proposal", "move", "span"),
    [
        (2, sg.proposals.Bootstrap(), None, 1),
        (3, sg.proposals.Gradient(), None, 1),
        (2, sg.proposals.Bootstrap(), PCN(0.7, every_step=True), 1),
        (2, sg.proposals.Gradient(), MALA(0.9), 1),
        (2, sg.proposals.Gradient(), None, 2),
    ],
)
def test_evidence_on_a_grid_with_detours_is_that_of_its_own_chain_B42(
    repeats, proposal, move, span
) -> None:
    model = recurrent_model(repeats, proposal, move, span)
    assert any(model.is_noising(k) for k in range(model.num_steps))
    law = recurrent_law(model.levels)
    truth = law.log_evidence(MATRIX, OBSERVED, NOISE_STD)
    post = sg.run(model, num_particles=32, num_systems=1500, trigger=OFTEN, progress=False)
    assert post.exactness == EXACT
    ratio = torch.exp(post.log_evidence - truth)
    z_test(ratio, 1.0, ceiling=0.03)
    mean = law.posterior(MATRIX, OBSERVED, NOISE_STD).mean
    z_test(ratio[:, None] * post.mean(), mean, ceiling=0.06)
    straight = recurrent_law(recurrent_model(1).levels)
    if span == 1:  # the chain with detours is another chain
        wrong = torch.exp(post.log_evidence - straight.log_evidence(MATRIX, OBSERVED, NOISE_STD))
        with pytest.raises(AssertionError):
            z_test(wrong, 1.0, ceiling=0.03)


def test_cost_of_guidance_without_weights_falls_with_detours_B42() -> None:
    """Universal guidance's forward rule, without weights."""
    rule, costs = sg.proposals.Gradient(rule="x0_hat", trust=2.0), []
    for repeats in (1, 2, 4):
        model = recurrent_model(
            repeats, rule, grid=sg.grids.log_snr(10), potential=sg.potentials.Tweedie()
        )
        post = sg.run(model, num_particles=4000, trigger=sg.triggers.never(), progress=False)
        costs.append(float(COST(post.unweighted().particles[None]).mean()))
    assert costs[1] < 0.85 * costs[0] and costs[2] < 0.95 * costs[1], costs


# ---- tuning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "target"),
    [
        (PCN(0.05), 0.7),
        (PCN(1.0), 0.6),
        (PCNL(0.1), 0.9),
        (MALA(3.0), None),
        (RandomWalk(9.0), 0.3),
    ],
    ids=repr,
)
def test_a_pilot_finds_the_size(move, target) -> None:
    cost = sg.costs.LinearGaussian(torch.eye(2).double(), torch.tensor([3.0, 3.0]).double(), 0.1)
    model = sg.GuidedDiffusion(
        PRIOR, cost, kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(8), potential=InflatedGaussian(),
        proposal=sg.proposals.Gradient(), move=replace(move, every_step=True),
    )  # fmt: skip
    tuned = pilot.tune_move(model, target, seed=3)
    assert model.move == replace(move, every_step=True) and tuned.parts["move"] is tuned.move
    post = sg.run(tuned, num_particles=400, seed=3, progress=False)
    rate = float(post.trace["acceptance"].nanmean())
    assert abs(rate - (target or move.target_acceptance)) < 0.1, (rate, tuned.move)
    assert post.exactness == EXACT
    assert int(post.settings["pilot_forward"]) == 10 * 120 * (8 + 8)


def test_a_tuned_model_stays_exact_and_the_pilot_is_not_its_run() -> None:
    model = moving_model(PCNL(0.1, num_moves=2), InflatedGaussian())
    tuned = pilot.tune_move(model, 0.7, trigger=OFTEN, seed=5)
    assert not torch.equal(torch.tensor(tuned.move.delta), torch.tensor(0.1))
    assert tuned.evaluations.total() == 0
    z_test(ratios(tuned, seed=5)[0], 1.0, ceiling=0.02)


def test_restart_has_whole_sizes() -> None:
    assert [Restart(4).resized(f).span for f in (0.1, 0.5, 1.0, 2.1)] == [1, 2, 4, 8]
    assert PCN(0.5).resized(9.0).beta == 1.0 and PCNL(0.5).resized(9.0).delta == 4.0


# ---- refusals --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat(Potential):
    has_gradient = False

    def log_value(self, look):
        return look.x.detach().sum(-1).double()


def by_numpy(x):
    return torch.from_numpy((x.detach().numpy() ** 2).sum(1))


def build(cost=COST, potential=None, times=None, **parts):
    return sg.GuidedDiffusion(
        PRIOR, cost, kernel=sg.kernels.DDPM(), times=times or sg.grids.log_snr(5),
        potential=potential or Terminal(), proposal=sg.proposals.Bootstrap(), **parts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCN(0.0), r"beta must be in \(0, 1\], got 0"),
        (lambda: PCN(1.1), r"beta must be in"),
        (lambda: PCNL(4.5), r"delta must be in \(0, 4\]"),
        (lambda: MALA(-1.0), r"step_size must be positive"),
        (lambda: Restart(0), r"span must be at least 1"),
        (lambda: PCN(0.5, num_moves=0), r"num_moves must be at least 1"),
        (lambda: PCN(0.5, waste_free=True, every_step=True), r"leave every_step out"),
        (lambda: build(move=PCN), r"expected an object of smcguide\.moves .*; write PCN\(\)"),
        (lambda: build(move=RandomWalk(math.nan)), r"finite and s positive"),
        (lambda: build(move=RandomWalk(0.0)), r"finite and s positive"),
        (lambda: build(by_numpy, move=MALA(0.5)), r"MALA.*cost by_numpy, which cannot be diff.*PCN"),
        (lambda: build(potential=Flat(), move=PCNL(0.5)), r"PCNL.*potential Flat\(\), which cannot"),
        (lambda: build(potential=Remembering(), move=Restart()), r"past, on which .*Remembering"),
        (
            lambda: build(times=sg.grids.recurrent(sg.grids.log_snr(5)), move=Restart()),
            r"grid that only goes down",
        ),
        (lambda: PCN(0.5) and NoSize().resized(2.0), r"NoSize does not say what its size is"),
        (lambda: pilot.tune_move(build()), r"a model with a move"),
        (lambda: pilot.tune_move(build(move=PCN(0.5)), 1.5), r"target must be in \(0, 1\)"),
        (
            lambda: pilot.tune_move(build(move=PCN(0.5)), trigger=sg.triggers.never()),
            r"nothing was resampled",
        ),
    ],
)  # fmt: skip
def test_misfits_are_refused_with_a_remedy(make, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        make()


class NoSize(RandomWalk):
    resized = Move.resized


def test_values_only_moves_need_no_gradient() -> None:
    for model in (build(by_numpy, move=PCN(0.5)), build(potential=Flat(), move=Restart())):
        post = sg.run(model, num_particles=8, trigger=OFTEN, progress=False)
        assert post.evaluations.get("network_backward", 0) == 0


@pytest.mark.parametrize("start", [sg.run, sg.iterate])
def test_waste_free_chains_must_fill_the_population(start) -> None:
    model = build(move=PCN(0.5, num_moves=2, waste_free=True))
    with pytest.raises(sg.InvalidInput, match=r"=16 is no multiple of num_moves \+ 1 = 3.*take 18"):
        start(model, num_particles=16)


def test_planted_chains_in_the_wrong_places_T6(monkeypatch) -> None:
    right = refresh._chain

    def wrong(model, k, move, x, fields, source):
        """States side by side, their fields chain after chain."""
        blocks = torch.arange(x.shape[1]).reshape(move.chain_length, -1).T.flatten()
        return right(model, k, move, x, {n: a[:, blocks] for n, a in fields.items()}, source)

    model = moving_model(PCN(0.6, num_moves=3, waste_free=True), Tilt())
    always = sg.triggers.always()
    z_test(ratios(model, 32, 8000, always)[0], 1.0, ceiling=0.005)
    monkeypatch.setattr(refresh, "_chain", wrong)
    with pytest.raises(AssertionError):
        z_test(ratios(model, 32, 8000, always)[0], 1.0, ceiling=0.005)


def test_moves_are_exported() -> None:
    assert {"PCN", "PCNL", "MALA", "Restart", "Move"} <= set(moves.__all__)
