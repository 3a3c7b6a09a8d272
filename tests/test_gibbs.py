"""Particle Gibbs: conditional SMC leaves the law of paths invariant, where that law is a table of 4096
paths and on the discretised chain of a Gaussian prior."""

import dataclasses
import itertools

import pytest
import torch
from test_exactness import COV, MEAN, PRIOR, STD, TIMES, A, P, Q, Y, build, oracle

import smcguide as sg
from smcguide import weights
from smcguide.along import Conditional
from smcguide.gibbs import Sweep, particle_gibbs
from smcguide.randomness import uniforms
from smcguide.records import Gaussian, Particles
from smcguide.testing import gaussian_chain, generator, seed, z_test

SYSTEMATIC, MULTINOMIAL = sg.resamplers.Systematic(), sg.resamplers.Multinomial()
ALWAYS, SOMETIMES = sg.triggers.always(), sg.triggers.ess_below(0.7)
K, STATES, TABLE = 5, 4, 3  # TABLE: the seed of the numbers in it
CHAINS = 20_000
with_and_without_ancestor_sampling = pytest.mark.parametrize(
    "ancestor_sampling", [False, True], ids=["", "ancestor sampling"]
)
each_resampler = pytest.mark.parametrize("resampler", [SYSTEMATIC, MULTINOMIAL], ids=repr)
each_trigger = pytest.mark.parametrize("trigger", [ALWAYS, SOMETIMES], ids=repr)


def rows(*shape, sharp, source):
    """Random log-probabilities over the last axis."""
    a = sharp * torch.randn(*shape, generator=source, dtype=torch.float64)
    return a.log_softmax(-1)


class Table(sg.FeynmanKac):
    """Four states, five steps, everything a table: initial law, base chain P, proposal Q, twists that
    divide out again, and weights that depend on a coin of the particle's own."""

    num_steps, event_shape, path_fields = K, (), ("coin",)

    def __init__(self):
        source = torch.Generator().manual_seed(TABLE)
        self.first = rows(STATES, sharp=0.7, source=source)
        self.P = rows(K, STATES, STATES, sharp=1.2, source=source)
        self.Q = rows(K, STATES, STATES, sharp=1.0, source=source)
        self.twist = torch.randn(K + 1, STATES, generator=source, dtype=torch.float64)
        self.value = torch.randn(K + 1, STATES, 2, generator=source, dtype=torch.float64)

    def initial(self, shape, generator):
        return self.conditional_initial(shape, generator, None)

    def step(self, k, x, carry, generator):
        return self.conditional_step(k, x, carry, generator, None)

    def conditional_initial(self, shape, generator, pinned):
        x = choose(self.first.expand(*shape, STATES), generator)
        return self._arrive(0, x, generator, pinned)

    def conditional_step(self, k, x, carry, generator, pinned):
        to = choose(self.Q[k][x], generator)
        moved = self._arrive(k + 1, to, generator, pinned)
        ratio = self.P[k][x, moved.x] - self.Q[k][x, moved.x] - carry["twist"]
        return dataclasses.replace(moved, log_g=moved.log_g + ratio)

    def log_transition(self, k, x, carry, x_next):
        return self.P[k][x, x_next.expand_as(x)] - carry["twist"]

    def _arrive(self, k, x, generator, pinned):
        coin = torch.randint(2, x.shape, generator=generator)
        if pinned is not None:
            x[:, 0], coin[:, 0] = pinned["x"], pinned["coin"]
        twist = self.twist[k][x]
        return sg.Propagated(x, twist + self.value[k][x, coin], {"twist": twist, "coin": coin})


def choose(log_p, generator):
    """One index for each row of log-probabilities (..., M)."""
    u = torch.rand(log_p.shape[:-1], generator=generator, dtype=torch.float64)
    return (log_p.exp().cumsum(-1) < u[..., None]).sum(-1).clamp(max=log_p.shape[-1] - 1)


