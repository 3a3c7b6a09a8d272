"""Particle Gibbs for events and parameters: the joint law on the discretised chain, for any number of
particles, against quadrature over the parameters.

Planted bugs are put where they would occur, and the assertion that passes above them must fail.
"""

import sys
from dataclasses import replace

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, TIMES, P, Q
from torch.distributions import Normal

import smcguide as sg
from smcguide.costs import LinearGaussian, ParametricFunction
from smcguide.parameter_gibbs import parameter_gibbs
from smcguide.parameter_moves import HMC, MALA, RandomWalk
from smcguide.parameters import Independent
from smcguide.testing import gaussian_chain, generator, seed, z_test
from smcguide.testing.unknown import unknown_noise_answer, unknown_noise_model

MODULE = sys.modules["smcguide.parameter_gibbs"]
F64 = torch.float64
A = torch.tensor([[1.0, -0.5], [0.3, 1.0], [1.0, 1.0]], dtype=F64)
Y = torch.tensor([1.6, -0.3, -0.9], dtype=F64)
LOG_NOISE = Normal(torch.tensor(-0.5).double(), torch.tensor(0.8).double())
GRID = torch.linspace(-6, 5, 2001, dtype=F64)
OFTEN = sg.triggers.ess_below(0.9)


def misfit(x0, log_noise):
    s = log_noise.exp()[:, None]
    return -Normal(x0 @ A.to(x0).T, s).log_prob(Y.to(x0)).sum(-1)


COST = ParametricFunction(misfit, {"log_noise": LOG_NOISE})


def build(cost, potential=None, proposal=None, prior=PRIOR, **parts):
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=TIMES, potential=potential or Q.Tweedie(),
        proposal=proposal or P.Gradient(trust=2.0), **parts,
    )  # fmt: skip


# ---- the joint law -------------------------------------------------------------------------------


class Quadrature:
    """Moments of (theta, x_0) given y under the discretised chain, and draws of theta."""

    def __init__(self):
        chain = gaussian_chain(MEAN, COV, build(COST.at(GRID[:1, None, None])).levels)
        stds = GRID.exp().tolist()
        log_z = torch.tensor([chain.log_evidence(A, Y, s) for s in stds], dtype=F64)
        self.p = (LOG_NOISE.log_prob(GRID) + log_z).softmax(0)
        laws = [chain.posterior(A, Y, s) for s in stds]
        x = torch.stack([law.mean for law in laws])
        gap = torch.stack([(A @ law.covariance @ A.T).trace() for law in laws])
        gap = gap + (Y - x @ A.T).square().sum(1)
        rest = torch.stack([GRID, GRID.square(), gap, GRID * gap], 1)
        self.moments = self.p @ torch.cat([x, rest], 1)

    def draw(self, num, stream):
        return GRID[torch.multinomial(self.p, num, True, generator=generator(stream))][:, None]


def moments(chains):
    """Means over each chain of x_0, theta, theta^2, |y - A x_0|^2 and its product with theta; (C, 6)."""
    theta, x = chains.theta, chains.x.double()
    gap = (Y - x @ A.T).square().sum(-1, keepdim=True)
    return torch.cat([x, theta, theta.square(), gap, theta * gap], -1).mean(1)


@pytest.fixture(scope="module")
def law():
    return Quadrature()


def blind(cost):
    """Particles that see the data at the end only: a sweep matters."""
    return build(cost, potential=Q.Terminal(), proposal=P.Bootstrap())


def chains_of(law, N, build=blind, sweeps=10, burn_in=15, num_chains=400, **options):
    """Chains that begin with exact parameters and forget that their first events are not."""
    starts = {"theta0": law.draw(num_chains, f"starts {N}"), "trigger": OFTEN}
    return parameter_gibbs(
        build, COST, sweeps=sweeps, num_particles=N, num_chains=num_chains, burn_in=burn_in,
        seed=seed(f"gibbs {N}"), progress=False, **starts | options,
    )  # fmt: skip


def check(chains, law, ceiling=0.05):
    z_test(moments(chains), law.moments, ceiling=ceiling)


@pytest.mark.parametrize("N", [2, 16])
def test_parameters_and_events_have_their_joint_law(law, N) -> None:
    check(chains_of(law, N), law)


