"""Occupancy of modes: against quadrature; lost modes are flagged, honest runs are not."""

import math
from dataclasses import replace

import pytest
import torch

import smcguide as sg
from smcguide.diagnostics.modes import find_modes, mode_occupancy, modes_agree
from smcguide.errors import InvalidInput
from smcguide.testing.quadrature import line_answer
from smcguide.testing.statistics import seed, z_test

F64 = torch.float64
CENTRES = torch.tensor([[-1.5], [1.5]], dtype=F64)
PRIOR = sg.priors.GaussianMixture(torch.tensor([0.3, 0.7]), CENTRES, scale=0.4)
COST = sg.costs.LinearGaussian(torch.eye(1, dtype=F64), torch.tensor([-0.3], dtype=F64), 1.5)
KERNEL, TIMES = sg.kernels.DDIM(eta=1.0), sg.grids.karras(20)


def run(systems=8, particles=200, trigger=None, record=(), stream="modes"):
    return sg.sample(
        PRIOR, COST, num_particles=particles, num_systems=systems, kernel=KERNEL, times=TIMES,
        potential=sg.potentials.Tweedie(), proposal=sg.proposals.Bootstrap(), trigger=trigger,
        record=record, seed=seed(stream), progress=False,
    )  # fmt: skip


class Half:
    """The cost on the left, and +inf on the right."""

    def __call__(self, x):
        return COST(x) + torch.where(x[..., 0] < 0, 0.0, torch.inf)


def left_share():
    """Occupancy of the left mode under the chain, by quadrature."""
    levels = [PRIOR.schedule.level(float(t)) for t in TIMES(PRIOR.schedule)]
    whole, left = (line_answer(PRIOR, KERNEL, levels, c)[0] for c in (COST, Half()))
    return math.exp(left - whole)


def collapsed(post, to):
    """The same run, but system s has kept only particles of mode to[s]."""
    x = post.x.clone()
    for s, k in enumerate(to):
        if k is not None:
            x[s] = CENTRES[k] + 0.2 * torch.randn(
                x[s].shape, generator=torch.Generator(), dtype=F64
            )
    return sg.Posterior(
        x, post.log_w, post.eves, post.log_z, post.bound, post.trace, post.times, post.recorded
    )


def test_occupancy_is_that_of_the_posterior_and_its_error_is_honest():
    post = run(200, trigger=sg.triggers.always())
    found = mode_occupancy(post, CENTRES)
    assert found.weights.shape == found.standard_error.shape == (200, 2)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(200, dtype=F64))
    z_test(found.weights[:, 0], left_share(), ceiling=0.01)
    claimed = found.standard_error[:, 0].square().nanmean().sqrt()
    assert 0.7 < float(claimed / found.weights[:, 0].std()) < 1.3


def test_answers_carry_the_axis_of_systems_only_where_systems_were_asked_for():
    found = mode_occupancy(run(None), CENTRES)
    assert found.weights.shape == found.standard_error.shape == (2,)


def test_modes_are_found_where_they_are_and_the_heaviest_comes_first():
    post = run()
    centres = find_modes(post, 2)
    assert torch.equal(centres, find_modes(post, 2))
    share = mode_occupancy(post.pooled(), centres).weights
    assert share[0] > share[1]
    near = find_modes(post, 2).sort(0).values
    torch.testing.assert_close(near, CENTRES, atol=0.25, rtol=0)


def test_a_particle_without_weight_is_in_no_mode():
    post = run(2)
    x = torch.cat([post.x, torch.full_like(post.x[:, :1], torch.nan)], 1)
    dead = torch.full_like(post.log_w[:, :1], -torch.inf)
    with_dead = sg.Posterior(
        x, torch.cat([post.log_w, dead], 1), torch.cat([post.eves, post.eves[:, :1]], 1),
        post.log_z, post.bound, post.trace, post.times,
    )  # fmt: skip
    torch.testing.assert_close(find_modes(with_dead, 2), find_modes(post, 2))