class Law:
    """All 4^6 paths of a `Table` with their probabilities."""

    def __init__(self, model):
        self.paths = torch.tensor(list(itertools.product(range(STATES), repeat=K + 1)))
        self.log_coin = model.value.log_softmax(-1)  # law of the coin given the state
        value = model.value.exp().mean(-1).log()
        x = self.paths
        log_p = model.first[x[:, 0]] + model.twist[K][x[:, K]]
        log_p = log_p + sum(value[k][x[:, k]] for k in range(K + 1))
        log_p = log_p + sum(model.P[k][x[:, k], x[:, k + 1]] for k in range(K))
        self.log_z = float(torch.logsumexp(log_p, 0))
        self.p = log_p.softmax(0)
        self.features = self.p @ features(x)

    def draw(self, num, stream):
        """Exact paths with their coins."""
        source = generator(stream)
        x = self.paths[torch.multinomial(self.p, num, True, generator=source)]
        coin = choose(self.log_coin[torch.arange(K + 1), x], source)
        return {"x": x, "coin": coin}


def features(x):
    """Indicators of each state at each time and of each pair of neighbours, for paths (M, K + 1)."""
    one = torch.nn.functional.one_hot(x, STATES).double()
    pair = one[:, :-1, :, None] * one[:, 1:, None, :]
    return torch.cat([one.flatten(1), pair.flatten(1)], 1)


MODEL = Table()
LAW = Law(MODEL)
EXACT_PATHS = LAW.draw(CHAINS, "exact paths")


def sweeps_from_exact_paths(
    num_sweeps, N, resampler=SYSTEMATIC, trigger=ALWAYS, ancestor_sampling=False, model=MODEL
):
    sweep = Sweep(model, (CHAINS, N), resampler, trigger, ancestor_sampling)
    path = EXACT_PATHS
    for n in range(num_sweeps):
        path, _, _ = sweep(path, (seed("sweeps"), n))
    return path


def check_invariance(path):
    """The paths have the law that the first ones had: against the table, and path by path, where what
    a sweep left alone cancels."""
    z_test(features(path["x"]), LAW.features, ceiling=0.004)
    z_test(features(path["x"]) - features(EXACT_PATHS["x"]), 0.0, ceiling=0.006)


def test_the_table_is_the_law_that_a_run_weighs() -> None:
    """The exact paths, and the coins with them."""
    check_invariance(LAW.draw(CHAINS, "other exact paths"))
    post = sg.run(MODEL, num_particles=128, num_systems=2000, progress=False)
    one = torch.nn.functional.one_hot(post.x, STATES).double()
    Z = torch.exp(post.log_evidence - LAW.log_z)
    z_test(Z, 1.0, ceiling=0.02)
    mean = weights.mean(one, post.log_w)
    z_test(Z[:, None] * mean, LAW.features[K * STATES : (K + 1) * STATES], ceiling=0.02)


@with_and_without_ancestor_sampling
@each_trigger
@each_resampler
@pytest.mark.parametrize("N", [2, 3, 16])
def test_sweeps_leave_the_law_of_paths_invariant_A3(N, resampler, trigger, ancestor_sampling):
    num_sweeps = 1 if N == 16 else 3
    check_invariance(sweeps_from_exact_paths(num_sweeps, N, resampler, trigger, ancestor_sampling))


@with_and_without_ancestor_sampling
@each_trigger
@each_resampler
def test_chains_forget_where_they_began_A3(resampler, trigger, ancestor_sampling) -> None:
    """The chains are batches: each one's means are an estimate, and they are independent."""
    chains = particle_gibbs(
        MODEL, 25, 4 if ancestor_sampling else 16, num_chains=200, resampler=resampler,
        trigger=trigger, ancestor_sampling=ancestor_sampling, burn_in=15, keep_paths=True,
        seed=seed("forgetting"), progress=False,
    )  # fmt: skip
    one = torch.nn.functional.one_hot(chains.paths, STATES).double().flatten(2)
    z_test(one.mean(1), LAW.features[: one.shape[-1]], ceiling=0.03)


def test_ancestor_sampling_changes_the_early_path() -> None:
    rates = [
        particle_gibbs(
            MODEL, 20, 4, num_chains=100, trigger=ALWAYS, ancestor_sampling=on, progress=False
        ).update_rate
        for on in (False, True)
    ]
    assert rates[0][0] < 0.1 < 0.4 < rates[1][0]
    assert abs(float(rates[0][-1] - rates[1][-1])) < 0.1


# ---- planted bugs: each must be caught by the assertion that passes above ------------------------


class LosesPath(Table):
    """Slot 0 moves like every other particle."""

    def conditional_step(self, k, x, carry, generator, pinned):
        return super().conditional_step(k, x, carry, generator, None)


class LosesStart(Table):
    def conditional_initial(self, shape, generator, pinned):
        return super().conditional_initial(shape, generator, None)


