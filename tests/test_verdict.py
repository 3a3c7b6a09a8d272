"""The verdict finds what was broken on purpose, in real runs, and is silent on good ones.

How often it is not silent on good ones: `pytest -m slow tests/test_verdict.py`.
"""

import dataclasses
import re
from functools import cache

import pytest
import torch
from torch.distributions import LogNormal, Normal

import smcguide as sg
from smcguide.diagnostics.verdict import CHECKS, DOUBTFUL, NOTE, SERIOUS
from smcguide.diagnostics.verdict.history import parameters
from smcguide.diagnostics.verdict.limits import fewest_effective
from smcguide.diagnostics.verdict.population import few_particles, final_weights, heavy_tail
from smcguide.diagnostics.verdict.systems import disagreement
from smcguide.errors import InvalidInput
from smcguide.moves import MALA, PCN
from smcguide.parameter_moves import RandomWalk
from smcguide.potentials import InflatedGaussian, Terminal, Tweedie
from smcguide.potentials.tempered import Adaptive, Tempered
from smcguide.proposals import Bootstrap
from smcguide.resamplers import Multinomial
from smcguide.triggers import always, ess_below

F64 = torch.float64


def vectors(*rows):
    return torch.tensor(rows, dtype=F64)


# ---- problems ------------------------------------------------------------------------------------

NORMAL = sg.priors.GaussianMixture(torch.ones(1), vectors([0.0, 0.0]), scale=1.0)
TWO = sg.priors.GaussianMixture(
    torch.tensor([0.3, 0.7]), vectors([2.0, 0.0], [-1.0, 1.0]), scale=0.5
)
FOUR = sg.priors.GaussianMixture(
    torch.ones(4), 4 * vectors([1, 1], [1, -1], [-1, 1], [-1, -1]), scale=0.3
)
EASY = sg.costs.LinearGaussian(vectors([1.0, 0.5]), torch.tensor([0.5], dtype=F64), 0.3)
SHARP = sg.costs.LinearGaussian(torch.eye(2, dtype=F64), torch.tensor([1.6, 0.4], dtype=F64), 0.02)
SEVERAL = sg.costs.LinearGaussian(
    vectors([1.0, 0.5]), vectors([-1.0], [-0.5], [0.5], [1.0], [2.0]), 0.3, batched=True
)


