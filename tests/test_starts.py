"""Starts: properly weighted first populations, or a label that says otherwise."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

import smcguide as sg
from smcguide import weights
from smcguide.exactness import BIASED, EXACT, LIMIT
from smcguide.moves import MALA, PCN, PCNL, Restart
from smcguide.potentials import InflatedGaussian, Potential, Terminal
from smcguide.starts import PsiStart, Start, TemperedStart
from smcguide.starts.base import Begun
from smcguide.testing import generator, z_test
from smcguide.testing.conformance.move import InvariantLaw, moving_model
from smcguide.testing.conformance.proposal import (
    MATRIX,
    NOISE_STD,
    OBSERVED,
    linear_gaussian_answer,
)

COST = sg.costs.LinearGaussian(MATRIX, OBSERVED, NOISE_STD)
PARTS = {"kernel": sg.kernels.DDPM(), "proposal": sg.proposals.Bootstrap()}


@dataclass(frozen=True)
class Tilt(Potential):
    """A value that is strong at every level, and divided out again at the end."""

    a: float = 0.8
    uses_cost = 0

    def log_value(self, look):
        return self.a * look.x.sum(-1).double()


def ratios(model, num_particles=16, num_systems=1500, seed=5):
    """Z_hat / Z of independent systems, and the run."""
    post = sg.run(
        model, num_particles=num_particles, num_systems=num_systems, seed=seed, progress=False
    )
    return torch.exp(post.log_evidence - linear_gaussian_answer(model)[0]), post


# ---- tempering -------------------------------------------------------------------------------------

STARTS = [
    TemperedStart(PCN(0.6)),
    TemperedStart(PCNL(0.8, num_moves=2), temperatures=3),
    TemperedStart(MALA(0.9), temperatures=(0.2, 1.0)),
]


@pytest.mark.parametrize(("num_particles", "num_systems"), [(16, 1500), (400, 120)])
@pytest.mark.parametrize("potential", [InflatedGaussian(), Tilt()], ids=repr)
@pytest.mark.parametrize("start", STARTS, ids=repr)
def test_evidence_and_mean_are_those_of_a_run_without_a_start_A18(
    start, potential, num_particles, num_systems
) -> None:
    model = moving_model(None, potential, start=start)
    ratio, post = ratios(model, num_particles, num_systems)
    z_test(ratio, 1.0, ceiling=0.03)
    z_test(ratio[:, None] * post.mean(), linear_gaussian_answer(model)[1].mean, ceiling=0.04)
    assert post.exactness == EXACT


def first_population(start, potential=None, shape=(4000, 16), stream="first"):
    model = moving_model(None, potential or Tilt(), start=start)
    with torch.no_grad():
        return model, model.initial(shape, generator(stream))


def expected(first, f):
    """Estimates (S,) of E_pT[psi_T f]."""
    return (first.log_g.exp() * f(first.x)).mean(1)


def moments(model):
    """E_pT[psi_T] and E_pT[psi_T x] for the tilt, in closed form."""
    law = InvariantLaw(model, 0, 1, "law")
    T, prior = model.levels[0], model.prior.moments()
    cov = T.alpha**2 * prior.basis @ prior.variance.diag() @ prior.basis.T
    cov = cov + T.sigma**2 * torch.eye(2, dtype=cov.dtype)
    a = torch.full((2,), model.potential.a, dtype=cov.dtype)
    z = math.exp(float(a @ (T.alpha * prior.mean) + a @ cov @ a / 2))
    return z, law.centre[0, 0]


@pytest.mark.parametrize("start", [None, *STARTS, TemperedStart(Restart(), 4)], ids=repr)
def test_first_weights_are_unbiased_for_p_psi(start) -> None:
    model, first = first_population(start)
    z, mean = moments(model)
    z_test(expected(first, lambda x: 1.0), z, ceiling=0.03)
    for i in range(2):
        z_test(expected(first, lambda x, i=i: x[..., i]), z * float(mean[i]), ceiling=0.05)


def test_values_that_count_later_are_those_of_the_states_themselves() -> None:
    for start in [*STARTS, PsiStart(PCN(0.6), num_chains=3, burn_in=2)]:
        model, first = first_population(start, InflatedGaussian(), (3, 16))
        fresh = model.look_ahead(0, first.x, {})
        for name in ("x0_hat", "log_psi", *(["grad"] if start.needs_gradient else [])):
            assert torch.equal(fresh[name], first.carry[name]), (start, name)


def informed(start, num_systems=100):
    """A run in 12 dimensions from a noise level where psi already knows much of the answer."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 12).double(), scale=1.0)
    cost = sg.costs.LinearGaussian(torch.eye(12).double(), torch.full((12,), 1.5).double(), 0.4)
    model = sg.GuidedDiffusion(
        prior, cost, times=torch.cat([torch.linspace(0.25, 0.01, 12), torch.zeros(1)]), start=start,
        kernel=sg.kernels.DDPM(), potential=InflatedGaussian(), proposal=sg.proposals.Gradient(),
    )  # fmt: skip
    return sg.run(model, num_particles=64, num_systems=num_systems, progress=False)