class TossesAgain(Table):
    """The path keeps its states and loses its own random numbers."""

    def _arrive(self, k, x, generator, pinned):
        if pinned is not None:
            coin = torch.randint(2, (len(x),), generator=generator)
            pinned = {"x": pinned["x"], "coin": coin}
        return super()._arrive(k, x, generator, pinned)


@pytest.mark.parametrize("kind", [LosesPath, LosesStart, TossesAgain])
def test_planted_path_lost_is_caught_A3(kind) -> None:
    with pytest.raises(AssertionError, match="z_test"):
        check_invariance(sweeps_from_exact_paths(8, 3, model=kind()))


class Overwrites(sg.resamplers.Systematic):
    """Slot 0 is overwritten, as multinomial resampling may: the comb does not know."""

    def conditional(self, log_w, generator):
        ancestors = self(log_w, generator)
        ancestors[:, 0] = 0
        return ancestors


def test_planted_overwritten_slot_of_systematic_is_caught_A3() -> None:
    with pytest.raises(AssertionError, match="z_test"):
        check_invariance(sweeps_from_exact_paths(10, 2, Overwrites()))


def forgets_weights(self, log_w, generator, num=None):
    """Ancestor sampling by the transition alone."""
    return RIGHT(self, torch.zeros_like(log_w), generator)


def others_given_particle_0(self, log_w, generator, num=None):
    """The path has a new past, and the others are drawn as if it had the old one."""
    ancestors = self.resampler.conditional(log_w, generator)
    log_past = self.along.log_past()
    ancestors[:, :1] = weights.inverse_cdf(log_w + log_past, uniforms((len(log_w), 1), generator))
    return ancestors


RIGHT = Conditional.__call__


@pytest.mark.parametrize(
    ("wrong", "num_sweeps"), [(forgets_weights, 2), (others_given_particle_0, 16)]
)
def test_planted_ancestor_sampling_is_caught_A3(monkeypatch, wrong, num_sweeps) -> None:
    monkeypatch.setattr(Conditional, "__call__", wrong)
    with pytest.raises(AssertionError, match="z_test"):
        check_invariance(sweeps_from_exact_paths(num_sweeps, 4, ancestor_sampling=True))


def test_planted_stale_cache_of_the_path_is_caught_A3(monkeypatch) -> None:
    """After a change of its past slot 0 divides out the old one's twist."""
    right = Particles.take

    def wrong(self, ancestors, *log_w):
        carry = {name: a.clone() for name, a in right(self, ancestors, *log_w).carry.items()}
        for name, a in carry.items():
            a[:, 0] = self.carry[name][:, 0]
        return dataclasses.replace(right(self, ancestors, *log_w), carry=carry)

    monkeypatch.setattr(Particles, "take", wrong)
    with pytest.raises(AssertionError, match="z_test"):
        check_invariance(sweeps_from_exact_paths(4, 3, ancestor_sampling=True))


# ---- diffusions ----------------------------------------------------------------------------------


METHODS = {
    "bootstrap": (P.Bootstrap(), Q.Terminal()),
    "gradient": (P.Gradient(), Q.InflatedGaussian()),
    "dtm": (P.DTM(), Q.InflatedGaussian()),
    "dtm, warm start": (
        P.DTM(solver="adam", learning_rate=0.3, num_iters=2, warm_start=True), Q.Tweedie(),
    ),
    "random values": (P.Bootstrap(), Q.MonteCarlo(3)),
    "random values, gradient": (P.Gradient(), Q.MonteCarlo(3)),
}  # fmt: skip


def moments(x, law):
    """Means over each chain (S, n, 2) of the state and of its deviations' products, (S, 5)."""
    d = x - law.mean
    products = [d[..., i] * d[..., j] for i, j in ((0, 0), (0, 1), (1, 1))]
    return torch.cat([x, torch.stack(products, -1)], -1).mean(1)


def check_moments(chains, law):
    truth = torch.cat([law.mean, law.covariance[[0, 0, 1], [0, 1, 1]]])
    z_test(moments(chains.x, law), truth, ceiling=0.03)


@with_and_without_ancestor_sampling
@pytest.mark.parametrize("method", METHODS)
def test_mean_and_covariance_of_the_discretised_chain_A3(method, ancestor_sampling) -> None:
    model = build(*METHODS[method], chunk_size=900)
    chains = particle_gibbs(
        model, 20, 6, num_chains=200, trigger=sg.triggers.ess_below(0.9),
        ancestor_sampling=ancestor_sampling, burn_in=8, seed=seed(method), progress=False,
    )  # fmt: skip
    check_moments(chains, oracle(model).posterior(A, Y, STD))
    assert bool((chains.update_rate > 0.4).all())


