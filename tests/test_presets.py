"""Presets: every published method runs, is weighted exactly, and does nothing at strength zero."""

import inspect
import math
from dataclasses import replace

import pytest
import torch

import smcguide as sg
from smcguide import presets
from smcguide.proposals import DDSMC, Bootstrap, Combined, Proximal, Spectral, StaticControl
from smcguide.testing import ProposalSuite, brute_force, gaussian_chain, generator, seed, z_test

F64 = torch.float64


# ---- every proposal keeps its promises, unbiased evidence among them -----------------------------


class Guided(ProposalSuite):
    """Fewer systems than usual for each of many methods."""

    ceilings = {"InflatedGaussian": 0.025, "Terminal": 0.025}  # noqa: RUF012
    num_systems = 1000


class TestThroughTheNetwork(Guided):
    def instances(self):
        weak = [presets.dps(0.3), presets.dps(0.1, loss="cost"), presets.freedom(0.3)]
        return [p["proposal"] for p in (*weak, presets.pigdm())]


class TestWithAGuideOfTheirOwn(Guided):
    def instances(self):
        guides = (presets.mmps(scale=0.3), presets.tmpd(0.2), presets.lgd_mc(3, 0.2))
        return [p["proposal"] for p in guides]


class TestOfTheCleanEstimate(Guided):
    def instances(self):
        return [p["proposal"] for p in (presets.mpgd(0.1), presets.dreamguider())]


class TestUniversalGuidance(Guided):
    def instances(self):
        return [presets.universal_guidance(0.02, 0.02, 2)["proposal"]]


class TestProximal(Guided):
    def instances(self):
        return [presets.diffpir(4.0)["proposal"], replace(presets.ddnm()["proposal"], trust=1.0)]


class TestSpectral(Guided):
    etas = (1.0,)  # the less noise the base has, the further the measured directions are from it

    def instances(self):
        gradient, _ = presets.mcg(0.1)["proposal"].parts
        mcg = Combined((gradient, Spectral(noiseless=True, trust=0.5)))
        return [presets.ddrm()["proposal"], mcg]


class TestDDSMC(Guided):
    def instances(self):
        return [presets.ddsmc()["proposal"]]


class TestStaticControl(Guided):
    def instances(self):
        return [
            StaticControl(0.5, noise="base", trust=0.3),
            StaticControl(1.0, 1.0, 0.02, solver="sgd", noise="base"),
        ]


class TestFreshNoise(Guided):
    etas = (1.0,)  # fresh noise is sigma_s wide, the base kernel is narrower with less eta

    def instances(self):
        return [StaticControl(1.0, 1.0, 0.02, solver="sgd")]


# ---- where a proposal has variances of its own ----------------------------------------------------

MEAN = torch.tensor([0.5, -0.3], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
GAUSSIAN = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE)
FIRST, SEEN, NOISE = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([1.4], dtype=F64), 0.5
ENTRY = sg.costs.LinearGaussian(
    torch.tensor([True, False]), torch.tensor([1.4, 0.0], dtype=F64), NOISE
)
TIMES = torch.tensor([1.0, 0.55, 0.3, 0.12, 0.0], dtype=F64)


class ForgetsVariances(sg.GuidedDiffusion):
    """Planted: the ratio of densities as if both kernels had the same variance."""

    def kernels(self, k, x, carry, guide_last=False):
        base, q = super().kernels(k, x, carry, guide_last)
        return replace(base, std=q.std), q


def on_an_entry(proposal, kind=sg.GuidedDiffusion):
    """Evidence and mean of 4000 systems relative to the exact chain's, and what they must be."""
    model = kind(
        GAUSSIAN, ENTRY, kernel=sg.kernels.DDIM(0.7), times=TIMES, proposal=proposal,
        potential=sg.potentials.InflatedGaussian(),
    )  # fmt: skip
    law = gaussian_chain(MEAN, COVARIANCE, model.levels, eta=0.7)
    post = sg.run(model, num_particles=32, num_systems=4000, seed=seed("entry"), progress=False)
    ratio = torch.exp(post.log_evidence - law.log_evidence(FIRST, SEEN, NOISE))[:, None]
    truth = law.posterior(FIRST, SEEN, NOISE).mean
    return torch.cat([ratio, ratio * post.mean()], 1), torch.cat([torch.ones(1), truth])


@pytest.mark.parametrize(
    "proposal",
    [Spectral(trust=0.5), Spectral(0.5, trust=0.5), Spectral(noiseless=True, trust=0.5), DDSMC()],
    ids=repr,
)
def test_variances_of_single_entries_are_weighted_exactly(proposal):
    z_test(*on_an_entry(proposal), ceiling=0.03)
    with pytest.raises(AssertionError, match="z_test"):
        z_test(*on_an_entry(proposal, ForgetsVariances), ceiling=0.03)


# ---- strength zero, and whole runs ----------------------------------------------------------------

MODES = sg.priors.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[0.8, -0.4], [-0.7, 0.6]], dtype=F64), scale=0.4
)
OFF = {
    "dps": presets.dps(0.0),
    "dps, cost": presets.dps(0.0, loss="cost"),
    "pigdm": presets.pigdm(0.0),
    "tmpd": presets.tmpd(0.0),
    "mmps": presets.mmps(scale=0.0),
    "lgd_mc": presets.lgd_mc(scale=0.0),
    "freedom": presets.freedom(0.0),
    "universal guidance": presets.universal_guidance(0.0, 0.0),
    "mpgd": presets.mpgd(0.0),
    "dreamguider": presets.dreamguider(0.0),
    "diffpir": presets.diffpir(math.inf),
    "red_diff": presets.red_diff()
    | {
        "proposal": StaticControl(1.0, 1.0, 0.0, solver="sgd")
    },  # mu = D, noise as the base kernel's
    "ndtm": presets.ndtm(terminal_weight=0.0),
}


