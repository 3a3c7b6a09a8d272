"""What may be claimed of a result: derived from the parts, carried along, saved."""

import math
from dataclasses import dataclass

import pytest
import torch
from test_exactness import build

import smcguide as sg
from smcguide.exactness import BIASED, EXACT, LIMIT, SEARCH, has_evidence, label, worst

P, Q = sg.proposals, sg.potentials
LABELS = [EXACT, LIMIT, BIASED, SEARCH]


def result(model, **kwargs):
    return sg.run(model, num_particles=16, progress=False, **kwargs)


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("j", range(4))
def test_the_label_of_a_whole_is_the_worst_of_its_parts(i: int, j: int) -> None:
    assert worst([LABELS[i], LABELS[j]]) == LABELS[max(i, j)]


def test_only_two_labels_have_evidence() -> None:
    assert [has_evidence(name) for name in LABELS] == [True, True, False, False]


def test_a_part_without_a_say_is_exact() -> None:
    assert label([object(), P.Bootstrap(), None]) == EXACT
    assert label([]) == EXACT


@dataclass(frozen=True)
class Sloppy(Q.Tweedie):
    """A potential that admits to be a heuristic."""

    exactness = BIASED


CASES = {
    "plain": (lambda: (build(P.DTM()), {}), EXACT),
    "never resampled": (lambda: (build(P.DTM()), {"trigger": sg.triggers.never()}), EXACT),
    "moves": (lambda: (build(move=sg.moves.PCN()), {}), EXACT),
    "a biased part": (lambda: (build(potential=Sloppy()), {}), BIASED),
    "Metropolis": (lambda: (build(), {"resampler": sg.resamplers.Metropolis(16)}), LIMIT),
    "restarts": (lambda: (build(move=sg.moves.Restart(1)), {}), LIMIT),
    "adaptive strength": (
        lambda: (build(potential=Q.Tempered(Q.Tweedie(1.0), Q.Adaptive(0.9))), {}),
        LIMIT,
    ),
    "fixed strength": (lambda: (build(potential=Q.Tempered(Q.Tweedie(1.0), 0.5)), {}), EXACT),
    "tempered start": (
        lambda: (build(start=sg.starts.TemperedStart(sg.moves.PCN())), {}),
        EXACT,
    ),
    "chains as a start": (
        lambda: (build(start=sg.starts.PsiStart(sg.moves.PCN())), {}),
        BIASED,
    ),
    "nested": (lambda: (sg.Candidates(build(), 3), {}), EXACT),
    "unweighted choice": (lambda: (sg.Candidates(build(), 3, weighted=False), {}), BIASED),
    "best choice": (lambda: (sg.Candidates(build(), 3, rule="argmax"), {}), SEARCH),
    "best of a biased part": (
        lambda: (sg.Candidates(build(potential=Sloppy()), 3, rule="argmax"), {}),
        SEARCH,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_label_follows_from_the_parts(case: str, tmp_path) -> None:
    make, expected = CASES[case]
    model, arguments = make()
    post = result(model, **arguments)
    assert post.exactness == expected
    assert f"exactness: {expected}\n" in post.summary()
    assert math.isnan(post.log_evidence) is not has_evidence(expected)
    running = post.trace["log_evidence"]
    assert bool(torch.isnan(running).all()) is not has_evidence(expected)
    post.save(tmp_path / "run.nc")
    assert sg.Posterior.load(tmp_path / "run.nc").exactness == expected


def test_unweighted_particles_are_biased_and_have_no_evidence() -> None:
    post = result(build(P.Gradient()))
    plain = post.unweighted()
    assert (post.exactness, plain.exactness) == (EXACT, BIASED)
    assert math.isnan(plain.log_evidence)
    torch.testing.assert_close(plain.mean(), post.x[0].mean(0))
    assert float(plain.ess) == pytest.approx(16)


def test_a_pool_keeps_the_label() -> None:
    post = result(sg.Candidates(build(), 3, rule="argmax"), num_systems=3)
    assert post.pooled().exactness == SEARCH


def test_a_pool_without_evidence_weighs_its_systems_alike() -> None:
    plain = result(build(P.Gradient()), num_systems=4).unweighted()
    pool = plain.pooled()
    assert math.isnan(pool.log_evidence)
    torch.testing.assert_close(pool.mean(), plain.x.flatten(0, 1).mean(0))


def test_where_log_z_is_withheld_so_is_its_error() -> None:
    post = result(sg.Candidates(build(), 3, rule="argmax"))
    assert math.isnan(post.log_evidence_se)
    assert post.log_evidence_method.startswith("withheld")


def test_a_collapsed_run_says_so() -> None:
    def sharp(x):
        return 1e4 * x.square().sum(1)

    post = result(guided(cost=sharp, potential=Q.Terminal()), trigger=sg.triggers.never())
    assert "warning: one particle has nearly all the weight" in post.summary()
    assert "warning" not in result(build()).summary()
    assert len(repr(post)) < 160


# ---- illegal combinations, refused at construction with the remedy --------------------------------

NONLINEAR = sg.costs.GaussianLikelihood(lambda x: x.square(), torch.ones(2).double(), 0.5)
PRIOR = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)


class Network(sg.priors.Prior):
    """A prior that knows its law at the noise end only."""

    schedule, event_shape = sg.schedules.VP(), (2,)
    dtype, device = torch.float64, torch.device("cpu")

    def denoise(self, x: torch.Tensor, t: float) -> torch.Tensor:
        raise AssertionError("the network was called")


def guided(prior=PRIOR, cost=NONLINEAR, **kwargs):
    parts = {
        "kernel": sg.kernels.DDPM(), "times": sg.grids.karras(5), "potential": Q.Tweedie(),
        "proposal": P.Bootstrap(),
    }  # fmt: skip
    return sg.GuidedDiffusion(prior, cost, **(parts | kwargs))


def stairs(x):
    return torch.floor(x.detach()[:, 0])


ILLEGAL = {
    "guided deterministic step": (
        lambda: guided(kernel=sg.kernels.DDIM(0.0), proposal=P.Gradient()),
        r"no noise in the step .* Use kernels\.DDIM\(eta=1\.0\)",
    ),
    "truncated start": (
        lambda: guided(prior=Network(), times=[0.3, 0.1, 0.0]),
        r"no weight can be formed. Start at 1",
    ),
    "gradient of a black box": (
        lambda: guided(cost=stairs, proposal=P.Gradient()),
        r"cannot be differentiated. Use .*proposals\.Bootstrap\(\)",
    ),
    "Laplace of a black box": (
        lambda: guided(cost=stairs, potential=Q.KrylovLaplace()),
        r"cannot be differentiated",
    ),
    "Jacobian of a non-linear measurement": (
        lambda: guided(potential=Q.MomentMatched()),
        r"MomentMatched.*linear",
    ),
    "projection of a non-linear measurement": (
        lambda: guided(proposal=P.Proximal()),
        r"linear measurement",
    ),
    "search with evidence": (
        lambda: sg.Candidates(guided(), 4, rule="argmax", weighted=True),
        r"no log Z exists. Use rule='softmax'",
    ),
    "choices that are adapted": (
        lambda: sg.Candidates(
            guided(potential=Q.Tempered(Q.Tweedie(1.0), Q.Adaptive(0.9))), 4
        ),
        r"freeze adaptive strengths",
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_combinations_are_refused_with_the_remedy(case: str) -> None:
    make, message = ILLEGAL[case]
    with pytest.raises(sg.InvalidInput, match=message):
        make()


def test_refusing_a_scheme_costs_no_network_call() -> None:
    model = guided(move=sg.moves.PCN(num_moves=3, waste_free=True))
    before = dict(model.evaluations)
    with pytest.raises(sg.InvalidInput, match="Killing"):
        sg.run(model, num_particles=16, resampler=sg.resamplers.Killing())
    assert dict(model.evaluations) == before


def test_a_truncated_start_is_fine_where_the_law_is_known() -> None:
    post = result(guided(times=[0.3, 0.1, 0.0]))
    assert bool(torch.isfinite(post.log_evidence))
