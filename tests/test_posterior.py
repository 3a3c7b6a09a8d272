"""What a posterior answers: weighted numbers, axes, pools, errors of evidence, counts of work."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import smcguide as sg
from smcguide import weights
from smcguide.costs import FunctionCost, LinearGaussian
from smcguide.evidence import GENEALOGY, LEE_WHITELEY, REPLICATES, standard_error
from smcguide.grids import karras
from smcguide.posterior import Posterior
from smcguide.potentials import InflatedGaussian, Terminal, Tweedie
from smcguide.priors import GaussianMixture
from smcguide.proposals import DTM, Bootstrap, Gradient
from smcguide.proposals.base import Proposal
from smcguide.resamplers import Multinomial, Systematic
from smcguide.resamplers.base import Resampler
from smcguide.testing import gaussian_chain, mean_counts_test, seed, z_test
from smcguide.testing.statistics import threshold
from smcguide.triggers import always, at_steps, ess_below, never

F64 = torch.float64
A = torch.tensor([[1.0, 0.5]], dtype=F64)
Y, NOISE = torch.tensor([1.2], dtype=F64), 0.5
K = 5


def randn(*shape: int, stream: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(stream), dtype=dtype)


# ---- weighted numbers, computed directly ---------------------------------------------------------


def posterior_of(x: Tensor, log_w: Tensor, **about: Any) -> Posterior:
    """A posterior of given particles, as if no resampling had happened."""
    S, N = log_w.shape
    log_z = weights.log_mean_exp(log_w)
    trace = {"resampled": torch.zeros(S, 1, dtype=torch.bool), "ess": weights.ess(log_w)[:, None]}
    eves = torch.arange(N).expand(S, N)
    return Posterior(x, log_w, eves, log_z, log_z - 1, trace, torch.zeros(1, dtype=F64), **about)


LOG_WEIGHTS = {
    "equal": torch.full((2, 64), -3.0, dtype=F64),
    "uneven": randn(2, 64, stream=1),
    "of very different scale": 40 * randn(2, 64, stream=2) + torch.tensor([[-5e4], [5e4]]),
    "some dead": torch.where(torch.arange(64) % 3 == 0, -math.inf, randn(2, 64, stream=3)),
    "all dead but one": torch.where(torch.arange(64) == 5, 0.0, -math.inf).expand(2, -1).double(),
}
weighted = pytest.mark.parametrize("name", LOG_WEIGHTS)


def example(name: str, dtype: torch.dtype = F64) -> tuple[Posterior, np.ndarray, np.ndarray]:
    """A posterior with junk in its dead particles; its living particles and weights in numpy."""
    log_w, x = LOG_WEIGHTS[name], randn(2, 64, 2, 3, stream=4, dtype=dtype)
    dead = torch.isneginf(log_w)[..., None, None]
    junk = 1e30 * torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)[:, None, None]
    posterior = posterior_of(torch.where(dead, junk.to(dtype), x), log_w)
    shifted = (log_w - log_w.max(1, keepdim=True).values).numpy()
    W = np.exp(shifted)
    return posterior, x.numpy().astype(np.float64), W / W.sum(1, keepdims=True)


def average(values: np.ndarray, W: np.ndarray) -> Tensor:
    return torch.from_numpy(
        np.stack([np.tensordot(w, v, 1) for w, v in zip(W, values, strict=True)])
    )


@weighted
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_expectations_are_weighted_averages(name: str, dtype: torch.dtype) -> None:
    posterior, x, W = example(name, dtype)
    mean = average(x, W)
    std = average((x - mean[:, None].numpy()) ** 2, W).sqrt()
    first = average(np.exp(x[..., 0, :2]), W)
    assert posterior.mean().dtype == F64
    torch.testing.assert_close(posterior.mean(), mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(posterior.std(), std, rtol=1e-10, atol=1e-12)
    assert posterior.expect(lambda x: x[:, 0, 0] > 0).shape == (2,)
    told = posterior.expect(lambda x: x[:, 0, :2].double().exp())
    torch.testing.assert_close(told, first, rtol=1e-10, atol=1e-12)


@weighted
def test_weights_evidence_and_ess_are_those_of_the_log_weights(name: str) -> None:
    posterior, _, W = example(name)
    torch.testing.assert_close(posterior.weights, torch.from_numpy(W), rtol=1e-10, atol=0)
    ess = torch.from_numpy(1 / (W**2).sum(1))
    torch.testing.assert_close(posterior.ess, ess, rtol=1e-10, atol=0)
    assert torch.equal(posterior.log_weights, LOG_WEIGHTS[name])
    assert posterior.get_weighted_samples()[1] is posterior.log_weights
    assert posterior.get_weighted_samples()[0]["x0"] is posterior.particles


@weighted
@pytest.mark.parametrize("q", [0.0, 0.05, 0.37, 0.5, 0.901, 1.0])
def test_a_quantile_is_a_living_value_with_that_share_of_the_weight_below(
    name: str, q: float
) -> None:
    posterior, x, W = example(name)
    values = posterior.quantile(q)
    assert values.shape == (2, 2, 3)
    for s, *event in np.ndindex(*values.shape):
        here, v = x[s, :, *event], values[s, *event].item()
        assert v in here[W[s] > 0]
        assert W[s][here <= v].sum() >= q - 1e-12
        assert W[s][here < v].sum() <= q + 1e-12


def test_quantiles_of_equal_weights_are_order_statistics() -> None:
    posterior, x, _ = example("equal")
    order = np.sort(x, 1)
    for q in (0.1, 0.25, 0.5, 0.77):
        rank = math.ceil(q * 64) - 1
        torch.testing.assert_close(posterior.quantile(q), torch.from_numpy(order[:, rank]))
    both = posterior.quantile([0.1, 0.77])
    assert both.shape == (2, 2, 2, 3)
    assert torch.equal(both[1], posterior.quantile(0.77))


def test_states_may_be_numbers() -> None:
    x, log_w = randn(2, 64), LOG_WEIGHTS["uneven"]
    number, vector = posterior_of(x, log_w), posterior_of(x[..., None], log_w)
    assert number.mean().shape == (2,)
    assert torch.equal(number.mean(), vector.mean()[:, 0])
    assert torch.equal(number.std(), vector.std()[:, 0])
    assert torch.equal(number.draws(7), vector.draws(7)[..., 0])
    assert torch.equal(number.quantile(0.3), vector.quantile(0.3)[:, 0])
    assert torch.equal(number.quantile([0.3, 0.4]), vector.quantile([0.3, 0.4])[..., 0])


# ---- draws ---------------------------------------------------------------------------------------


@weighted
@pytest.mark.parametrize("num", [1, 50, 1000])
def test_draws_are_stratified(name: str, num: int) -> None:
    posterior, _, W = example(name)
    index = posterior.ancestors_of_draws(num, seed=3)
    counts = torch.zeros(2, 64, dtype=F64).scatter_add_(1, index, torch.ones(2, num, dtype=F64))
    expected = num * torch.from_numpy(W).cumsum(1)
    assert float((counts.cumsum(1) - expected).abs().max()) < 1 + 1e-9  # one point per stratum
    assert not counts[torch.isneginf(LOG_WEIGHTS[name])].any()
    for s in range(2):
        assert torch.equal(posterior.draws(num, seed=3)[s], posterior.x[s, index[s]])


def test_draws_depend_on_their_seed_only() -> None:
    posterior, _, _ = example("uneven")
    assert torch.equal(posterior.draws(20, seed=1), posterior.draws(20, seed=1))
    assert not torch.equal(posterior.draws(20, seed=1), posterior.draws(20, seed=2))
    assert posterior.get_samples(20, seed=1)["x0"].equal(posterior.draws(20, seed=1))
    assert posterior.get_samples()["x0"].shape == posterior.particles.shape


def test_draws_come_in_random_order() -> None:
    """Two particles share the weight: two draws take one of each, and either may come first."""
    pair = posterior_of(torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, dtype=F64))
    base, R = seed("order of draws") % 2**31, 400
    draws = torch.stack([pair.draws(2, seed=base + i)[0, :, 0] for i in range(R)])
    assert torch.equal(draws.sum(1), torch.ones(R))
    first = float(draws[:, 0].sum())
    assert abs(first - R / 2) < threshold() * math.sqrt(R / 4)


def test_draws_are_of_each_weight_on_average() -> None:
    posterior, _, W = example("uneven")
    base = seed("stratified draws") % 2**31
    runs = torch.stack([posterior.ancestors_of_draws(64, seed=base + i) for i in range(200)])
    for s in range(2):
        counts = torch.nn.functional.one_hot(runs[:, s], 64).sum(1)
        mean_counts_test(counts, torch.from_numpy(W[s]))


# ---- axes ----------------------------------------------------------------------------------------


def prior() -> GaussianMixture:
    mean = torch.tensor([[0.5, -0.3]], dtype=F64)
    return GaussianMixture(torch.ones(1), mean, torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=F64))


def run(
    cost: Any = None,
    *,
    proposal: Proposal | None = None,
    potential: Any = None,
    model_prior: GaussianMixture | None = None,
    **arguments: Any,
) -> Posterior:
    return sg.run(model(cost, proposal, potential, model_prior), progress=False, **arguments)


def model(
    cost: Any = None,
    proposal: Proposal | None = None,
    potential: Any = None,
    model_prior: GaussianMixture | None = None,
    chunk_size: int | None = None,
    steps: int = K,
) -> sg.GuidedDiffusion:
    return sg.GuidedDiffusion(
        model_prior or prior(), cost or LinearGaussian(A, Y, NOISE), kernel=sg.kernels.DDPM(),
        times=karras(steps), potential=potential or Tweedie(), proposal=proposal or Bootstrap(),
        chunk_size=chunk_size,
    )  # fmt: skip


def batch(num: int) -> LinearGaussian:
    return LinearGaussian(A, Y.repeat(num, 1), NOISE, batched=True)


def answers(posterior: Posterior) -> dict[str, Tensor]:
    """Every answer without an axis of its own before that of the systems."""
    names = ("particles", "log_weights", "weights", "log_evidence", "log_evidence_se", "ess")
    out = {name: getattr(posterior, name) for name in (*names, "dtm_bound")}
    out |= {"mean": posterior.mean(), "std": posterior.std(), "draws": posterior.draws(7)}
    out |= {"expect": posterior.expect(lambda x: x[:, 0]), "quantile": posterior.quantile(0.3)}
    return out | {"samples": posterior.get_samples(3)["x0"]}


SHAPES = {
    "particles": (16, 2), "log_weights": (16,), "weights": (16,), "log_evidence": (),
    "log_evidence_se": (), "ess": (), "dtm_bound": (), "mean": (2,), "std": (2,), "draws": (7, 2),
    "expect": (), "quantile": (2,), "samples": (3, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "num_systems", "axis"),
    [
        (None, None, ()),
        (None, 1, (1,)),
        (None, 3, (3,)),
        (batch(1), None, (1,)),
        (batch(3), None, (3,)),
        (batch(3), 3, (3,)),
    ],
    ids=["plain", "one system", "three systems", "batch of one", "batch of three", "both"],
)
def test_the_axis_of_systems_is_there_when_asked_for(
    cost: Any, num_systems: int | None, axis: tuple[int, ...]
) -> None:
    posterior = run(cost, num_particles=16, num_systems=num_systems, record=["particles"])
    shapes = {name: tuple(a.shape) for name, a in answers(posterior).items()}
    assert shapes == {name: (*axis, *shape) for name, shape in SHAPES.items()}
    assert posterior.quantile([0.1, 0.5]).shape == (2, *axis, 2)
    S = axis[0] if axis else 1
    assert {a.shape for a in posterior.trace.values()} == {(S, K + 1)}
    assert posterior.recorded["particles"].shape == (S, K + 1, 16, 2)


def test_the_axis_changes_no_number() -> None:
    plain, one, batched = (run(c, num_particles=16, num_systems=n) for c, n in [
        (None, None), (None, 1), (batch(1), None)
    ])  # fmt: skip
    for name, answer in answers(plain).items():
        for other in (one, batched):
            torch.testing.assert_close(answers(other)[name][0], answer, equal_nan=True)
    torch.testing.assert_close(plain.quantile([0.1, 0.5]), one.quantile([0.1, 0.5])[:, 0])


def test_the_trace_ends_in_the_answer() -> None:
    posterior = run(num_particles=64, num_systems=3, trigger=at_steps([1, 3]))
    torch.testing.assert_close(posterior.trace["ess"][:, -1], posterior.ess)
    torch.testing.assert_close(posterior.trace["log_evidence"][:, -1], posterior.log_evidence)
    assert posterior.trace["resampled"].nonzero()[:, 1].tolist() == [2, 4] * 3
    eves = [len(set(row.tolist())) for row in posterior.eves]
    assert posterior.trace["unique_eves"][:, -1].tolist() == eves
    assert (posterior.times.diff() < 0).all()
    assert float(posterior.times[-1]) == 0


def test_the_settings_say_what_was_run() -> None:
    posterior = sg.sample(
        prior(), LinearGaussian(A, Y, NOISE), num_particles=16, num_steps=K, seed=11, progress=False
    )
    told = posterior.settings
    assert (told["num_particles"], told["seed"]) == (16, 11)
    assert told["proposal"].startswith("Gradient(")
    assert told["potential"].startswith("InflatedGaussian(")
    assert told["resampler"] == "Systematic()"
    assert told["trigger"] == "ess_below(fraction=0.5)"


# ---- pools and text ------------------------------------------------------------------------------


def test_a_pool_weighs_each_replicate_by_its_evidence() -> None:
    posterior = run(num_particles=16, num_systems=8)
    pooled, Z = posterior.pooled(), posterior.log_evidence.exp().numpy()
    assert Z.std() / Z.mean() > 0.05, "not in the corner: all evidences agree"
    assert float(pooled.log_evidence) == pytest.approx(math.log(Z.mean()), abs=1e-12)
    share = Z / Z.sum()
    mean = torch.from_numpy(share @ posterior.mean().numpy())
    square = torch.from_numpy(share @ posterior.expect(lambda x: x**2).numpy())
    torch.testing.assert_close(pooled.mean(), mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pooled.std() ** 2, square - mean**2, rtol=1e-9, atol=1e-12)
    W = torch.from_numpy(share)[:, None] * posterior.weights
    torch.testing.assert_close(pooled.weights, W.flatten(), rtol=1e-10, atol=0)
    assert float(pooled.ess) == pytest.approx(float(1 / W.square().sum()), rel=1e-10)
    assert torch.equal(pooled.particles, posterior.particles.flatten(0, 1))


def test_a_pool_keeps_families_apart_and_counts_once() -> None:
    posterior = run(num_particles=16, num_systems=8)
    pooled = posterior.pooled()
    families = sum(len(set(row.tolist())) for row in posterior.eves)
    assert len(set(pooled.eves.flatten().tolist())) == families
    assert pooled.evaluations == posterior.evaluations
    assert pooled.settings["pooled"] == 8
    shapes = {name: tuple(a.shape) for name, a in answers(pooled).items()}
    assert shapes["mean"] == (2,)
    assert shapes["particles"] == (128, 2)


def test_a_pool_of_dead_and_far_away_systems() -> None:
    """Evidences may differ by any factor; the pool is that of the best system."""
    x, log_w = randn(3, 64, 2), randn(3, 64, stream=1)
    log_w = log_w + torch.tensor([[-900.0], [900.0], [0.0]])
    posterior = posterior_of(x, log_w)
    pooled = posterior.pooled()
    torch.testing.assert_close(pooled.mean(), posterior.mean()[1], rtol=1e-12, atol=1e-12)
    assert float(pooled.log_evidence) == pytest.approx(float(posterior.log_z[1]) - math.log(3))


def test_different_problems_have_no_pool() -> None:
    with pytest.raises(sg.InvalidInput, match=r"different observations"):
        run(batch(3), num_particles=16).pooled()


@pytest.mark.parametrize("resampler", [Multinomial(), Systematic()], ids=repr)
def test_the_standard_error_of_a_pool_is_that_of_its_evidence(resampler: Resampler) -> None:
    """Eight systems, which resample at different steps, are pooled again and again."""
    task, base = model(potential=Tweedie(1.0), steps=20), seed("pools") % 2**31
    pools = [
        sg.run(
            task, num_particles=100, num_systems=8, resampler=resampler, seed=base + i,
            progress=False,
        ).pooled()
        for i in range(40)
    ]  # fmt: skip
    told = torch.stack([p.log_evidence_se for p in pools])
    spread = float(torch.stack([p.log_evidence for p in pools]).std())
    assert (told > 0).all()
    assert 0.6 < float(told.square().mean().sqrt()) / spread < 1.7


@pytest.mark.parametrize("num_systems", [None, 3])
def test_the_summary_shows_the_numbers(num_systems: int | None) -> None:
    posterior = run(num_particles=64, num_systems=num_systems, seed=17, trigger=at_steps([2]))
    text = posterior.summary()
    lines = text.splitlines()
    se, _ = posterior.standard_error()
    for s in range(num_systems or 1):
        row = [float(v) for v in lines[1 + s].replace("+-", " ").split()]
        expected = [s, posterior.log_z[s], se[s], weights.ess(posterior.log_w)[s]]
        assert row[:4] == pytest.approx([float(v) for v in expected], abs=0.051)
        assert row[1] == pytest.approx(float(posterior.log_z[s]), abs=5.1e-4)
        assert row[4:] == [len(set(posterior.eves[s].tolist())), 1]
    assert "64 particles" in text
    assert posterior.log_evidence_method in text
    for name, number in posterior.evaluations.items():
        assert f"{name} {number}" in text
    assert "seed: 17" in text
    assert "at_steps(steps=[2])" in text


# ---- the standard error of the evidence ----------------------------------------------------------


def test_replicates_are_told_by_their_spread() -> None:
    posterior = run(num_particles=16, num_systems=6)
    spread = np.std(posterior.log_evidence.numpy(), ddof=1)
    assert posterior.log_evidence_method == REPLICATES
    torch.testing.assert_close(
        posterior.log_evidence_se, torch.full((6,), float(spread), dtype=F64), rtol=1e-12, atol=0
    )


SINGLE = {
    "Lee-Whiteley": (Multinomial(), LEE_WHITELEY, 0.8, 1.2),
    "genealogy": (Systematic(), GENEALOGY, 0.5, 2.0),
}


@pytest.mark.parametrize("trigger", [ess_below(0.7), always()], ids=repr)
@pytest.mark.parametrize("name", SINGLE)
def test_a_single_run_knows_its_error(name: str, trigger: Any) -> None:
    """Against the spread of 1000 runs; each of them answers for itself."""
    resampler, method, low, high = SINGLE[name]
    posterior = run(
        batch(1000), num_particles=200, potential=Tweedie(1.0), resampler=resampler,
        trigger=trigger, seed=seed(f"{name} {trigger!r}"),
    )  # fmt: skip
    assert posterior.log_evidence_method == method
    assert posterior.trace["resampled"].any(1).double().mean() > 0.9, "hardly any resampling"
    spread = float(posterior.log_evidence.std())
    assert 0.03 < spread < 0.3, "the evidence should be neither trivial nor wild"
    told = float(posterior.log_evidence_se.square().nanmean().sqrt())
    assert low < told / spread < high


@pytest.mark.parametrize("resampler", [Multinomial(), Systematic()], ids=repr)
def test_without_resampling_both_errors_are_that_of_a_mean(resampler: Resampler) -> None:
    posterior = run(num_particles=400, resampler=resampler, trigger=never(), potential=Terminal())
    w = posterior.log_weights.exp().numpy()
    relative = np.std(w, ddof=1) / w.mean() / math.sqrt(400)
    assert float(posterior.log_evidence_se) == pytest.approx(relative, rel=0.01)


@pytest.mark.parametrize("resampler", [Multinomial(), Systematic()], ids=repr)
def test_no_error_is_told_once_one_family_survives(resampler: Resampler) -> None:
    posterior = sg.sample(
        prior(), LinearGaussian(A, Y, 0.05), num_particles=3, num_steps=60, resampler=resampler,
        trigger=always(), potential=Tweedie(1.0), proposal=Bootstrap(), progress=False,
    )  # fmt: skip
    assert posterior.trace["unique_eves"][0, -1] == 1, "not in the corner"
    assert math.isnan(float(posterior.log_evidence_se))
    assert "nan" in posterior.summary()


def test_a_family_without_weight_does_not_count_as_a_survivor() -> None:
    W = torch.tensor([[0.4, 0.6, 0.0], [0.4, 0.3, 0.3]], dtype=F64)
    eves = torch.tensor([[0, 0, 2], [0, 0, 2]])
    nothing, once = torch.zeros(2, dtype=F64), torch.ones(2)
    for multinomial in (True, False):
        told, _ = standard_error(nothing, W, eves, once, multinomial=multinomial, replicates=False)
        assert told.isnan().tolist() == [True, False]


def test_lee_whiteley_in_figures() -> None:
    """Families of weight 0.7 and 0.3, N = 4, one resampling: 1 - (4 / 3)^2 (1 - 0.58)."""
    W = torch.tensor([[0.4, 0.3, 0.1, 0.2]], dtype=F64)
    eves = torch.tensor([[2, 2, 3, 3]])
    told, name = standard_error(
        torch.zeros(1, dtype=F64), W, eves, torch.tensor([1]), multinomial=True, replicates=True
    )
    assert name == LEE_WHITELEY
    assert float(told) ** 2 == pytest.approx(1 - (4 / 3) ** 2 * (1 - 0.58), rel=1e-10)
    told, name = standard_error(
        torch.zeros(1, dtype=F64), W, eves, torch.tensor([1]), multinomial=False, replicates=True
    )
    assert name == GENEALOGY
    assert float(told) ** 2 == pytest.approx(0.58 - 0.25, rel=1e-10)


def test_an_estimate_below_zero_is_no_error_of_zero() -> None:
    """Lee and Whiteley's variance is unbiased and may be negative; then nothing can be told."""
    W, eves = torch.full((1, 4), 0.25, dtype=F64), torch.tensor([[2, 2, 3, 3]])
    told, _ = standard_error(
        torch.zeros(1, dtype=F64), W, eves, torch.tensor([3]), multinomial=True, replicates=False
    )
    assert 1 - (4 / 3) ** 4 * (1 - 0.5) < 0, "not in the corner"
    assert told.isnan().all()


