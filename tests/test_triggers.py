"""When to resample: each rule on its own, and obeyed by a run."""

import math

import pytest
import torch

import smcguide as sg
from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.triggers import decide

F64 = torch.float64


def weights_of_ess(*ess, N=10):
    """Log-weights (S, N) with k equal living particles in system s, k = ess[s]."""
    rows = [[0.0] * k + [-math.inf] * (N - k) for k in ess]
    return torch.tensor(rows, dtype=F64)


def test_always_and_never_do_not_look_at_the_weights():
    log_w = weights_of_ess(1, 10)
    assert sg.triggers.always()(0, log_w) is True
    assert sg.triggers.never()(0, log_w) is False


def test_ess_below_decides_for_each_system():
    fires = sg.triggers.ess_below(0.5)(3, weights_of_ess(1, 4, 6, 10))
    assert fires.tolist() == [True, True, False, False]


def test_ess_below_one_fires_for_any_unequal_weights():
    slightly = weights_of_ess(10, 9)
    slightly[0, 0] += 0.1
    assert sg.triggers.ess_below(1.0)(0, slightly).tolist() == [True, True]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_ess_below_refuses_fractions_outside_zero_one(fraction):
    with pytest.raises(InvalidInput, match=r"fraction must be in \(0, 1\]"):
        sg.triggers.ess_below(fraction)


def test_at_steps_names_its_steps():
    trigger = sg.triggers.at_steps((0, 3))
    assert [k for k in range(6) if trigger(k, weights_of_ess(1))] == [0, 3]


def test_within_is_its_trigger_in_a_window_of_steps():
    log_w = weights_of_ess(1, 10)
    window = sg.triggers.within(sg.triggers.ess_below(0.5), 2, 4)
    fires = [torch.as_tensor(window(k, log_w)).expand(2).tolist() for k in range(6)]
    assert fires == [[2 <= k <= 4, False] for k in range(6)]
    assert window(1, log_w) is False  # the engine then leaves the weights alone altogether
    nested = sg.triggers.within(sg.triggers.within(sg.triggers.always(), 1, 3), 3, 9)
    assert [k for k in range(12) if nested(k, log_w)] == [3]
    listed = sg.triggers.within(sg.triggers.at_steps((0, 5)), 5, 5)
    assert [k for k in range(12) if listed(k, log_w)] == [5]


@pytest.mark.parametrize(("first", "last"), [(3, 2), (-1, 2), (0.2, 3), (0, 0.5), (0, None)])
def test_within_refuses_what_is_no_window(first, last):
    with pytest.raises(InvalidInput, match="whole numbers with 0 <= first <= last"):
        sg.triggers.within(sg.triggers.always(), first, last)


def test_within_refuses_what_is_no_trigger():
    with pytest.raises(InvalidInput, match=r"trigger must be a trigger, got 0\.5"):
        sg.triggers.within(0.5, 1, 2)


@pytest.mark.parametrize(
    ("trigger", "steps"),
    [
        (sg.triggers.always(), [1, 2, 3]),
        (sg.triggers.never(), []),
        (sg.triggers.at_steps((0, 2)), [1, 3]),
        (sg.triggers.ess_below(1e-9), []),
        (sg.triggers.ess_below(1.0), [1, 2, 3]),
        (sg.triggers.at_steps((3,)), []),
        (sg.triggers.within(sg.triggers.always(), 0, 1), [1, 2]),
        (sg.triggers.within(sg.triggers.ess_below(1.0), 2, 99), [3]),
        (lambda k, log_w: torch.tensor([k == 1, False]), [2]),
    ],
    ids=[
        "always",
        "never",
        "at_steps",
        "ess_below tiny",
        "ess_below one",
        "the step to data",
        "within",
        "within, to the end",
        "a function",
    ],
)
def test_a_run_resamples_when_the_trigger_says_so(trigger, steps):
    """Except before the step to data, which has no noise: copies would stay copies."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 1, dtype=F64), scale=1.0)
    model = sg.GuidedDiffusion(
        prior,
        lambda x: x[:, 0] ** 2,
        kernel=sg.kernels.DDPM(),
        times=sg.grids.uniform(4),
        potential=sg.potentials.Tweedie(0.5),
        proposal=sg.proposals.Bootstrap(),
    )
    result = sg.run(model, num_particles=20, num_systems=2, trigger=trigger, progress=False)
    fired = result.trace["resampled"][0].nonzero()[:, 0].tolist()
    assert fired == steps


def test_triggers_say_what_they_are():
    assert repr(sg.triggers.ess_below(0.3)) == "ess_below(fraction=0.3)"
    assert repr(sg.triggers.at_steps((1, 2))) == "at_steps(steps=(1, 2))"
    assert repr(sg.triggers.within(sg.triggers.always(), 1, 9)) == (
        "within(trigger=always(), first=1, last=9)"
    )


class Every(sg.triggers.ess_below):
    """At even steps only."""

    def __call__(self, step, log_w):
        return super().__call__(step, log_w) if step % 2 == 0 else False


def test_a_rule_made_of_another_one_is_obeyed():
    log_w = weights_of_ess(1, 10)
    ess = weights.ess(log_w)
    for trigger in (Every(), sg.triggers.within(Every(), 0, 9)):
        assert decide(trigger, 1, log_w, ess) is False
        assert decide(trigger, 2, log_w, ess).tolist() == [True, False]
    told = decide(sg.triggers.ess_below(), 0, log_w, ess.flip(0))
    assert told.tolist() == [False, True]
