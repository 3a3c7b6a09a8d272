"""Network calls of a step, counted by the network itself, and what re-use makes of a control."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch

import smcguide as sg
from smcguide.potentials import InflatedGaussian, Tweedie
from smcguide.proposals import DTM, Published
from smcguide.testing import z_test
from smcguide.testing.conformance.proposal import linear_gaussian_answer, linear_gaussian_model

F64 = torch.float64
K, SYSTEMS, PARTICLES = 4, 2, 5


class Watch(torch.autograd.Function):
    """The identity, which writes down the rows that pass back through it."""

    @staticmethod
    def forward(ctx, x, done):
        ctx.done = done
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.done["network_backward"] += len(grad)
        return grad, None


class Network(torch.nn.Module):
    """A small denoiser that counts."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([0.5, 0.7, 0.9], dtype=F64))
        self.done = Counter()

    def forward(self, x, t):
        self.done["network_forward"] += len(x)
        return torch.tanh(self.scale * Watch.apply(x, self.done))


def model(proposal, potential=None, chunk_size=None):
    """A network, a measurement, four steps."""
    A = torch.tensor([[1.0, 0.5, -0.4]], dtype=F64)
    return sg.GuidedDiffusion(
        sg.priors.NetworkPrior(Network(), sg.schedules.VP(), "sample", (3,), dtype=F64),
        sg.costs.LinearGaussian(A, torch.tensor([0.6], dtype=F64), 0.3),
        kernel=sg.kernels.DDPM(), times=sg.grids.uniform(K),
        potential=potential or InflatedGaussian(1.0), proposal=proposal, chunk_size=chunk_size,
    )  # fmt: skip


@dataclass(frozen=True)
class Passes:
    """Passes per guided step beyond the look-ahead's call, for M iterations, and whether the look-ahead
    takes the first gradient, which it does at each of its K levels."""

    proposal: DTM
    forward: int
    per_iteration: int
    backward: int
    shared: bool = False

    def expected(self, M):
        steps = K - 1  # the last one has no noise and is not guided
        forward = K + steps * (self.forward + self.per_iteration * M)
        per_step = M * (2 if self.proposal.solver == "gauss_newton" else 1)
        backward = steps * (self.backward + per_step) + K * self.shared
        each = SYSTEMS * PARTICLES
        return {"network_forward": each * forward, "network_backward": each * backward}


CALLS = {
    "sgd": Passes(DTM(), 0, 1, -1, shared=True),
    "adam": Passes(DTM(solver="adam"), 0, 1, -1, shared=True),
    "gauss-newton": Passes(DTM(solver="gauss_newton"), 2, 0, 1),
    "warm start": Passes(DTM(warm_start=True), 1, 1, 0),
    "guide": Passes(DTM(guide=Tweedie(1.0)), 0, 1, 0),
    "published": Passes(DTM("ndtm", solver="adam"), 0, 1, 0),
    "published, warm": Passes(DTM("ndtm", solver="adam", warm_start=True), 1, 1, 0),
}


def counted(proposal, chunk_size=None):
    """What the model says that a run has cost, and what the network has seen."""
    task = model(proposal, chunk_size=chunk_size)
    done = task.prior.net.done
    done.clear()
    post = sg.run(task, num_particles=PARTICLES, num_systems=SYSTEMS, seed=0)
    return {name: post.evaluations[name] for name in done}, dict(done)


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "reuse"])
@pytest.mark.parametrize("M", [1, 2, 5], ids="{} iterations".format)
@pytest.mark.parametrize("name", CALLS)
def test_passes_of_a_step_are_those_of_the_table(name, M, reuse):
    calls = CALLS[name]
    if reuse:
        calls = replace(calls, forward=calls.forward - 1)
    said, seen = counted(replace(calls.proposal, num_iters=M, reuse=reuse))
    assert said == seen == calls.expected(M)


def test_passes_do_not_depend_on_the_chunk():
    whole, part = counted(DTM(num_iters=2, reuse=True)), counted(DTM(num_iters=2, reuse=True), 4)
    assert whole == part


# ---- re-use ---------------------------------------------------------------------------------------


