"""The engine's contract: chunks, seeds, systems, masks, caches, user-written models."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import smcguide as sg
from smcguide.gaussian import Gaussian
from smcguide.testing import z_test

F64 = torch.float64
MIXTURE = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=F64), scale=0.5
)
COST = sg.costs.LinearGaussian(torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([0.5]).double(), 0.3)


def model(proposal=None, chunk_size=None, cost=COST, prior=MIXTURE, steps=8, kernel=None):
    return sg.GuidedDiffusion(
        prior,
        cost,
        kernel=kernel or sg.kernels.DDPM(),
        times=sg.grids.karras(steps),
        potential=sg.potentials.InflatedGaussian(),
        proposal=proposal or sg.proposals.Gradient(),
        chunk_size=chunk_size,
    )


@pytest.mark.parametrize(
    "proposal",
    [
        sg.proposals.Bootstrap(),
        sg.proposals.Gradient(),
        sg.proposals.DTM(num_iters=2),
        sg.proposals.DTM(solver="adam", learning_rate=0.1, warm_start=True),
        sg.proposals.DTM(solver="gauss_newton"),
    ],
    ids=repr,
)
def test_chunks_do_not_change_the_result(proposal: sg.proposals.Proposal) -> None:
    def result(chunk_size):
        return sg.run(
            model(proposal, chunk_size), num_particles=20, num_systems=3, record=("ancestors",)
        )

    whole = result(None)
    for size in (60, 7, 1):
        part = result(size)
        torch.testing.assert_close(part.x, whole.x, rtol=0, atol=1e-9)
        torch.testing.assert_close(part.log_w, whole.log_w, rtol=0, atol=1e-8)
        assert torch.equal(part.recorded["ancestors"], whole.recorded["ancestors"])
        assert part.evaluations == whole.evaluations


def test_chunk_bounds_the_network_batch() -> None:
    sizes = []

    class Watched(sg.priors.GaussianMixture):
        def denoise(self, x: Tensor, t: float) -> Tensor:
            sizes.append(len(x))
            return super().denoise(x, t)

    prior = Watched(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)
    watched = model(sg.proposals.DTM(), 10, prior=prior)
    sizes.clear()
    sg.run(watched, num_particles=64, num_systems=2)
    assert max(sizes) == 10


def test_same_seed_same_result_other_seed_other() -> None:
    one, two = (sg.run(model(), num_particles=50, seed=5) for _ in range(2))
    assert torch.equal(one.x, two.x) and torch.equal(one.log_w, two.log_w)
    assert not torch.equal(one.x, sg.run(model(), num_particles=50, seed=6).x)


def test_global_random_state_is_not_touched() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sg.run(model(sg.proposals.DTM()), num_particles=10)
    assert torch.equal(torch.get_rng_state(), before)


def test_systems_in_one_run_equal_separate_runs_in_law() -> None:
    R, N = 150, 16
    together = sg.run(model(steps=4), num_particles=N, num_systems=R, seed=1).log_evidence
    apart = torch.stack(
        [sg.run(model(steps=4), num_particles=N, seed=10 + r).log_evidence for r in range(R)]
    )
    z_test(together.exp(), float(apart.exp().mean()), 0.2, truth_se=float(apart.exp().std() / R**0.5))
    assert 0.6 < float(together.std() / apart.std()) < 1.6


def test_each_system_answers_its_own_observation() -> None:
    y = torch.tensor([[-1.0], [0.5], [2.0]], dtype=F64)
    A = torch.tensor([[1.0, 0.5]], dtype=F64)
    post = sg.sample(MIXTURE, sg.costs.LinearGaussian(A, y, 0.3, batched=True), num_particles=2000)
    for s in range(3):
        exact = MIXTURE.posterior(A, y[s], 0.3).moments()
        sd = (exact.basis**2 @ exact.variance).sqrt()
        assert float(((post.mean()[s] - exact.mean) / sd).abs().max()) < 0.25
        assert abs(float(post.log_evidence[s] - MIXTURE.log_evidence(A, y[s], 0.3))) < 0.2


def test_only_systems_below_the_threshold_resample() -> None:
    y = torch.tensor([[0.4], [30.0]], dtype=F64)  # the second is hopeless for a bootstrap
    cost = sg.costs.LinearGaussian(torch.tensor([[1.0, 0.5]], dtype=F64), y, 3.0, batched=True)
    steps = list(
        sg.iterate(
            model(sg.proposals.Bootstrap(), cost=cost), num_particles=200, record=("ancestors",)
        )
    )
    fired = torch.stack([info.resampled for _, info in steps])
    assert fired[:, 1].any() and fired[:, 1].sum() > fired[:, 0].sum()
    own = torch.arange(200)
    for (_, info), (before, was) in zip(steps[1:], steps[:-1], strict=True):
        for s in range(2):
            assert bool(info.resampled[s]) == bool(was.ess[s] < 100)
            if not info.resampled[s]:
                assert torch.equal(info.recorded["ancestors"][s], own)
        assert before.log_w.dtype == F64


def test_clones_get_fresh_noise_and_noiseless_steps_are_not_resampled() -> None:
    post = sg.run(model(), num_particles=100, trigger=sg.triggers.always(), record=("ancestors",))
    assert len(post.recorded["ancestors"][0, -2].unique()) < 100
    assert post.trace["resampled"][0].tolist() == [False, *[True] * 7, False]
    assert len(post.x[0].unique(dim=0)) == 100


def test_final_weights_are_not_resampled_away() -> None:
    post = sg.run(model(), num_particles=100, trigger=sg.triggers.always())
    assert float(post.log_weights.std()) > 0
    assert float(post.ess) < 100


def test_run_is_a_loop_over_iterate() -> None:
    post = sg.run(model(), num_particles=30, seed=2)
    *_, (particles, info) = sg.iterate(model(), num_particles=30, seed=2)
    assert torch.equal(particles.x, post.x) and torch.equal(info.log_evidence, post.log_z)
    assert info.step == 8 and info.time == 0.0


def test_progress_callback_sees_every_step() -> None:
    seen = []
    sg.run(model(), num_particles=10, progress=lambda info: seen.append(info.step))
    assert seen == list(range(9))


def test_recorded_paths_end_in_the_result() -> None:
    record = ("ancestors", "particles", "log_weights")
    post = sg.run(model(), num_particles=10, num_systems=2, record=record)
    assert post.recorded["particles"].shape == (2, 9, 10, 2)
    assert torch.equal(post.recorded["particles"][:, -1], post.x)
    assert torch.equal(post.recorded["log_weights"][:, -1], post.log_w)


def test_float32_states_keep_float64_weights() -> None:
    post = sg.sample(MIXTURE, COST, num_particles=50, num_steps=6, dtype=torch.float32)
    assert post.x.dtype == torch.float32
    assert post.log_w.dtype == post.log_z.dtype == F64


# ---- models written by users ----------------------------------------------------------------------


class LinearStateSpace(sg.FeynmanKac):
    """x_k = 0.9 x_{k-1} + 0.5 z, y_k = x_k + 0.7 e, bootstrap filter."""

    event_shape = (1,)

    def __init__(self, y: Tensor) -> None:
        self.y, self.num_steps = y, len(y) - 1

    def _log_g(self, k: int, x: Tensor) -> Tensor:
        return torch.distributions.Normal(x[..., 0], 0.7).log_prob(self.y[k])

    def initial(self, shape, generator):
        x = torch.randn(*shape, 1, generator=generator, dtype=F64)
        return sg.Propagated(x, self._log_g(0, x))

    def step(self, k, x, carry, generator):
        x = 0.9 * x + 0.5 * torch.randn(x.shape, generator=generator, dtype=F64)
        return sg.Propagated(x, self._log_g(k + 1, x))


def kalman(y: Tensor) -> tuple[float, float]:
    """Log-evidence and last filtering mean."""
    mean, var, log_z = 0.0, 1.0, 0.0
    for k, obs in enumerate(y.tolist()):
        if k:
            mean, var = 0.9 * mean, 0.81 * var + 0.25
        s = var + 0.49
        log_z -= 0.5 * ((obs - mean) ** 2 / s + math.log(2 * math.pi * s))
        mean, var = mean + var / s * (obs - mean), var - var**2 / s
    return log_z, mean


@pytest.mark.parametrize("trigger", [sg.triggers.ess_below(0.5), sg.triggers.always()], ids=repr)
def test_user_written_state_space_model_against_kalman(trigger: sg.triggers.Trigger) -> None:
    y = torch.tensor([0.3, -0.5, 1.2, 2.0, 1.1, 0.2, -0.4, 0.9], dtype=F64)
    log_z, mean = kalman(y)
    post = sg.run(LinearStateSpace(y), num_particles=200, num_systems=300, trigger=trigger)
    ratio = torch.exp(post.log_evidence - log_z)
    z_test(ratio, 1.0, ceiling=0.02)
    z_test(ratio * post.mean()[:, 0], mean, ceiling=0.02)


@dataclass(frozen=True)
class TwoStep(sg.kernels.Kernel):
    """A kernel with history: extrapolates the denoiser's last two answers."""

    def step(self, x, x0_hat, t, s, memory):
        old = x0_hat if memory is None else memory
        base = sg.kernels.DDIM(eta=1.0).step(x, x0_hat + 0.3 * (x0_hat - old), t, s)
        return Gaussian(base.mean, base.std, memory=x0_hat)