def path(preset):
    """States at the end and log-weights of a run whose every step has the same noise."""
    parts = {name: part for name, part in preset.items() if name not in ("trigger", "resampler")}
    model = sg.GuidedDiffusion(MODES, ENTRY, **parts | {"times": TIMES})
    moved = model.initial((1, 8), generator("start"))
    log_w = moved.log_g
    for k in range(model.num_steps):
        z = torch.randn(moved.x.shape, generator=generator(f"step {k}"), dtype=F64)
        own = model.draw_noise(moved.x, generator("own"))
        moved = model.advance(k, moved.x, moved.carry, z, own)
        log_w = log_w + moved.log_g
    return moved.x, log_w


@pytest.mark.parametrize("name", OFF)
def test_strength_zero_is_the_unguided_sampler_B42(name):
    """For the same noise, in every step; at strength one the paths differ."""
    off, plain = path(OFF[name]), path(OFF[name] | {"proposal": Bootstrap()})
    torch.testing.assert_close(off, plain, rtol=0, atol=1e-9)
    on, _ = path(getattr(presets, name.split(",")[0].replace(" ", "_"))())
    assert float((on - plain[0]).abs().max()) > 1e-3


def made_in(*rooms):
    """The presets written in these files, by name."""
    homes = {f"smcguide.presets.{room}" for room in rooms}
    functions = inspect.getmembers(presets, inspect.isfunction)
    return {name: make for name, make in functions if make.__module__ in homes}


BASELINES = made_in("guidance", "estimates")
EVERY = BASELINES | made_in("particles", "adapted")
KEYS = {"proposal", "potential", "kernel", "times", "resampler", "trigger", "move", "start"}


@pytest.mark.parametrize("name", EVERY)
def test_every_preset_runs_and_names_its_source(name):
    preset = EVERY[name](num_steps=6)
    assert set(preset) <= KEYS
    assert any(source in EVERY[name].__doc__ for source in ("arXiv", "ICLR 2023", "ICML 2023"))
    assert name in presets.__all__
    post = sg.sample(MODES, ENTRY, num_particles=16, num_systems=2, progress=False, **preset)
    assert post.x.shape == (2, 16, 2)
    has_evidence = post.exactness in ("exact", "exact in the limit")
    assert bool(torch.isfinite(post.log_evidence).all()) is has_evidence
    assert "object at 0x" not in repr(preset), "settings must read the same in every run"


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_unweighted_independent_samplers(name):
    preset = BASELINES[name]()
    assert preset["trigger"] == sg.triggers.never()
    assert preset["potential"] == sg.potentials.Terminal()


@pytest.mark.parametrize("name", BASELINES)
def test_chunks_of_particles_change_nothing(name):
    preset = BASELINES[name](num_steps=4) | {"progress": False, "num_particles": 8}
    whole, parts = (sg.sample(MODES, ENTRY, chunk_size=n, **preset) for n in (None, 3))
    torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.log_weights, whole.log_weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "preset",
    [
        presets.freedom(0.3), presets.diffpir(4.0, 0.3), presets.ddrm(), presets.red_diff(0.3),
        presets.ddnm() | {"proposal": Proximal(0.0, "kept", trust=0.7)},
    ],
    ids=["freedom", "diffpir", "ddrm", "red_diff", "ddnm"],
)  # fmt: skip
def test_evidence_of_the_renoising_chain_is_brute_force_s(preset):
    """With the kernels of these papers, on a mixture; weighted and resampled."""
    preset = preset | {"times": TIMES, "trigger": sg.triggers.ess_below(0.7)}
    levels = [MODES.schedule.level(float(t)) for t in TIMES]
    truth = brute_force(MODES, preset["kernel"], levels, ENTRY, 4 * 10**5)
    assert truth.se < 0.004
    preset["potential"] = sg.potentials.InflatedGaussian()
    post = sg.sample(
        MODES, ENTRY, num_particles=32, num_systems=1000, seed=seed("renoise"), progress=False,
        **preset,
    )  # fmt: skip
    z_test(torch.exp(post.log_evidence - truth.log_z), 1.0, ceiling=0.05, truth_se=truth.se)


def test_renoise_renews_a_share_of_the_noise():
    """Its marginal for a known x_0, and DDIM(0) where nothing is renewed."""
    t, s = MODES.schedule.level(0.5), MODES.schedule.level(0.3)
    x0 = torch.full((1, 20_000, 1), 0.7, dtype=F64)
    eps, z = (torch.randn(x0.shape, generator=generator(n), dtype=F64) for n in ("eps", "z"))
    x = t.alpha * x0 + t.sigma * eps
    for share in (0.0, 0.3, 1.0):
        law = sg.kernels.Renoise(share).step(x, x0, t, s)
        assert law.std == pytest.approx(math.sqrt(share) * s.sigma)
        noise = (law.sample(z) - s.alpha * x0)[0] / s.sigma
        z_test(torch.cat([noise, noise**2], 1), torch.tensor([0.0, 1.0]), ceiling=0.02)
    ddim = sg.kernels.DDIM(0.0).step(x, x0, t, s)
    torch.testing.assert_close(sg.kernels.Renoise(0.0).step(x, x0, t, s).mean, ddim.mean)