# ---- the variational bound -----------------------------------------------------------------------


def exact_log_evidence() -> float:
    levels = model().levels
    law = prior()
    mean, covariance = law._m[0], law._covariances()[0]
    return gaussian_chain(mean, covariance, levels).log_evidence(A, Y, NOISE)


GUIDED = {"Gradient": Gradient(), "DTM": DTM(), "Bootstrap": Bootstrap()}


@pytest.mark.parametrize("name", GUIDED)
def test_the_bound_lies_below_the_evidence(name: str) -> None:
    posterior = run(
        proposal=GUIDED[name], potential=InflatedGaussian(), num_particles=64, num_systems=200,
        trigger=never(), seed=seed(f"bound {name}"),
    )  # fmt: skip
    bound, log_z = posterior.dtm_bound, exact_log_evidence()
    assert float(bound.mean() + threshold() * bound.std() / 200**0.5) < log_z
    assert float(posterior.pooled().dtm_bound) == pytest.approx(float(bound.mean()))
    # without resampling the mean log-weight has the same expectation, path KL and all
    z_test(bound - posterior.log_weights.mean(1), 0.0, ceiling=0.02)


def test_the_bound_of_the_bootstrap_is_the_mean_cost() -> None:
    posterior = run(num_particles=64, num_systems=3, trigger=never())
    cost = LinearGaussian(A, Y, NOISE)(posterior.x).mean(1)
    torch.testing.assert_close(posterior.dtm_bound, -cost, rtol=1e-12, atol=1e-12)