def bars():
    """A data set of 4 x 4 images with one bright row each, and three of its pixels measured."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 4, (200,), generator=generator)
    noise = torch.randn(200, 1, 4, 4, generator=generator, dtype=F64)
    images = 2 * torch.eye(4, dtype=F64)[rows][:, None, :, None] - 1 + 0.2 * noise
    cost = sg.costs.LinearGaussian(torch.eye(16, dtype=F64)[:3], torch.ones(3, dtype=F64), 0.5)
    return sg.priors.EmpiricalPrior(images, 0.3), cost


def misfit(x0, sigma):
    return -Normal(x0, sigma[:, None]).log_prob(torch.tensor([0.3, -1.2], dtype=F64)).sum(-1)


UNKNOWN = sg.costs.ParametricFunction(misfit, {"sigma": LogNormal(0.0, 0.5)})


def distance(x):
    """A black box: no gradient."""
    return (x.detach()[:, 0] - 1).abs()


def barely(x):
    return 0.01 * x.square().sum(-1)


def tilt(x):
    return -2 * x[:, 0]


def stretch(x):
    """The posterior of N(0, 1) is N(0, 10): weights exp(0.45 x^2) have k = 0.9."""
    return -0.45 * x[:, 0].square()


def needle(x):
    """A weight of 2000 in place of 1 within 0.2 of (3, 3)."""
    return -((2000 * ((x - 3).square().sum(-1) < 0.04)).double() + 1).log()


def forbidden(x):
    return torch.where(x[:, 0] > 1.0, 0.0, torch.inf)


class Overflowing(sg.priors.GaussianMixture):
    """A network that fails at the last level, in a coordinate that the cost does not look at."""

    def denoise(self, x, t):
        out = super().denoise(x, t)
        if t <= self.schedule.t_min:
            out[:: max(1, len(x) // 8), 1] = torch.nan
        return out


HAYSTACK = sg.priors.GaussianMixture(
    torch.tensor([0.996, 0.004]), vectors([0.0, 0.0], [3.0, 3.0]), scale=torch.tensor([0.5, 0.05])
)
HELPLESS = {"proposal": Bootstrap(), "potential": Terminal()}

# ---- runs ----------------------------------------------------------------------------------------


def sample(prior, cost, seed=1, **options):
    if not options.keys() & {"num_steps", "times"}:
        options["num_steps"] = 50
    return sg.sample(prior, cost, seed=seed, progress=False, **options)


GOOD = {
    "defaults": (TWO, EASY, {}),
    "replicates, sharp data": (TWO, SHARP, {"num_systems": 4}),
    "several observations": (TWO, SEVERAL, {}),
    "images": (*bars(), {"num_systems": 4, "num_particles": 128, "num_steps": 20}),
    "unknown parameters": (TWO, UNKNOWN, {"num_systems": 4, "num_particles": 128, "num_steps": 20}),
    "moves": (TWO, SHARP, {"move": PCN(0.5), "num_particles": 256}),
    "black box": (TWO, distance, {"num_systems": 4}),
}

# what is broken: problem and options, finding and severity, and the options that repair it
BROKEN = {
    "no guidance": (TWO, SHARP, HELPLESS, "final weights", SERIOUS, {}),
    "overconfident values": (
        TWO, SHARP, {"potential": Tweedie(1.0), "num_systems": 4}, "bottleneck", SERIOUS,
        {"num_systems": 4},
    ),
    "target wider than the proposal": (
        NORMAL, stretch, HELPLESS | {"num_particles": 10_000, "num_steps": 10}, "heavy tail", DOUBTFUL,
        {"num_particles": 2000},
    ),
    "resampled to one family": (
        TWO, EASY,
        {"num_particles": 24, "num_steps": 150, "resampler": Multinomial(), "trigger": always()},
        "one family", DOUBTFUL, {"num_particles": 24, "num_steps": 150},
    ),
    "a needle in a haystack": (
        HAYSTACK, needle, HELPLESS | {"num_particles": 64, "num_systems": 64, "num_steps": 20},
        "evidence", SERIOUS, HELPLESS | {"num_particles": 8192, "num_systems": 4, "num_steps": 20},
    ),
    "modes lost by drift": (
        FOUR, barely,
        {"num_particles": 64, "num_systems": 4, "resampler": Multinomial(), "trigger": always()},
        "disagreement", SERIOUS, {"num_particles": 64, "num_systems": 4},
    ),
    "three steps": (TWO, EASY, {"num_steps": 3}, "coarse grid", DOUBTFUL, {"num_steps": 50}),
    "steered too hard": (
        TWO, EASY, sg.presets.dps(num_steps=50), "far proposal", SERIOUS,
        sg.presets.tds(100) | {"potential": InflatedGaussian()},
    ),
    "values that foresee nothing": (
        NORMAL, tilt, HELPLESS | {"num_particles": 1000}, "last step", DOUBTFUL, {"num_particles": 1000},
    ),
    "moves too long": (TWO, SHARP, {"move": MALA(5.0)}, "moves", DOUBTFUL, {"move": MALA(0.5)}),
    "parameters that never move": (
        TWO, UNKNOWN,
        {"parameter_move": RandomWalk((1e4,), num_moves=1), "trigger": always(), "num_steps": 30,
         "num_particles": 64, "resampler": Multinomial()},
        "parameters", SERIOUS, {"num_particles": 64, "num_steps": 30, "trigger": always()},
    ),
    "a hard constraint": (NORMAL, forbidden, HELPLESS, "dead particles", DOUBTFUL, None),
    "eight particles": (TWO, EASY, {"num_particles": 8}, "few particles", DOUBTFUL, {}),
    "data beyond the prior": (
        TWO, sg.costs.LinearGaussian(torch.eye(2, dtype=F64), torch.full((2,), 9.0, dtype=F64), 0.1),
        {"num_systems": 4}, "evidence", SERIOUS, None,
    ),
    "a network that overflows": (
        Overflowing(torch.ones(1), vectors([0.0, 0.0]), scale=1.0), tilt,
        HELPLESS | {"kernel": sg.kernels.DDPM()}, "broken numbers", SERIOUS, None,
    ),
}  # fmt: skip


@cache
def broken(name):
    prior, cost, options = BROKEN[name][:3]
    return sample(prior, cost, **options)


def alarms(verdict):
    return [finding for finding in verdict.findings if finding.severity != NOTE]


@pytest.mark.parametrize("name", GOOD)
def test_good_runs_pass(name):
    prior, cost, options = GOOD[name]
    post = sample(prior, cost, **options)
    verdict = post.verdict()
    assert not alarms(verdict), str(verdict)
    assert verdict.is_trusted
    if post.are_replicates and post.has_systems:
        pool = post.pooled().verdict()
        assert not alarms(pool) and "pooled" in pool.unchecked[0], str(pool)


@pytest.mark.slow
def test_good_runs_hardly_ever_alarm():
    """On seeds that no limit was set with; nothing serious, and one alarm in forty runs at the most."""
    count = 0
    for prior, cost, options in GOOD.values():
        for seed in range(1000, 1040):
            verdict = sample(prior, cost, **options, seed=seed).verdict()
            assert verdict.is_trusted, str(verdict)
            count += bool(alarms(verdict))
    assert count <= len(GOOD)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_runs_are_found(name):
    *_, expected, severity, _ = BROKEN[name]
    verdict = broken(name).verdict()
    found = {finding.name: finding.severity for finding in verdict.findings}
    assert found.get(expected) == severity, str(verdict)
    assert verdict.is_trusted == (SERIOUS not in found.values())


@pytest.mark.parametrize("name", [name for name, case in BROKEN.items() if case[-1] is not None])
def test_the_remedy_helps(name):
    prior, cost, _, expected, _, repaired = BROKEN[name]
    verdict = sample(prior, cost, **repaired).verdict()
    assert expected not in verdict.names, str(verdict)


def test_every_check_is_seen_to_work():
    seen = {name for case in BROKEN for name in broken(case).verdict().names} | {"claims"}
    assert len(seen) == len(CHECKS)


def test_a_bottleneck_is_found_behind_a_healthy_end():
    """log Z is off by hundreds of nats, the final weights are in order."""
    post = broken("overconfident values")
    exact = float(TWO.log_evidence(torch.eye(2, dtype=F64), torch.tensor([1.6, 0.4]), 0.02))
    assert float(post.log_evidence.max()) < exact - 50
    assert float(post.ess.min()) > 0.3 * 512
    assert "final weights" not in post.verdict().names


def test_a_far_proposal_is_blind_or_steered_too_hard():
    for name, cause in [("no guidance", "does not see"), ("steered too hard", "steered too hard")]:
        titles = [f.title for f in broken(name).verdict().findings if f.name == "far proposal"]
        assert len(titles) == 1 and cause in titles[0]


def test_only_weights_that_were_resampled_make_a_bottleneck():
    post = sample(TWO, EASY)
    ess, resampled = post.trace["ess"].clone(), torch.zeros(1, 51, dtype=torch.bool)
    ess[0, 20], ess[0, 30], resampled[0, 21] = 7.25, 1.5, True
    post = dataclasses.replace(post, trace={**post.trace, "ess": ess, "resampled": resampled})
    assert post.verdict().names == ("bottleneck",)
    evidence = post.verdict().findings[0].evidence
    assert evidence.startswith("ESS 7.25 of 512 when it was resampled after step 20 ")


def test_a_last_step_after_resampling_lost_what_resampling_gave():
    post = sample(TWO, EASY)
    ess, resampled = post.trace["ess"].clone(), torch.zeros(1, 51, dtype=torch.bool)
    ess[0, -2], ess[0, -1], resampled[0, -1] = 30.0, 45.0, True
    changed = {"ess": ess, "resampled": resampled}
    post = dataclasses.replace(post, trace={**post.trace, **changed})
    assert "last step" in post.verdict().names
    resampled[0, -1] = False
    assert "last step" not in post.verdict().names


def test_ignored_weights_are_serious_and_limits_a_note():
    verdict = sample(TWO, EASY).unweighted().verdict()
    assert verdict.names == ("claims",) and not verdict.is_trusted
    tempered = Tempered(InflatedGaussian(), Adaptive())
    verdict = sample(TWO, EASY, potential=tempered).verdict()
    assert verdict.names == ("claims",) and verdict.findings[0].severity == NOTE


def test_a_search_has_found_candidates():
    model = sg.model(TWO, EASY, num_steps=10, proposal=Bootstrap(), potential=Tweedie(1.0))
    found = sg.rollover(model, budget=60, num_chains=32, progress=False).verdict()
    assert found.findings[0].name == "claims" and found.findings[0].severity == SERIOUS
    assert "search" in found.findings[0].title


def test_the_worst_comes_first_and_reads_well():
    verdict = broken("no guidance").verdict()
    order = [(SERIOUS, DOUBTFUL, NOTE).index(finding.severity) for finding in verdict.findings]
    assert order == sorted(order) and len(set(order)) > 1
    text = str(verdict)
    assert text.startswith("Verdict: 3 serious, 2 doubtful.\nSERIOUS: ")
    assert "of 512" in text and "potentials.InflatedGaussian()" in text
    assert "Not checked: agreement between systems" in text
    assert repr(verdict).startswith("Verdict(3 serious, 2 doubtful: ")
    assert [set(row) for row in verdict.to_dicts()] == [
        {"severity", "title", "evidence", "remedy", "name"}
    ] * len(verdict.findings)


def test_silence_says_what_it_did_not_hear():
    verdict = sample(TWO, EASY).verdict()
    assert str(verdict).startswith("Verdict: nothing found.\nNot checked: agreement")
    assert repr(verdict) == "Verdict(nothing found)"


def test_remedies_name_what_exists():
    """Every call and argument in a remedy is one of this library's."""
    names, arguments = set(), set()
    for case in BROKEN:
        for finding in broken(case).verdict().findings:
            names |= set(re.findall(r"\b((?:[a-z_]+\.)?\w+(?:\.\w+)?)\((?!S)", finding.remedy))
            names |= set(re.findall(r"\b((?:potentials|proposals)\.\w+)", finding.remedy))
            arguments |= set(re.findall(r"\b(num_\w+)\b", finding.remedy))
    assert len(names) > 10 and arguments == {"num_steps", "num_systems", "num_particles"}
    for name in sorted(names - {"pooled", "sizes", "num_steps", "num_particles"}):
        where = sg
        for part in name.split("."):
            assert hasattr(where, part), name
            where = getattr(where, part)


