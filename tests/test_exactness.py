"""Evidence and moments of the discretised chain, for every proposal, potential and trigger (T2-T4, T11).

The oracle is the law of x_0 under the coarse chain itself, not the data law: see
`smcguide.testing.gaussian_chain`.
"""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

import smcguide as sg
from smcguide.testing import gaussian_chain, z_test

P, Q = sg.proposals, sg.potentials
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COV = torch.tensor([[1.5, 0.6], [0.6, 0.8]], dtype=torch.float64)
A = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
Y, STD = torch.tensor([2.0], dtype=torch.float64), 0.5
PRIOR = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COV)
RATIOS = torch.tensor([4.0, 1.5, 0.7, 0.3], dtype=torch.float64)  # noise levels: 4 coarse steps
TIMES = torch.cat([PRIOR.schedule.time(-2 * RATIOS.log()), torch.zeros(1, dtype=torch.float64)])
COST = sg.costs.LinearGaussian(A, Y, STD)
PROPOSALS = {
    "bootstrap": P.Bootstrap(),
    "gradient": P.Gradient(),
    "gradient, x0_hat rule": P.Gradient(rule="x0_hat", trust=2.0),
    "dtm": P.DTM(),
    "dtm, 3 iterations": P.DTM(num_iters=3, trust=1.0),
    "dtm, adam, warm start": P.DTM(solver="adam", learning_rate=0.3, num_iters=2, warm_start=True),
    "dtm, gauss-newton": P.DTM(solver="gauss_newton", num_iters=2, guide=Q.InflatedGaussian()),
    "dtm, own guide": P.DTM(guide=Q.Tweedie(0.3)),
    "dtm, published": P.DTM(objective=P.Published(gamma=1.0), num_iters=2, learning_rate=0.05),
}


@dataclass(frozen=True)
class Tilt(Q.Potential):
    """Pulls far from where the cost wants the particles: wrong bookkeeping shows."""

    def log_value(self, look):
        return 0.5 * look.x.sum(-1).double()


POTENTIALS = {
    "tilt": Tilt(),
    "inflated": Q.InflatedGaussian(),
    "tweedie": Q.Tweedie(),
    "terminal": Q.Terminal(),
}


def build(proposal=None, potential=None, kernel=None, kind=sg.GuidedDiffusion, **kwargs):
    return kind(
        PRIOR,
        COST,
        kernel=kernel or sg.kernels.DDPM(),
        times=TIMES,
        potential=potential or Q.InflatedGaussian(),
        proposal=proposal or P.Bootstrap(),
        **kwargs,
    )


def oracle(model, eta=1.0):
    return gaussian_chain(MEAN, COV, model.levels, eta=eta)


def ratios(model, num_systems=400, num_particles=64, **kwargs):
    """Z_hat / Z of independent systems, and the run."""
    post = sg.run(
        model, num_systems=num_systems, num_particles=num_particles, progress=False, **kwargs
    )
    return torch.exp(post.log_evidence - oracle(model).log_evidence(A, Y, STD)), post


def test_the_oracle_is_not_the_continuous_answer() -> None:
    """The corner these tests sit in: on 4 steps the chain is visibly not the data law, and guidance
    really moves the particles."""
    chain = oracle(build())
    assert float(torch.det(chain.covariance) / torch.det(COV)) < 0.5
    for name, proposal in PROPOSALS.items():
        _, post = ratios(build(proposal), num_systems=20)
        assert float(post.trace["path_kl"][:, -1].mean()) > (0.02 if proposal.is_guided else -1), name


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_evidence_and_mean_are_exact_A1_A12(proposal: str, potential: str) -> None:
    model = build(PROPOSALS[proposal], POTENTIALS[potential])
    ratio, post = ratios(model, num_systems=800 if potential == "terminal" else 400)
    z_test(ratio, 1.0, ceiling=0.05)
    mean = oracle(model).posterior(A, Y, STD).mean
    for i in range(2):  # Z_hat times the self-normalised mean is unbiased for Z times the mean
        z_test(ratio * post.mean()[:, i], float(mean[i]), ceiling=0.1)


EVERY = PROPOSALS | {
    "clean": P.CleanGradient(scale=0.1),
    "proximal": P.Proximal(trust=2.0),
    "spectral": P.Spectral(trust=2.0),
    "static": P.StaticControl(noise="base", trust=2.0),
    "ddsmc": P.DDSMC(),
    "combined": P.Combined((P.Gradient(), P.CleanGradient(scale=0.1))),
    "adapted": P.Adapted(guide=Q.NoisedObservation()),
}