PARTS = {
    "gradient": {"proposal": P.Gradient(trust=2.0)},
    "dtm, warm start": {"proposal": P.DTM(num_iters=2, warm_start=True)},
    "random values": {"potential": Q.MonteCarlo(3)},
    "default value": {"potential": Q.KrylovLaplace()},
}


@pytest.mark.parametrize("parts", PARTS)
def test_the_law_is_the_same_whatever_guides_the_sweeps(law, parts) -> None:
    check(chains_of(law, 4, lambda cost: build(cost, **PARTS[parts])), law)


@pytest.mark.parametrize("resampler", [sg.resamplers.Systematic(), sg.resamplers.Multinomial()])
def test_the_law_is_the_same_however_particles_are_chosen(law, resampler) -> None:
    options = {"resampler": resampler, "trigger": sg.triggers.always()}
    check(chains_of(law, 4, **options), law)


def test_chains_forget_where_they_began(law) -> None:
    far = torch.linspace(-3.0, 2.0, 400).double()[:, None]
    check(chains_of(law, 8, theta0=far, burn_in=30), law)


MOVES = [RandomWalk((0.5,), num_moves=3), MALA(0.5, num_moves=5), HMC(0.3, 3, num_moves=3)]


@pytest.mark.parametrize("move", MOVES, ids=lambda move: type(move).__name__)
def test_two_parameters_by_every_move(move) -> None:
    """Offset and noise level, beside each other and the event."""
    example = unknown_noise_model(RandomWalk(), Q.Tweedie())
    _, truth = unknown_noise_answer(example)

    def of(cost):
        return sg.GuidedDiffusion(
            example.prior, cost, kernel=example.kernel, times=example.parts["times"],
            potential=Q.Tweedie(), proposal=P.Gradient(trust=2.0),
        )  # fmt: skip

    near = torch.tensor([0.5, 0.0]) + 0.3 * torch.randn(200, 2, generator=generator("near"))
    chains = parameter_gibbs(
        of, example.cost, sweeps=20, num_particles=8, num_chains=200, theta0=near, move=move,
        burn_in=30, trigger=OFTEN, seed=seed(f"two {move!r}"), progress=False,
    )  # fmt: skip
    values = example.cost.parameters.constrain(chains.theta.flatten(0, 1))
    named = [values[name].unflatten(0, chains.theta.shape[:2]) for name in ("offset", "noise")]
    means = torch.cat([chains.x, torch.stack(named, -1)], -1).mean(1)
    z_test(means, truth, ceiling=0.1)


def test_events_may_be_float32(law) -> None:
    single = PRIOR.to(dtype=torch.float32)
    chains = chains_of(law, 4, lambda cost: build(cost, prior=single))
    assert chains.x.dtype == torch.float32 and chains.theta.dtype == F64
    check(chains, law)


def test_a_known_measurement_beside_an_unknown_one(law) -> None:
    """Two numbers of Y again, with their noise known to be 1."""
    known = LinearGaussian(A[:2], Y[:2], 1.0)
    chains = parameter_gibbs(
        build, known + COST, sweeps=20, num_particles=4, num_chains=200, burn_in=20,
        seed=seed("beside"), trigger=OFTEN, progress=False,
    )  # fmt: skip
    chain = gaussian_chain(MEAN, COV, build(known).levels).posterior(A[:2], Y[:2], 1.0)
    log_z = torch.tensor([chain.log_evidence(A, Y, float(s)) for s in GRID.exp()], dtype=F64)
    p = (LOG_NOISE.log_prob(GRID) + log_z).softmax(0)
    z_test(chains.theta[..., 0].mean(1), float(p @ GRID), ceiling=0.1)


# ---- planted bugs --------------------------------------------------------------------------------


def prior_forgotten(monkeypatch):
    monkeypatch.setattr(Independent, "log_prob", lambda self, theta: 0.0 * theta.sum(-1))


def likelihood_forgotten(monkeypatch):
    right = MODULE.walk

    def wrong(target, move, theta, log_psi, z, u):
        flat = replace(target, value=lambda theta: 0.0 * theta.sum(-1))
        return right(flat, move, theta, 0.0 * log_psi, z, u)

    monkeypatch.setattr(MODULE, "walk", wrong)