def test_marginals_and_resampled_runs_can_be_judged():
    post = sample(TWO, UNKNOWN, num_particles=64, num_steps=20, trigger=ess_below(0.9))
    assert not alarms(post.marginal("sigma").verdict())


def test_single_particles_are_only_too_few():
    verdict = sample(TWO, EASY, num_particles=1, num_systems=4).verdict()
    assert set(verdict.names) <= {"few particles", "evidence"}, str(verdict)
    assert not verdict.is_trusted and "nobody can tell" in str(verdict)
    assert "1 particle per system" in str(verdict) and "1 particle is too few" in str(verdict)


def test_four_particles_are_doubtful_and_three_are_serious():
    found = {N: few_particles(made(torch.zeros(1, N))).severity for N in (1, 3, 4, 20)}
    assert found == {1: SERIOUS, 3: SERIOUS, 4: DOUBTFUL, 20: DOUBTFUL}


def test_only_posteriors_are_judged():
    with pytest.raises(InvalidInput, match="expected a Posterior, got Tensor"):
        sg.diagnostics.verdict(torch.zeros(3))


# ---- numbers made by hand ------------------------------------------------------------------------


def made(log_w, x=None, **parts):
    """A result with these log-weights (S, N), of one step."""
    S, N = log_w.shape
    log_w, log_z = log_w.double(), torch.zeros(S, dtype=F64)
    trace = {"ess": torch.full((S, 2), float(N)), "resampled": torch.zeros(S, 2, dtype=torch.bool)}
    x = torch.zeros(S, N, 1, dtype=F64) if x is None else x
    eves = torch.arange(N).expand(S, N)
    return sg.Posterior(x, log_w, eves, log_z, log_z, trace, torch.tensor([1.0, 0.0]), **parts)