@pytest.mark.parametrize("N", [16, 400])
@pytest.mark.parametrize("potential", ["inflated", "terminal"])
@pytest.mark.parametrize("proposal", EVERY)
def test_evidence_is_exact_for_few_and_many_particles(proposal, potential: str, N: int) -> None:
    model = build(EVERY[proposal], POTENTIALS[potential])
    ratio, _ = ratios(model, num_systems=800 if N < 100 else 200, num_particles=N)
    z_test(ratio, 1.0, ceiling=0.06)


@pytest.mark.parametrize("resampler", [sg.resamplers.Multinomial(), sg.resamplers.Stratified()])
@pytest.mark.parametrize(
    "trigger", [sg.triggers.always(), sg.triggers.never(), sg.triggers.at_steps([1, 3])]
)
@pytest.mark.parametrize("potential", ["inflated", "terminal"])
def test_evidence_for_every_trigger_and_resampler(resampler, trigger, potential: str) -> None:
    model = build(P.Gradient(), POTENTIALS[potential])
    ratio, _ = ratios(model, resampler=resampler, trigger=trigger)
    z_test(ratio, 1.0, ceiling=0.06)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_evidence_for_ddim_C1(eta: float) -> None:
    model = build(P.DTM(), kernel=sg.kernels.DDIM(eta=eta))
    post = sg.run(model, num_systems=400, num_particles=64, progress=False)
    truth = oracle(model, eta).log_evidence(A, Y, STD)
    z_test(torch.exp(post.log_evidence - truth), 1.0, ceiling=0.1)


def test_optimal_value_gives_constant_weights() -> None:
    """For a Gaussian prior InflatedGaussian is E[exp(-C) | x_t] of the data law; as steps are refined
    with the exact twist and shift, the weights become constant."""
    spread = []
    for steps in (10, 40, 160):
        model = sg.GuidedDiffusion(
            PRIOR, COST, kernel=sg.kernels.DDPM(), times=sg.grids.log_snr(steps),
            potential=Q.InflatedGaussian(), proposal=P.Gradient(),
        )  # fmt: skip
        post = sg.run(model, num_particles=256, trigger=sg.triggers.never(), progress=False)
        spread.append(float(post.log_weights.std()))
    assert spread[2] < spread[1] < spread[0]
    assert spread[2] < 0.3 * spread[0]


def test_error_falls_as_one_over_root_N_T11() -> None:
    sizes = [32, 128, 512]
    errors = [
        float(torch.log(ratios(build(P.Gradient()), 300, N, seed=N)[0]).std()) for N in sizes
    ]
    logs = torch.log(torch.tensor([sizes, errors], dtype=torch.float64))
    slope = float(torch.cov(logs)[0, 1] / logs[0].var())
    assert -0.6 < slope < -0.4


def test_chain_bias_falls_as_one_over_steps_T11() -> None:
    truth = float(PRIOR.log_evidence(A, Y, STD))
    steps = [50, 100, 200, 400]
    gaps = []
    for K in steps:
        levels = [PRIOR.schedule.level(float(t)) for t in sg.grids.log_snr(K)(PRIOR.schedule)]
        gaps.append(abs(gaussian_chain(MEAN, COV, levels).log_evidence(A, Y, STD) - truth))
    logs = torch.log(torch.tensor([steps, gaps], dtype=torch.float64))
    slope = float(torch.cov(logs)[0, 1] / logs[0].var())
    assert -1.3 < slope < -0.7


