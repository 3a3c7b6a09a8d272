"""DTM as a proposal: the shipped suite, what the control does, and the mixture posterior (row A1)."""

import math

import pytest
import torch

import smcguide as sg
from smcguide.proposals import DTM, Published
from smcguide.testing import ProposalSuite, z_test

F64 = torch.float64


class TestOneStep(ProposalSuite):
    def instances(self):
        return [DTM(), DTM(num_iters=3, trust=0.7)]


class TestWarmStart(ProposalSuite):
    def instances(self):
        return [DTM(solver="adam", learning_rate=0.2, num_iters=2, warm_start=True)]


class TestOwnGuide(ProposalSuite):
    def instances(self):
        guide = sg.potentials.Tweedie(0.3)
        return [DTM(guide=guide), DTM(guide=guide, num_iters=2)]


class TestPublished(ProposalSuite):
    def instances(self):
        objective = Published(gamma=1.0, terminal_weight=5.0)
        return [DTM(objective=objective, solver="adam", num_iters=2, learning_rate=0.05)]


PRIOR = sg.priors.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.5, 0.0], [-1.0, 1.0]], dtype=F64), scale=0.6
)
A, Y, NOISE = torch.tensor([[1.0, 0.7]], dtype=F64), torch.tensor([1.2], dtype=F64), 0.3
COST = sg.costs.LinearGaussian(A, Y, NOISE)


def model(proposal: sg.proposals.Proposal, cost=COST, steps: int = 12) -> sg.GuidedDiffusion:
    return sg.GuidedDiffusion(
        PRIOR,
        cost,
        kernel=sg.kernels.DDPM(),
        times=sg.grids.log_snr(steps),
        potential=sg.potentials.InflatedGaussian(),
        proposal=proposal,
    )


def solved(k: int = 7, **settings):
    """Base kernel, proposal, and the value of the step problem at the control found, for 200 particles
    in the middle of an unguided run."""
    chain = model(DTM(warm_start=True, **settings))  # so that the control is in q.memory
    plain = model(sg.proposals.Bootstrap())
    generator = torch.Generator().manual_seed(0)
    state = plain.initial((1, 200), generator)
    for j in range(k):
        state = plain.step(j, state.x, state.carry, generator)
    base, q = chain.kernels(k, state.x, state.carry)
    t, s = chain.levels[k], chain.levels[k + 1]
    there = chain.look_at(k, state.x + base.std * (t.alpha / s.alpha) * q.memory)
    return base, q, (q.kl(base) - there.value).mean(), -state.carry["log_psi"].mean()


def test_more_iterations_solve_the_step_problem_better_A1() -> None:
    rate = {"learning_rate": 0.5, "trust": math.inf}
    values = [solved(num_iters=n, **rate)[2] for n in (1, 4, 16)]
    unguided = solved(num_iters=1, **rate)[3]
    assert values[2] < values[1] < values[0] < unguided


def test_gauss_newton_needs_one_solve_where_descent_needs_many() -> None:
    unguided = solved()[3]
    newton = solved(solver="gauss_newton", num_iters=2, trust=math.inf)[2]
    one = solved(num_iters=1, trust=math.inf)[2]
    best = solved(num_iters=100, learning_rate=0.3, trust=math.inf)[2]
    assert newton < one
    assert float((newton - best) / (unguided - best)) < 0.15


def test_trust_region_bounds_every_particle() -> None:
    base, q, _, _ = solved(num_iters=5, trust=0.2)
    radius = ((q.mean - base.mean) / base.std).flatten(2).norm(dim=-1)
    assert float(radius.max()) <= 0.2 + 1e-9
    assert float(radius.max()) > 0.19, "not in the corner: the region is never reached"


def test_warm_start_changes_the_path_and_cold_start_keeps_no_memory() -> None:
    warm = sg.run(model(DTM(warm_start=True)), num_particles=8, seed=1)
    cold = sg.run(model(DTM()), num_particles=8, seed=1)
    assert not torch.allclose(warm.x, cold.x)
    *_, (particles, _) = sg.iterate(model(DTM()), num_particles=8)
    assert "proposal_memory" not in particles.carry


def test_mixture_posterior_within_error_A1() -> None:
    """Against 2 x 10^6 brute-force paths of the same chain."""
    plain = sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(12),
        potential=sg.potentials.Terminal(), proposal=sg.proposals.Bootstrap(),
    )  # fmt: skip
    brute = sg.run(
        plain, num_particles=100_000, num_systems=20, trigger=sg.triggers.never(), seed=5
    )
    truth = brute.pooled()
    se = float(truth.log_evidence_se)
    assert se < 0.01
    for proposal in (DTM(), DTM(solver="gauss_newton")):
        post = sg.run(model(proposal), num_particles=128, num_systems=300, seed=6)
        ratio = torch.exp(post.log_evidence - truth.log_evidence)
        z_test(ratio, 1.0, ceiling=0.03, truth_se=se)
        for i in range(2):
            z_test(ratio * post.mean()[:, i], float(truth.mean()[i]), 0.06, truth_se=0.02)


def test_unknown_settings_are_refused() -> None:
    for bad in ({"solver": "newton"}, {"objective": "elbo"}, {"num_iters": 0}):
        with pytest.raises(sg.InvalidInput, match="objective must be 'kl', 'ndtm'"):
            DTM(**bad)