def test_ess_and_evidence_are_better_than_from_gaussian_noise_A18() -> None:
    gaussian, tempered = informed(None), informed(TemperedStart(PCNL(0.8, num_moves=2), 8))
    chains = informed(PsiStart(PCNL(0.8)), 10)
    ess = [float(post.trace["ess"][:, 0].mean()) / 64 for post in (gaussian, tempered, chains)]
    assert ess[0] < 0.1 and ess[1] > 0.5 and ess[2] > 0.999, ess
    assert float(tempered.log_evidence.std()) < 0.7 * float(gaussian.log_evidence.std())


def test_ancestors_and_acceptance_are_those_of_the_draws() -> None:
    _, first = first_population(TemperedStart(PCN(1e-6), 6), shape=(50, 16))
    model = moving_model(None, Tilt(), start=TemperedStart(PCN(1e-6), 6))
    draws = model.draw_initial((50, 16), generator("first"))
    parents = draws.gather(1, first.eve[..., None].expand_as(draws))
    assert float((first.x - parents).abs().max()) < 1e-3
    assert 1 < float(torch.tensor([len(e.unique()) for e in first.eve]).double().mean()) < 16
    _, post = ratios(moving_model(None, Tilt(1.5), start=TemperedStart(PCN(0.9), 6)), 16, 3)
    rate = post.trace["acceptance"]
    assert bool(((rate[:, 0] > 0) & (rate[:, 0] < 1)).all()) and bool(rate[:, 1:].isnan().all())
    assert bool((post.trace["unique_eves"][:, 0] < 16).any())


def test_no_weights_no_resampling() -> None:
    model = moving_model(None, Terminal(), start=TemperedStart(PCN(0.5), 4))
    with torch.no_grad():
        first = model.initial((3, 16), generator("first"))
    assert torch.equal(first.eve, torch.arange(16).expand(3, 16))
    assert float(first.log_g.abs().max()) == 0
    assert float(first.carry["acceptance"].min()) > 0.5


# ---- planted bugs ----------------------------------------------------------------------------------


class LosesEvidence(TemperedStart):
    """The factors of log Z are dropped."""

    def begin(self, x, fields, at, generator):
        begun = super().begin(x, fields, at, generator)
        log_w = begun.log_w - weights.log_mean_exp(begun.log_w)[:, None]
        return replace(begun, log_w=log_w)


class CountsTwice(TemperedStart):
    """psi_T once in the temperatures and once more in the weight."""

    def begin(self, x, fields, at, generator):
        begun = super().begin(x, fields, at, generator)
        return replace(begun, log_w=begun.log_w + begun.fields["log_psi"])