def test_matched_variance_removes_the_chain_bias() -> None:
    """An isotropic Gaussian prior is reproduced in any number of steps, where DDPM contracts."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=2.0)
    variances = {}
    for kernel in (sg.kernels.DDPM(), sg.kernels.MatchedDDPM()):
        model = sg.GuidedDiffusion(
            prior, lambda x: 0 * x[:, 0], kernel=kernel, times=sg.grids.log_snr(6),
            potential=Q.Terminal(), proposal=P.Bootstrap(),
        )  # fmt: skip
        post = sg.run(model, num_particles=20_000, progress=False)
        variances[type(kernel)] = float(post.x.var())
    assert variances[sg.kernels.DDIM] < 3.0
    assert abs(variances[sg.kernels.MatchedDDPM] - 4.0) < 0.25


def test_dtm_bound_is_below_log_z_and_guidance_tightens_it_A1() -> None:
    """Mean of -(C + path KL): the published variational bound; more iterations, lower terminal cost."""
    bounds, costs = [], []
    for proposal in (P.Bootstrap(), P.DTM(), P.DTM(num_iters=4, trust=4.0)):
        model = build(proposal, Q.InflatedGaussian())
        post = sg.run(
            model, num_particles=4000, trigger=sg.triggers.never(), seed=3, progress=False
        )
        bounds.append(float(post.dtm_bound))
        costs.append(float(COST(post.particles[None]).mean()))
        assert bounds[-1] < float(post.log_evidence)
    assert bounds[0] < bounds[1]
    assert costs[0] > costs[1] > costs[2]


# ---- planted bugs (T6): each must be caught by the assertion that passes above --------------------


class LosesValue(sg.GuidedDiffusion):
    """10 % of -log psi_t is lost."""

    def advance(self, k, x, carry, *given):
        moved = super().advance(k, x, carry, *given)
        return sg.Propagated(moved.x, moved.log_g + 0.1 * carry["log_psi"], moved.carry)


class ForgetsRatio(sg.GuidedDiffusion):
    """The density ratio is forgotten."""

    def kernels(self, k, x, carry, guide_last=False):
        _, q = super().kernels(k, x, carry, guide_last)
        return q, q


class DropsLastWeight(sg.GuidedDiffusion):
    def advance(self, k, x, carry, *given):
        moved = super().advance(k, x, carry, *given)
        last = k == self.num_steps - 1
        return sg.Propagated(moved.x, moved.log_g * (0.0 if last else 1.0), moved.carry)


class ForgetsFirstValue(sg.GuidedDiffusion):
    """psi_T is missing from the initial weight."""

    def initial(self, shape, generator):
        first = super().initial(shape, generator)
        return sg.Propagated(first.x, torch.zeros_like(first.log_g), first.carry)


@dataclass
class Planted:
    kind: type
    potential: str
    proposal: object


@pytest.mark.parametrize(
    "bug",
    [
        Planted(LosesValue, "inflated", P.Bootstrap()),
        Planted(ForgetsRatio, "inflated", P.Gradient()),
        Planted(ForgetsRatio, "terminal", P.DTM(guide=Q.Tweedie(0.3))),
        Planted(DropsLastWeight, "terminal", P.Bootstrap()),
        Planted(ForgetsFirstValue, "inflated", P.Bootstrap()),
    ],
    ids=lambda bug: f"{bug.kind.__name__}, {bug.potential}",
)
def test_planted_bug_is_caught_T6(bug: Planted) -> None:
    model = build(bug.proposal, POTENTIALS[bug.potential], kind=bug.kind)
    ratio, _ = ratios(model)
    with pytest.raises(AssertionError):
        z_test(ratio, 1.0, ceiling=0.05)


def test_planted_dropped_weights_when_not_resampling_T6(monkeypatch) -> None:
    from smcguide import loop

    right = loop._resample

    def wrong(model, plan, state, fires):
        ancestors = right(model, plan, state, fires)
        log_w = torch.zeros_like(state.particles.log_w)
        state.particles = dataclasses.replace(state.particles, log_w=log_w)
        return ancestors

    trigger = sg.triggers.ess_below(0.9)
    z_test(ratios(build(P.Gradient()), trigger=trigger)[0], 1.0, ceiling=0.05)
    monkeypatch.setattr(loop, "_resample", wrong)
    with pytest.raises(AssertionError):
        z_test(ratios(build(P.Gradient()), trigger=trigger)[0], 1.0, ceiling=0.05)


def test_planted_cache_not_gathered_T6(monkeypatch) -> None:
    """The bug that a z-test alone misses: the variance explodes, hence the ceiling (T4)."""
    from smcguide.records import Particles

    right = Particles.take

    def wrong(self, ancestors, *log_w):
        taken = right(self, ancestors, *log_w)
        return Particles(taken.x, taken.log_w, taken.eve, self.carry)

    monkeypatch.setattr(Particles, "take", wrong)
    ratio, _ = ratios(build(P.Gradient()), trigger=sg.triggers.always())
    with pytest.raises(AssertionError):
        z_test(ratio, 1.0, ceiling=0.05)