def path_forgotten(monkeypatch):
    """A run from nothing in place of a sweep."""

    class Wrong(MODULE.Sweep):
        def __call__(self, path, seed):
            return super().__call__(None, seed)

    monkeypatch.setattr(MODULE, "Sweep", Wrong)


def first_path_kept(monkeypatch):
    """Every sweep follows the path of the first one."""
    paths = []

    class Wrong(MODULE.Sweep):
        def __call__(self, path, seed):
            found = super().__call__(paths[0] if paths else None, seed)
            paths.append(found[0])
            return found

    monkeypatch.setattr(MODULE, "Sweep", Wrong)


def event_of_before(monkeypatch):
    """theta moves given the event before the sweep, and is paired with the new one."""
    right = MODULE._moved
    last = []

    def wrong(model, cost, move, here, generator):
        last.append(here.path)
        old = replace(here, path=last[-2] if len(last) > 1 else here.path)
        return replace(right(model, cost, move, old, generator), path=here.path)

    monkeypatch.setattr(MODULE, "_moved", wrong)


BUGS = {
    prior_forgotten: 2, likelihood_forgotten: 2, path_forgotten: 2, first_path_kept: 2,
    event_of_before: 16,
}  # fmt: skip


@pytest.mark.parametrize(("bug", "N"), BUGS.items(), ids=[bug.__name__ for bug in BUGS])
def test_planted_bug_is_caught(monkeypatch, law, bug, N) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match="allowed"):
        check(chains_of(law, N), law, ceiling=2.0)


def test_planted_sweeps_under_the_first_parameters_are_caught(law) -> None:
    """Had they the right law, they would do."""
    models = []

    def wrong(cost):
        models.append(blind(cost))
        return models[0]

    with pytest.raises(AssertionError, match="allowed"):
        check(chains_of(law, 16, wrong, theta0=torch.zeros(400, 1)), law, ceiling=2.0)


# ---- the result ----------------------------------------------------------------------------------

QUICK = {"sweeps": 7, "num_particles": 4, "num_chains": 3, "progress": False}


def quick(build=build, cost=COST, **options):
    return parameter_gibbs(build, cost, **QUICK | options)


def test_shapes_and_bookkeeping() -> None:
    chains = quick()
    assert chains.theta.shape == (3, 7, 1) and chains.theta.dtype == F64
    assert chains.x.shape == (3, 7, 2)
    assert chains.log_z.shape == chains.log_prior.shape == chains.accepted.shape == (3, 7)
    assert torch.equal(chains.log_prior, LOG_NOISE.log_prob(chains.theta[..., 0]))
    moved = (chains.theta[:, 1:] != chains.theta[:, :-1])[..., 0]
    assert torch.equal(moved, chains.accepted[:, 1:])
    assert bool(chains.accepted.any())


def test_a_move_that_is_never_accepted_says_so_and_leaves_theta() -> None:
    start = torch.tensor([[-1.0], [0.0], [0.5]], dtype=F64)
    chains = quick(move=RandomWalk((60.0,), num_moves=1), theta0=start)
    assert not bool(chains.accepted.any())
    assert torch.equal(chains.theta, start[:, None].expand(3, 7, 1))
    assert len(torch.unique(chains.x[:, :, 0])) > 3


def test_without_a_start_chains_begin_at_draws_of_the_prior() -> None:
    still = RandomWalk((1e-9,), num_moves=1)
    begun = quick(move=still, num_chains=2000, sweeps=1, num_particles=2).theta[:, 0, 0]
    z_test(torch.stack([begun, (begun + 0.5).square()], 1), torch.tensor([-0.5, 0.64]), 0.05)


def test_results_say_what_was_run() -> None:
    chains = quick(burn_in=2, seed=5)
    said = chains.settings
    assert said["exactness"] == chains.exactness == sg.exactness.LIMIT
    assert (said["num_particles"], said["burn_in"], said["seed"]) == (4, 2, 5)
    assert said["parameter_move"] == repr(RandomWalk(num_moves=20))
    assert said["resampler"] == repr(sg.resamplers.Systematic())
    assert said["cost"] == "misfit" and said["proposal"] == repr(P.Gradient(trust=2.0))
    assert "log_noise" not in chains.summary() and "acceptance" in chains.summary()