@pytest.mark.parametrize("mode", ["difference", "max"])
def test_paths_keep_what_their_values_remember_A3(mode) -> None:
    """Path-dependent values, as in PG-DLM, whose steering this is."""
    model = build(P.Bootstrap(), Q.FKSteering(mode, every=1, first=0))
    chains = particle_gibbs(
        model, 20, 8, num_chains=200, trigger=ALWAYS, burn_in=10, seed=seed(mode), progress=False
    )
    check_moments(chains, oracle(model).posterior(A, Y, STD))


def test_without_noise_a_sweep_keeps_or_replaces_the_whole_path() -> None:
    """Nothing is resampled before noiseless steps, whatever the trigger says: no noise, no new past."""
    model = build(kernel=sg.kernels.DDIM(eta=0.0))
    chains = particle_gibbs(
        model, 20, 8, num_chains=200, trigger=ALWAYS, ancestor_sampling=True, burn_in=5,
        progress=False,
    )  # fmt: skip
    assert bool((chains.changed == chains.changed[..., :1]).all())
    check_moments(chains, oracle(model, eta=0.0).posterior(A, Y, STD))


def test_one_chain_per_observation() -> None:
    ys = Y + torch.linspace(-2, 2, 100, dtype=torch.float64)[:, None]
    cost = sg.costs.LinearGaussian(A, ys, STD, batched=True)
    model = sg.GuidedDiffusion(
        PRIOR, cost, kernel=sg.kernels.DDPM(), times=TIMES, potential=Q.InflatedGaussian(),
        proposal=P.Gradient(),
    )  # fmt: skip
    chains = particle_gibbs(model, 40, 8, burn_in=5, progress=False)
    law = gaussian_chain(MEAN, COV, model.levels)
    truth = torch.stack([law.posterior(A, y, STD).mean for y in ys])
    assert chains.mean().shape == chains.std().shape == (100, 2)
    assert chains.draws().shape == (100, 40, 2)
    z_test(chains.mean() - truth, 0.0, ceiling=0.02)
    with pytest.raises(sg.InvalidInput, match="one observation for each of 100 systems"):
        particle_gibbs(model, 2, 4, num_chains=3, progress=False)


# ---- the result ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    return particle_gibbs(
        build(P.Gradient()), 100, 6, num_chains=4, ancestor_sampling=True, burn_in=5,
        keep_paths=True, seed=5, progress=False,
    )  # fmt: skip


def test_shapes_and_flags(chains) -> None:
    assert chains.x.shape == (4, 100, 2) and chains.paths.shape == (4, 100, 5, 2)
    assert chains.log_z.shape == (4, 100) and chains.changed.shape == (4, 100, 5)
    assert torch.equal(chains.paths[:, :, -1], chains.x)
    assert chains.draws().shape == (400, 2) and chains.mean().shape == chains.std().shape == (2,)
    moved = (chains.paths[:, 1:] - chains.paths[:, :-1]).abs().amax(-1) > 1e-9
    assert torch.equal(moved, chains.changed[:, 1:])
    assert torch.equal(chains.update_rate, moved.double().mean((0, 1)))
    assert chains.times.tolist() == pytest.approx(TIMES.tolist())
    assert chains.exactness == sg.exactness.LIMIT
    assert chains.evaluations["network_forward"] == 105 * 4 * 6 * 4


def test_a_chain_is_its_seed(chains) -> None:
    again = particle_gibbs(
        build(P.Gradient()), 15, 6, num_chains=4, ancestor_sampling=True, seed=5, progress=False
    )
    assert torch.equal(again.x[:, 5:], chains.x[:, :10])
    assert again.paths is None
    other = particle_gibbs(build(P.Gradient()), 5, 6, num_chains=4, seed=6, progress=False)
    assert not torch.equal(other.x[:, 0], again.x[:, 0])


def test_summary_says_how_the_paths_change(chains) -> None:
    text = chains.summary()
    assert "exact in the limit" in text and "100 draws per chain" in text
    assert "ancestor_sampling: True" in text and "network_forward 10080" in text