@pytest.mark.parametrize("trigger", [sg.triggers.ess_below(0.5), sg.triggers.always()])
def test_honest_replicates_agree(trigger):
    values = [modes_agree(run(8, 200, trigger, stream=f"agree {i}"), CENTRES) for i in range(8)]
    assert min(v.p_value for v in values) > 1e-4
    assert not any(bool(v.lost.any()) for v in values)
    draws = torch.tensor([v.observed_draws / v.claimed_draws for v in values])
    assert 0.4 < float(draws.median()) < 2.5


def test_a_system_that_lost_a_mode_is_flagged_and_named():
    found = modes_agree(collapsed(run(), [None, None, 1, *[None] * 5]), CENTRES)
    assert found.p_value < 1e-4
    assert found.lost.nonzero().tolist() == [[2, 0]]
    assert found.observed_draws < found.claimed_draws / 3


def test_systems_that_each_fell_into_one_mode_claim_much_and_show_one_draw():
    found = modes_agree(collapsed(run(), [0, 1, 1, 0, 1, 1, 1, 0]), CENTRES)
    assert found.p_value < 1e-9 and found.claimed_draws > 50
    assert 0.5 < found.observed_draws < 2


def test_systems_of_a_single_family_are_judged_by_their_ess():
    post = collapsed(run(), [0, 1, 1, 0, 1, 1, 1, 0])
    single = sg.Posterior(
        post.x,
        post.log_w,
        torch.zeros_like(post.eves),
        post.log_z,
        post.bound,
        post.trace,
        post.times,
    )
    assert modes_agree(single, CENTRES).p_value < 1e-9


def test_a_centre_without_particles_changes_nothing():
    post = run()
    more = torch.cat([CENTRES, torch.tensor([[90.0]], dtype=F64)])
    assert modes_agree(post, more).p_value == pytest.approx(modes_agree(post, CENTRES).p_value)


def test_bad_input_is_refused():
    post = run(2)
    with pytest.raises(InvalidInput, match="centres of shape"):
        mode_occupancy(post, torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match="num must be"):
        find_modes(post, 0)
    with pytest.raises(InvalidInput, match="num=9999"):
        find_modes(post, 9999)
    with pytest.raises(InvalidInput, match="one system"):
        modes_agree(run(None), CENTRES)
    with pytest.raises(InvalidInput, match="num must be a whole number"):
        find_modes(post, 1.5)
    with pytest.raises(InvalidInput, match="centres must be finite"):
        mode_occupancy(post, torch.tensor([[0.0], [torch.nan]]))
    x = post.x.clone()
    x[0, 3] = torch.nan
    broken = replace(post, x=x)
    with pytest.raises(InvalidInput, match="1 particles with weight are not finite"):
        find_modes(broken, 2)
    with pytest.raises(InvalidInput, match="1 particles with weight are not finite"):
        mode_occupancy(broken, CENTRES)
    with pytest.raises(InvalidInput, match="different observations"):
        modes_agree(replace(post, are_replicates=False), CENTRES)


def test_scalar_events_have_modes_like_vectors_of_one_number():
    post = run()
    scalar = replace(post, x=post.x[..., 0])
    torch.testing.assert_close(find_modes(scalar, 2), find_modes(post, 2)[:, 0])
    found, same = (mode_occupancy(p, c) for p, c in ((scalar, CENTRES[:, 0]), (post, CENTRES)))
    torch.testing.assert_close(found.weights, same.weights)
    assert modes_agree(scalar, CENTRES[:, 0]).p_value == modes_agree(post, CENTRES).p_value


def test_systems_count_alike_whatever_the_scale_of_their_weights():
    """Log-weights are known up to a constant of each system: one mode each, the lighter in system 1."""
    post = collapsed(run(2), [0, 1])
    shift = torch.tensor([[10.0], [0.0]], dtype=F64)
    shifted = replace(post, log_w=post.log_w + shift)
    torch.testing.assert_close(find_modes(shifted, 3), find_modes(post, 3))