class FirstStrength(TemperedStart):
    """Moves that always aim at full strength."""

    def begin(self, x, fields, at, generator):
        class Wrong:
            take = staticmethod(at.take)

            @staticmethod
            def move(move, x, fields, strength, generator):
                return at.move(move, x, fields, 1.0, generator)

        return super().begin(x, fields, Wrong(), generator)


class KeepsFields(TemperedStart):
    """Fields are not gathered with the states."""

    def begin(self, x, fields, at, generator):
        class Wrong:
            move = staticmethod(at.move)

            @staticmethod
            def take(fields, ancestors):
                taken = at.take(fields, ancestors)
                return {**taken, "log_psi": fields["log_psi"]}

        return super().begin(x, fields, Wrong(), generator)


@pytest.mark.parametrize("kind", [LosesEvidence, CountsTwice, FirstStrength, KeepsFields])
def test_planted_bug_in_a_start_is_caught_T6(kind) -> None:
    model, first = first_population(TemperedStart(PCN(0.7), 4), Tilt(1.2))
    z, _ = moments(model)
    z_test(expected(first, lambda x: 1 / z), 1.0, ceiling=0.03)
    _, wrong = first_population(kind(PCN(0.7), 4), Tilt(1.2))
    with pytest.raises(AssertionError):
        z_test(expected(wrong, lambda x: 1 / z), 1.0, ceiling=0.03)


# ---- Markov chains ---------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [PCN(0.7), PCNL(1.5), MALA(1.0)], ids=repr)
def test_long_chains_follow_p_psi_A18(move) -> None:
    start = PsiStart(move, num_chains=16, burn_in=20)
    model, first = first_population(start, shape=(1500, 16))
    law = InvariantLaw(model, 0, 1, "law")
    assert float(first.log_g.abs().max()) == 0
    white = (first.x - law.centre[0, 0]) @ law.factor
    z_test(white.mean(1), 0.0, ceiling=0.01)
    z_test(white.square().mean(1), 1.0, ceiling=0.02)


@pytest.mark.parametrize(("num_particles", "num_chains"), [(16, 4), (18, 4), (3, 8)])
def test_states_come_from_their_chains_and_log_z_is_withheld_A18(num_particles, num_chains) -> None:
    start = PsiStart(PCN(0.9), num_chains=num_chains, burn_in=3)
    model, first = first_population(start, shape=(5, num_particles))
    assert first.x.shape == (5, num_particles, 2) and first.log_g.shape == (5, num_particles)
    C = min(num_chains, num_particles)
    assert torch.equal(first.eve, first.eve[:, torch.arange(num_particles) % C])
    post = sg.run(model, num_particles=num_particles, num_systems=5, progress=False)
    assert post.exactness == BIASED and bool(post.log_evidence.isnan().all())
    assert 0 < float(post.trace["acceptance"][:, 0].mean()) < 1


def test_the_posterior_is_right_with_long_chains_and_psi_counts_once_A18() -> None:
    prior = moving_model(None, Terminal()).prior
    times = torch.tensor([0.25, 0.1, 0.03, 0.0])  # where x_T knows much of x_0

    def error(kind):
        start = kind(PCN(0.7), num_chains=400, burn_in=30)
        model = sg.GuidedDiffusion(prior, COST, times=times, potential=Tilt(), start=start, **PARTS)
        post = sg.run(model, num_particles=400, num_systems=150, progress=False)
        return post.mean() - linear_gaussian_answer(model)[1].mean

    z_test(error(PsiStart), 0.0, ceiling=0.02)
    with pytest.raises(AssertionError):
        z_test(error(CountsAgain), 0.0, ceiling=0.02)


class CountsAgain(PsiStart):
    """The published weight: psi_T although the states follow p_T psi_T already."""

    def begin(self, x, fields, at, generator):
        begun = super().begin(x, fields, at, generator)
        return replace(begun, log_w=begun.fields["log_psi"])


# ---- what it costs, and what is refused ------------------------------------------------------------