@pytest.mark.parametrize(("lowest", "severity"), [(7.25, DOUBTFUL), (4.75, SERIOUS)])
def test_a_bottleneck_is_forgiven_more_readily_than_a_poor_end(lowest, severity):
    post = sample(TWO, EASY)
    ess, resampled = post.trace["ess"].clone(), torch.zeros(1, 51, dtype=torch.bool)
    ess[0, 20], resampled[0, 21] = lowest, True
    post = dataclasses.replace(post, trace={**post.trace, "ess": ess, "resampled": resampled})
    assert [finding.severity for finding in post.verdict().findings] == [severity]


def test_one_system_is_told_to_run_several_and_several_are_not():
    log_w = -1.2 * torch.log1p(-(torch.arange(512, dtype=F64) + 0.5) / 512)[None]
    assert "num_systems=4" in heavy_tail(made(log_w)).remedy
    assert "num_systems=4" not in heavy_tail(made(log_w.expand(2, -1))).remedy


def test_systems_that_are_single_points_are_infinitely_apart():
    x = torch.tensor([[-1.0], [1.0]], dtype=F64).expand(2, 40)[..., None]
    found = disagreement(made(torch.zeros(2, 40), x))
    assert found.severity == SERIOUS and found.evidence == "R-hat infinite between 2 systems."


