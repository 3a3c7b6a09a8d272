"""The gradient of a guide comes with the look-ahead's network call, and is the one asked for later."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch

import smcguide as sg
from smcguide.potentials import (
    ControlValue,
    FKSteering,
    InflatedGaussian,
    MomentMatched,
    Terminal,
    Tweedie,
)
from smcguide.proposals import DTM, Bootstrap, CleanGradient, Combined, Gradient, Published

F64 = torch.float64
K, PARTICLES = 4, 6
PRIOR = sg.priors.GaussianMixture(
    torch.ones(2), torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.3, 0.2]], dtype=F64), scale=0.5
)
COST = sg.costs.LinearGaussian(
    torch.tensor([[1.0, 0.5, -0.4]], dtype=F64), torch.tensor([0.6], dtype=F64), 0.3
)


def model(proposal, potential=None, **parts):
    usual = {"times": sg.grids.uniform(K), "potential": potential or InflatedGaussian(1.0)}
    return sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDPM(), proposal=proposal, **usual | parts
    )


@dataclass(frozen=True)
class AloneGradient(Gradient):
    """The same without the look-ahead's help."""

    shared_guide = None


@dataclass(frozen=True)
class AloneDTM(DTM):
    shared_guide = None


SETTINGS = [
    (Gradient, AloneGradient, {"guide": Tweedie(0.3)}),
    (Gradient, AloneGradient, {"guide": MomentMatched("diagonal"), "rule": "x0_hat", "trust": 2.0}),
    (DTM, AloneDTM, {"guide": Tweedie(0.3), "num_iters": 2}),
    (DTM, AloneDTM, {"objective": Published(clamp=(-0.3, 0.3)), "learning_rate": 0.01}),
]
POTENTIALS = [
    Terminal(), Tweedie(), MomentMatched("diagonal"), ControlValue(DTM(), Tweedie()),
    FKSteering("max", every=1, first=1),
]  # fmt: skip


@pytest.mark.parametrize("potential", POTENTIALS, ids=repr)
@pytest.mark.parametrize(
    ("kind", "alone", "settings"), SETTINGS, ids=lambda a: getattr(a, "__name__", "")
)
def test_a_shared_gradient_saves_calls_and_changes_nothing(kind, alone, settings, potential):
    ran = [
        sg.run(model(c(**settings), potential), num_particles=PARTICLES, num_systems=2, seed=1)
        for c in (kind, alone)
    ]
    torch.testing.assert_close(ran[0].x, ran[1].x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ran[0].log_w, ran[1].log_w, rtol=1e-8, atol=1e-9)
    saved = Counter(ran[1].evaluations)
    saved.subtract(ran[0].evaluations)
    assert saved["network_forward"] == 2 * PARTICLES * (K - 1)
    assert saved["network_backward"] == saved["cost"] == 0


def test_a_guide_that_nobody_has_looked_at_is_asked_then():
    """A noise-free step is guided only for those who ask; a move follows the model's own gradient."""
    proposal = Gradient("state", guide=Tweedie(1.0))
    task, generator = model(proposal), torch.Generator().manual_seed(0)
    state = task.initial((1, PARTICLES), generator)
    for k in range(K - 1):
        state = task.step(k, state.x, state.carry, generator)
    assert "guide_grad" not in state.carry
    base, q = task.kernels(K - 1, state.x, state.carry, guide_last=True)
    x = state.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(task.look_at(K - 1, x, guide=task.proposal.guide).value.sum(), x)
    torch.testing.assert_close(q.mean, base.mean + slope)
    moving = model(proposal, move=sg.moves.MALA(0.1))
    post = sg.run(moving, num_particles=PARTICLES, trigger=sg.triggers.always(), seed=1)
    assert torch.isfinite(post.log_evidence).all()
    assert "guide_grad" not in moving.look_ahead(1, state.x, {})


@pytest.mark.parametrize("guide", [None, Tweedie(1.0)], ids=repr)
def test_a_look_ahead_keeps_no_graph(guide):
    task = model(Gradient(guide=guide))
    x = task.initial((1, PARTICLES), torch.Generator().manual_seed(0)).x
    found = task.look_ahead(1, x, {})  # where gradients are on
    assert len(found) == 3 and not any(a.requires_grad for a in found.values())


def test_parts_of_a_combination_follow_their_own_guides():
    a, b = Gradient(guide=Tweedie(0.2)), Gradient(guide=Tweedie(0.9))
    task = model(Combined((CleanGradient(scale=0.01), a, b)))
    generator = torch.Generator().manual_seed(0)
    state = task.initial((1, PARTICLES), generator)
    base, q = task.kernels(0, state.x, state.carry)
    shifts = [
        alone.kernels(0, state.x, alone.look_ahead(0, state.x, {}))[1].mean - base.mean
        for alone in map(model, (CleanGradient(scale=0.01), a, b))
    ]
    assert min(float(s.norm()) for s in shifts) > 1e-6
    torch.testing.assert_close(q.mean - base.mean, sum(shifts), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("part", [DTM("ndtm"), DTM(guide=Tweedie(0.3))], ids=repr)
def test_a_part_of_a_combination_takes_as_many_passes_as_alone(part):
    spent = []
    for proposal in (part, Combined((part, Bootstrap()))):
        task = model(proposal)
        sg.run(task, num_particles=PARTICLES, seed=1)
        spent.append(task.evaluations)
    assert spent[0] == spent[1]


def test_a_step_back_to_noise_asks_for_no_gradient():
    task = model(Gradient(guide=Tweedie(0.2)), times=sg.grids.recurrent(sg.grids.uniform(K)))
    generator = torch.Generator().manual_seed(0)
    state = task.initial((1, PARTICLES), generator)
    for k in range(task.num_steps - 1):
        assert ("guide_grad" in state.carry) != task.is_noising(k)
        state = task.step(k, state.x, state.carry, generator)


class Once(torch.autograd.Function):
    """The identity, which refuses to pass back through a graph that is kept, as compiled networks do."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("the graph is kept")
        return grad


class Compiled(sg.priors.Prior):
    schedule, event_shape = sg.schedules.VP(), (3,)
    dtype, device = F64, torch.device("cpu")

    def denoise(self, x, t):
        return 0.5 * Once.apply(x)


@pytest.mark.parametrize("proposal", [Gradient(), DTM(num_iters=2), DTM("ndtm")], ids=repr)
def test_networks_that_insist_on_a_graph_freed_are_welcome(proposal):
    task = sg.GuidedDiffusion(
        Compiled(), COST, kernel=sg.kernels.DDPM(), times=sg.grids.uniform(K),
        potential=InflatedGaussian(1.0), proposal=proposal,
    )  # fmt: skip
    assert torch.isfinite(sg.run(task, num_particles=PARTICLES).log_evidence)
    with pytest.raises(RuntimeError, match="the graph is kept"):
        sg.run(
            sg.GuidedDiffusion(
                Compiled(), COST, kernel=sg.kernels.DDPM(), times=sg.grids.uniform(K),
                potential=InflatedGaussian(1.0), proposal=DTM(solver="gauss_newton"),
            ), num_particles=PARTICLES,
        )  # fmt: skip