def test_there_is_no_bound_after_resampling() -> None:
    def second(step: int, log_w: Tensor) -> Tensor:
        return torch.tensor([False, step == 2, False])

    posterior = run(num_particles=64, num_systems=3, trigger=second)
    assert posterior.dtm_bound.isnan().tolist() == [False, True, False]
    assert run(num_particles=64, trigger=always()).dtm_bound.isnan()


# ---- counts of work ------------------------------------------------------------------------------


class _Watch(torch.autograd.Function):
    """The identity; counts the rows whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, done: Counter[str]) -> Tensor:
        ctx.done = done
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.done["network_backward"] += len(grad)
        return grad, None


class Metered(GaussianMixture):
    """A mixture whose denoiser counts the events it has seen, forward and backward."""

    done: Counter[str]

    def denoise(self, x: Tensor, t: float) -> Tensor:
        self.done["network_forward"] += len(x)
        return super().denoise(_Watch.apply(x, self.done), t)


def metered() -> Metered:
    law = prior()
    made = Metered(torch.ones(1), law._m, law._covariances()[0])
    made.done = Counter()
    return made


# per particle: forward, backward
WORK: dict[str, tuple[Proposal, Any, int, int]] = {
    "Bootstrap": (Bootstrap(), Tweedie(), K, 0),
    "Gradient": (Gradient(), Tweedie(), K, K),
    "DTM": (DTM(), InflatedGaussian(), 2 * K - 1, K),
    "DTM, 3 iterations": (DTM(num_iters=3), Tweedie(), 4 * K - 3, 3 * K - 2),
    "DTM, warm": (DTM(warm_start=True), Tweedie(), 3 * K - 2, K - 1),
    "DTM, guide": (DTM(guide=Tweedie(1.0)), Tweedie(), 2 * K - 1, K - 1),
    "DTM, published": (DTM("ndtm"), Tweedie(), 2 * K - 1, K - 1),
    "Gauss-Newton": (
        DTM(solver="gauss_newton", num_iters=2), InflatedGaussian(), 3 * K - 2, 5 * (K - 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("chunk_size", [None, 6])
def test_network_evaluations_are_counted_exactly(name: str, chunk_size: int | None) -> None:
    proposal, potential, forward, backward = WORK[name]
    law = metered()
    task = model(None, proposal, potential, law, chunk_size)
    law.done.clear()
    posterior = sg.run(task, num_particles=10, num_systems=2)
    seen = {"network_forward": 20 * forward, "network_backward": 20 * backward}
    assert {n: law.done[n] for n in seen} == seen, "the formula does not describe what was done"
    assert {n: posterior.evaluations.get(n, 0) for n in seen} == seen
    again = sg.run(task, num_particles=10, num_systems=2, seed=1)
    assert again.evaluations == posterior.evaluations


@pytest.mark.parametrize("potential", [Tweedie(), Terminal()], ids=repr)
@pytest.mark.parametrize(
    "proposal", [Bootstrap(), Gradient(), DTM(num_iters=2), DTM("ndtm")], ids=repr
)
def test_cost_evaluations_are_counted_exactly(proposal: Proposal, potential: Any) -> None:
    done: Counter[str] = Counter()

    def cost(x: Tensor) -> Tensor:
        done["cost"] += len(x)
        return x.square().sum(-1)

    task = model(FunctionCost(cost), proposal, potential)
    done.clear()
    posterior = sg.run(task, num_particles=10, num_systems=2)
    assert done["cost"] >= 20
    assert posterior.evaluations["cost"] == done["cost"]


def test_what_is_learned_before_the_run_is_not_counted() -> None:
    law = metered()
    arguments = {"num_particles": 10, "num_steps": K, "progress": False}
    first = sg.sample(law, LinearGaussian(A, Y, NOISE), **arguments)
    assert law.done["network_forward"] > 10 * K, "no rehearsal was needed"
    assert first.evaluations["network_forward"] == 10 * K
    assert first.evaluations["network_backward"] == 10 * K
    law.done.clear()
    second = sg.sample(law, LinearGaussian(A, Y, NOISE), **arguments)
    assert law.done["network_forward"] == 10 * K, "the rehearsal was not kept"
    assert torch.equal(first.particles, second.particles)
    assert first.evaluations == second.evaluations