def test_the_largest_tail_of_many_systems_is_allowed_more():
    """Sixteen systems draw the largest of sixteen noisy numbers; one draws one."""
    u = (torch.arange(512, dtype=F64) + 0.5) / 512
    log_w = -0.8 * torch.log1p(-u)[None]  # a Pareto tail with k = 0.8
    assert heavy_tail(made(log_w)).name == "heavy tail"
    assert heavy_tail(made(log_w.expand(16, -1))) is None


@pytest.mark.parametrize("N", [200, 30], ids=["more draws than coordinates", "fewer"])
def test_systems_are_compared_where_they_differ_most(N):
    """Of 64 directions, the leading one alone tells the systems apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, N, 64, generator=generator, dtype=F64)
    x[..., 5] += torch.tensor([[-20.0], [20.0]])
    found = disagreement(made(torch.zeros(2, N), x))
    assert found.severity == SERIOUS
    assert float(re.search(r"R-hat (\S+) between", found.evidence)[1]) > 1.6


def test_parameters_are_not_blamed_for_the_weights():
    """Eight particles with weight have eight different values: nothing but the weights is poor."""
    log_w = torch.full((1, 400), -torch.inf)
    log_w[:, :8] = 0
    values = torch.arange(400, dtype=F64)[None]
    post = made(log_w, parameters={"sigma": values})
    assert final_weights(post).severity == SERIOUS
    assert parameters(post) is None
    assert parameters(made(log_w, parameters={"sigma": values // 4})).severity == SERIOUS


def test_one_limit_for_effective_particles():
    assert [fewest_effective(N) for N in (4, 20, 100, 200, 1000)] == [1, 5, 10, 10, 50]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_cannot_be_normalised_are_serious(value):
    log_w = torch.zeros(2, 40)
    log_w[1, 0 if value != -torch.inf else slice(None)] = value
    found = made(log_w).verdict()
    assert found.names[0] == "broken numbers" and not found.is_trusted
    assert "in 1 of 2 systems" in found.findings[0].evidence