def halfway(proposal, k=1):
    """Model, states and carry in the middle of a run."""
    task, generator = model(proposal), torch.Generator().manual_seed(3)
    state = task.initial((1, 6), generator)
    for j in range(k):
        state = task.step(j, state.x, state.carry, generator)
    return task, k, state.x, state.carry


def mean_from(task, k, x, seen):
    """The base mean at x from the denoised estimates of other states, and how a standard normal prior's
    would differ."""
    (there, x0_hat), t = seen, task.levels[k]
    normal = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 3, dtype=F64), scale=1.0)
    here, before = (normal.denoise(a[0], t.time)[None] for a in (x, there))
    return task.base_kernel(k, x, x0_hat + here - before).mean


def by_hand(task, k, x, M, rate):
    """The mean after M steps of descent from the last call of them, and the base's."""
    t, s = task.levels[k], task.levels[k + 1]
    base = task.base_kernel(k, x, task.denoise(x, t).detach())
    gamma, u = base.std * t.alpha / s.alpha, torch.zeros_like(x)
    for _ in range(M):
        u.requires_grad_()
        look = task.look_at(k, x + gamma * u)
        mean = task.base_kernel(k, look.x, look.x0_hat).mean
        loss = ((mean - base.mean) / base.std).square().sum() / 2 - look.value.sum()
        (slope,) = torch.autograd.grad(loss, u)
        u, seen = (u - rate * slope).detach(), (look.x.detach(), look.x0_hat.detach())
    return mean_from(task, k, x + gamma * u, seen), base.mean


@pytest.mark.parametrize("M", [1, 2, 3], ids="{} iterations".format)
def test_reuse_is_the_base_map_with_the_last_iterations_estimate(M):
    task, k, x, carry = halfway(DTM(num_iters=M, learning_rate=0.4, trust=torch.inf, reuse=True))
    _, q = task.kernels(k, x, carry)
    expected, plain = by_hand(task, k, x, M, 0.4)
    torch.testing.assert_close(q.mean, expected, rtol=1e-10, atol=1e-12)
    assert float((q.mean - plain).norm()) > 1e-3, "no control"


@torch.no_grad()
def test_reuse_of_a_warm_start_takes_the_estimate_at_the_control_remembered():
    proposal = DTM(learning_rate=0.4, trust=torch.inf, warm_start=True, reuse=True)
    task, k, x, carry = halfway(proposal)
    base, q = task.kernels(k, x, carry)
    gamma = base.std * task.levels[k].alpha / task.levels[k + 1].alpha
    there = x + gamma * carry["proposal_memory"]
    seen = there, task.denoise(there, task.levels[k])
    expected = mean_from(task, k, x + gamma * q.memory, seen)
    torch.testing.assert_close(q.mean, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(q.memory, carry["proposal_memory"])


def test_gauss_newton_loses_nothing_by_reuse_where_the_denoiser_is_linear():
    generator, means = torch.Generator(), []
    for reuse in (False, True):
        task = linear_gaussian_model(
            DTM(solver="gauss_newton", num_iters=2, trust=torch.inf, reuse=reuse),
            InflatedGaussian(),
        )
        x = 1.5 * torch.randn(1, 6, 2, generator=generator.manual_seed(5), dtype=F64)
        base, q = task.kernels(1, x, task.look_ahead(1, x, {}))
        means.append(q.mean)
        assert float((q.mean - base.mean).norm()) > 1e-2, "no control"
    torch.testing.assert_close(*means, rtol=1e-9, atol=1e-10)


REUSED = [
    DTM(reuse=True),
    DTM(num_iters=2, warm_start=True, learning_rate=0.3, reuse=True),
    DTM(solver="gauss_newton", num_iters=2, reuse=True),
    DTM(Published(1.0, 5.0), solver="adam", num_iters=2, learning_rate=0.05, reuse=True),
]


@pytest.mark.parametrize("proposal", REUSED, ids=repr)
def test_the_evidence_stays_exact_under_reuse(proposal):
    task = linear_gaussian_model(proposal, InflatedGaussian())
    log_z, _ = linear_gaussian_answer(task)
    post = sg.run(task, num_particles=16, num_systems=3000, seed=11)
    z_test(torch.exp(post.log_evidence - log_z), 1.0, ceiling=0.02)