def test_progress_is_told_each_step_of_each_sweep() -> None:
    seen = []
    particle_gibbs(build(), 3, 4, burn_in=2, progress=seen.append)
    assert [info.step for info in seen] == [0, 1, 2, 3, 4] * 5


def test_arviz_summarises_chains(chains, tmp_path) -> None:
    az = pytest.importorskip("arviz")
    data = chains.to_arviz()
    table = az.summary(data, round_to="none")
    assert list(table.index) == ["x0[0]", "x0[1]"]
    assert bool((table["r_hat"] < 1.05).all()) and bool((table["ess_bulk"] > 100).all())
    assert table["mean"].to_numpy() == pytest.approx(chains.mean().numpy())
    assert dict(data["posterior"].sizes) == {"chain": 4, "draw": 100, "x0_dim_0": 2}
    assert data["sample_stats"]["log_evidence"].dims == ("chain", "draw")
    assert data["sample_stats"]["changed"].dims == ("chain", "draw", "step")
    data.to_netcdf(str(tmp_path / "chains.nc"))


def test_with_arviz_1_chains_are_a_data_tree(chains, monkeypatch) -> None:
    az, xr = pytest.importorskip("arviz"), pytest.importorskip("xarray")
    monkeypatch.setattr(az, "__version__", "1.3.0")
    tree = chains.to_arviz()
    assert isinstance(tree, xr.DataTree) and set(tree.children) == {"posterior", "sample_stats"}
    assert "exact in the limit" in tree.attrs["settings"]


# ---- refusals ------------------------------------------------------------------------------------


PATH_DEPENDENT = Q.FKSteering(every=1, first=0)


@dataclasses.dataclass(frozen=True)
class Multistep(sg.kernels.DDIM):
    """Remembers the last estimate."""

    def step(self, x, x0_hat, t, s, memory=None):
        base = super().step(x, x0_hat, t, s)
        return Gaussian(base.mean, base.std, x0_hat)


class NoPath(sg.FeynmanKac):
    num_steps, event_shape = 2, ()

    def initial(self, shape, generator):
        x = torch.zeros(shape, dtype=torch.float64)
        return sg.Propagated(x, x)

    def step(self, k, x, carry, generator):
        return sg.Propagated(x, x)


class NoDensity(NoPath):
    def conditional_step(self, k, x, carry, generator, pinned):
        return self.step(k, x, carry, generator)


class Moves(NoDensity):
    def refresh(self, k, x, carry, fires, generator):
        return x, carry


WITH = {"ancestor_sampling": True}
REFUSED = {
    "move": (build(move=sg.moves.PCN()), {}, r"move=PCN.*Leave moves and starts out"),
    "adaptive": (
        build(potential=Q.Tempered(Q.Tweedie())),
        {},
        "Adaptive.*freeze adaptive",
    ),
    "candidates": (sg.Candidates(build(), 2), {}, "Candidates.*give the model inside"),
    "one particle": (MODEL, {"num_particles": 1}, "num_particles must be .* at least 2"),
    "no sweeps": (MODEL, {"sweeps": 0}, "sweeps must be a whole number of at least 1, got 0"),
    "burn_in": (MODEL, {"burn_in": -1}, "burn_in must be a whole number of at least 0"),
    "chains": (MODEL, {"num_chains": 0}, "num_chains must be a whole number of at least 1"),
    "resampler": (MODEL, {"resampler": sg.resamplers.Stratified()}, "no conditional law"),
    "no path": (NoPath(), {}, "NoPath cannot run along a given path"),
    "own moves": (Moves(), {}, "moves .its `refresh`"),
    "past matters": (build(potential=PATH_DEPENDENT), WITH, "FKSteering.*another past"),
    "multistep": (build(kernel=Multistep()), WITH, "Multistep.*remembers earlier steps"),
    "no density": (NoDensity(), WITH, "NoDensity has no log_transition"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_come_first_and_say_what_to_do(case) -> None:
    model, changes, message = REFUSED[case]
    given = {"sweeps": 2, "num_particles": 4} | changes
    before = dict(getattr(model, "evaluations", {}))
    with pytest.raises(sg.InvalidInput, match=message):
        particle_gibbs(model, progress=False, **given)
    assert dict(getattr(model, "evaluations", {})) == before


def test_a_kernel_with_memory_runs_without_ancestor_sampling() -> None:
    chains = particle_gibbs(build(kernel=Multistep()), 3, 4, num_chains=2, progress=False)
    assert bool(torch.isfinite(chains.x).all())