def test_the_label_is_that_of_the_worst_part() -> None:
    class Heuristic(P.Bootstrap):
        exactness = sg.exactness.BIASED

    chains = quick(lambda cost: build(cost, proposal=Heuristic()))
    assert chains.exactness == sg.exactness.BIASED


def test_only_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, other = quick(seed=1), quick(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = quick(seed=1)
    torch.set_rng_state(state)
    assert torch.equal(first.theta, again.theta) and torch.equal(first.x, again.x)
    assert not torch.equal(first.theta, other.theta)


def test_a_burn_in_is_the_beginning_of_the_same_chain() -> None:
    long, short = quick(sweeps=7), quick(sweeps=4, burn_in=3)
    assert torch.equal(long.theta[:, 3:], short.theta) and torch.equal(long.x[:, 3:], short.x)


@pytest.mark.parametrize(("move", "per_chain"), [(RandomWalk(num_moves=5), 6), (HMC(0.1, 3), 5)])
def test_evaluations_of_sweeps_and_moves_are_counted(move, per_chain) -> None:
    """Per sweep N particles in K steps, and for each chain the candidates and where they begin; with a
    gradient the force there too."""
    counts = quick(lambda c: build(c, proposal=P.Bootstrap()), move=move, burn_in=1).evaluations
    S, N, K, sweeps = 3, 4, 4, 8
    assert counts["network_forward"] == sweeps * S * N * K
    assert counts.get("network_backward", 0) == 0
    assert counts["cost"] == sweeps * S * (N * (K + 1) + per_chain)


def test_progress_sees_every_step_of_every_sweep() -> None:
    seen = []
    quick(burn_in=2, progress=seen.append)
    assert [info.step for info in seen] == list(range(5)) * 9


# ---- refusals ------------------------------------------------------------------------------------

ADAPTIVE = Q.Tempered(Q.Tweedie(1.0), Q.Adaptive(0.9))
REFUSED = [
    ({"cost": LinearGaussian(A, Y, 0.5)}, "parameter_gibbs: the cost .* has no unknown parameters"),
    ({"num_particles": 1}, "num_particles must be a whole number of at least 2, got 1"),
    ({"sweeps": 0}, "sweeps must be a whole number of at least 1, got 0"),
    ({"num_chains": 0}, "num_chains must be a whole number of at least 1, got 0"),
    ({"burn_in": -1}, "burn_in must be a whole number of at least 0, got -1"),
    ({"theta0": torch.zeros(3)}, r"theta0 of shape \(3,\): expected .* \(3, 1\)"),
    ({"theta0": torch.zeros(2, 1)}, r"theta0 of shape \(2, 1\): expected .* \(3, 1\)"),
    ({"theta0": torch.full((3, 1), torch.nan)}, r"theta0 of shape \(3, 1\): expected finite"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"progress": 1}, "progress must be"),
    ({"resampler": "systematic"}, "resampler: got"),
    ({"trigger": 0.5}, "trigger: got 0.5"),
    ({"move": sg.moves.PCN()}, "parameter_move: got PCN"),
    ({"resampler": sg.resamplers.Residual()}, "Residual"),
    (
        {"build": lambda c: build(c, move=sg.moves.MALA(0.5))},
        "must only propagate, this one has move=MALA",
    ),
    (
        {"build": lambda c: build(c, potential=ADAPTIVE)},
        "must only propagate, this one has strengths chosen by the population",
    ),
    (
        {"build": lambda c: build(COST, parameter_move=RandomWalk())},
        "must only propagate, this one has unknown parameters of the cost",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_refused_before_the_network_is_asked(monkeypatch, options, message):
    def untouchable(self, x, t):
        raise RuntimeError("The network was asked.")

    monkeypatch.setattr(sg.priors.GaussianMixture, "denoise", untouchable)
    with pytest.raises(RuntimeError, match="network was asked"):  # the guard is up
        quick()
    with pytest.raises(sg.InvalidInput, match=message):
        quick(**options)