def test_gradients_are_asked_for_at_the_noise_end_only() -> None:
    N, start = 8, TemperedStart(PCNL(0.5, num_moves=2), temperatures=3)
    post = sg.run(moving_model(None, Tilt(), start=start), num_particles=N, progress=False)
    assert post.evaluations["network_forward"] == N * (1 + 3 * 2 + 3)
    assert post.evaluations.get("network_backward", 0) == N * (1 + 3 * 2)


@pytest.mark.parametrize("start", [STARTS[1], PsiStart(PCN(0.5), 4, 5)], ids=repr)
def test_chunks_do_not_change_a_start(start) -> None:
    posts = []
    for chunk_size in (None, 6):
        model = moving_model(PCN(0.5), InflatedGaussian(), start=start)
        model.chunk_size = chunk_size
        posts.append(sg.run(model, num_particles=16, num_systems=2, progress=False))
    assert float((posts[0].x - posts[1].x).abs().max()) < 1e-9
    assert torch.equal(posts[0].eves, posts[1].eves)


def test_labels() -> None:
    labels = {TemperedStart(PCN(0.5)): EXACT, TemperedStart(Restart()): LIMIT}
    labels |= {PsiStart(PCN(0.5)): BIASED}
    for start, label in labels.items():
        assert moving_model(None, Terminal(), start=start).exactness == label


@dataclass(frozen=True)
class Adaptive(Tilt):
    adaptive_cess = 0.9


@dataclass(frozen=True)
class Flat(Tilt):
    has_gradient = False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemperedStart(None), r"move must be one of smcguide\.moves"),
        (lambda: PsiStart(PCN), r"move must be one of smcguide\.moves"),
        (lambda: TemperedStart(PCN(0.5, waste_free=True)), r"without waste_free"),
        (lambda: TemperedStart(PCN(0.5), 0), r"at least 1, or increase .*; got 0"),
        (lambda: TemperedStart(PCN(0.5), (0.5, 0.5, 1.0)), r"increase from above 0 to 1"),
        (lambda: TemperedStart(PCN(0.5), (0.0, 1.0)), r"increase from above 0 to 1"),
        (lambda: TemperedStart(PCN(0.5), (0.1, 0.9)), r"increase from above 0 to 1"),
        (lambda: TemperedStart(PCN(0.5), (math.nan, 1.0)), r"increase from above 0 to 1"),
        (lambda: PsiStart(PCN(0.5), num_chains=0), r"num_chains and thin must be at least 1"),
        (lambda: PsiStart(PCN(0.5), thin=0), r"num_chains and thin must be at least 1"),
        (lambda: PsiStart(PCN(0.5), burn_in=-1), r"burn_in at least 0"),
        (
            lambda: moving_model(None, Terminal(), start=PCN(0.5)),
            r"start: got PCN.* expected an object of smcguide\.starts",
        ),
        (
            lambda: moving_model(None, Adaptive(), start=TemperedStart(PCN(0.5))),
            r"strength of Adaptive\(.*\) is chosen from the population",
        ),
        (
            lambda: moving_model(None, Flat(), start=PsiStart(PCNL(0.5))),
            r"potential Flat\(.*\), which cannot be differentiated",
        ),
    ],
)
def test_misfits_are_refused_with_a_remedy(make, message) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        make()


def test_a_start_of_ones_own() -> None:
    """The protocol is enough to write another start: draw as usual, move once."""

    @dataclass(frozen=True)
    class Shaken(Start):
        def begin(self, x, fields, at, generator):
            N = x.shape[1]
            x, fields, accepted = at.move(self.move, x, fields, 0.0, generator)
            eve = torch.arange(N, device=x.device).expand(len(x), N)
            return Begun(x, fields, fields["log_psi"], eve, accepted)

    ratio, _ = ratios(moving_model(None, InflatedGaussian(), start=Shaken(PCN(0.5))))
    z_test(ratio, 1.0, ceiling=0.03)