def test_a_kernel_with_history_is_gathered_with_its_particle() -> None:
    """Evidence agrees with brute force over the same chain; without gathering it would not."""
    chain = model(sg.proposals.Bootstrap(), steps=4, kernel=TwoStep())
    many = sg.run(
        chain, num_particles=20_000, num_systems=20, trigger=sg.triggers.never(), seed=9
    ).pooled()
    for proposal in (sg.proposals.Bootstrap(), sg.proposals.Gradient()):
        post = sg.run(
            model(proposal, steps=4, kernel=TwoStep()), num_particles=64, num_systems=400,
            trigger=sg.triggers.always(),
        )  # fmt: skip
        ratio = torch.exp(post.log_evidence - many.log_evidence)
        z_test(ratio, 1.0, ceiling=0.06, truth_se=0.003)


def test_log_transition_is_the_base_kernel_over_the_value_left() -> None:
    chain = model()
    x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    carry = chain.look_ahead(2, x, {})
    base = chain.kernel.step(x, chain.denoise(x, chain.levels[2]), *chain.levels[2:4], None)
    expected = torch.distributions.Normal(base.mean, base.std).log_prob(x + 0.1).sum(-1)
    found = chain.log_transition(2, x, carry, x + 0.1)
    torch.testing.assert_close(found, expected - carry["log_psi"])


def test_a_run_does_not_depend_on_what_ran_before() -> None:
    def fresh() -> sg.priors.GaussianMixture:
        return sg.priors.GaussianMixture(torch.ones(2), MIXTURE._m, scale=0.5)

    used = fresh()
    sg.sample(used, COST, num_particles=8, num_steps=20)
    again = sg.sample(used, COST, num_particles=32, num_steps=6)
    assert torch.equal(again.x, sg.sample(fresh(), COST, num_particles=32, num_steps=6).x)
    assert again.settings["rehearsal_forward"] == "0"


def test_moving_nowhere_keeps_the_prior() -> None:
    prior = sg.priors.load("digits")
    assert prior.to("cpu") is prior and prior.to(dtype=torch.float32) is prior


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_an_illegal_value_ends_the_run_at_once_without_a_gradient_too(monkeypatch, wrong):
    """-inf, too: what is zero before the end would lose mass for good."""
    right = sg.potentials.Tweedie.log_value

    def spoilt(self, look):
        value = right(self, look)
        return torch.where(torch.arange(value.shape[1]) == 3, wrong, value)

    monkeypatch.setattr(sg.potentials.Tweedie, "log_value", spoilt)
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    parts = {"proposal": sg.proposals.Bootstrap(), "potential": sg.potentials.Tweedie(1.0)}
    with pytest.raises(sg.DegenerateWeights, match="Non-finite") as error:
        sg.sample(prior, lambda x: x.square().sum(1), num_particles=8, num_steps=4, **parts)
    assert error.value.step == 0
