"""Figures of runs show the history, the families and the weights of the run."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import smcguide as sg
from smcguide.plots import plot_evidence, plot_genealogy, plot_run, plot_weights
from smcguide.plots.genealogy import ALIVE, DEAD, chosen_lines, places


def posterior(systems=None, num_particles=40, record=("ancestors",), at=(1, 2)):
    """A run of 4 steps on N(0, I) in the plane, seen through its first coordinate."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    cost = sg.costs.LinearGaussian(torch.eye(2)[:1], torch.ones(1), 0.1)
    model = sg.GuidedDiffusion(
        prior,
        cost,
        kernel=sg.kernels.DDIM(eta=1.0),
        times=sg.grids.karras(4),
        potential=sg.potentials.Tweedie(),
        proposal=sg.proposals.Bootstrap(),
    )
    return sg.run(
        model,
        num_particles=num_particles,
        num_systems=systems,
        trigger=sg.triggers.at_steps(at),
        record=record,
    )


@pytest.fixture(scope="module")
def two():
    return posterior(2)


@pytest.fixture(scope="module")
def one():
    return posterior()


# ---- the run -------------------------------------------------------------------------------------


def test_run_panels_show_the_trace(two):
    ess, evidence, times, ancestors = plot_run(two)
    for s in range(2):
        again = np.flatnonzero(two.trace["resampled"][s]).tolist()
        assert again == [2, 3]
        np.testing.assert_array_equal(ess.lines[s].get_ydata(), two.trace["ess"][s])
        assert list(ess.lines[s].get_markevery()) == again
        np.testing.assert_array_equal(ancestors.lines[s].get_ydata(), two.trace["unique_eves"][s])
        chosen = ancestors.lines[2 + s]
        np.testing.assert_array_equal(chosen.get_xdata(), again)
        np.testing.assert_array_equal(chosen.get_ydata(), two.trace["unique_ancestors"][s, again])
        assert times.collections[s].get_positions() == again
        assert times.collections[s].get_lineoffset() == s
    curves = [line for line in evidence.lines if line.get_label().startswith("system")]
    np.testing.assert_array_equal(curves[1].get_ydata(), two.trace["log_evidence"][1])
    _, _, (bar,) = evidence.containers[1]
    low, high = bar.get_segments()[0][:, 1]
    half = float(two.log_evidence_se[1])
    np.testing.assert_allclose([low, high], float(two.log_evidence[1]) + np.array([-half, half]))


def test_lines_of_systems_differ_in_colour_and_in_style(two):
    first, second = plot_run(two)[0].lines
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()


def test_of_many_systems_the_first_four_are_drawn_and_the_resamplings_of_all():
    post = posterior(6, num_particles=8)
    ess, evidence, times, _ = plot_run(post)
    assert len(ess.lines) == 4 and len(times.collections) == 6
    assert evidence.get_legend().get_title().get_text() == "first 4\nof 6 systems"
    assert times.get_yticks().tolist() == [0, 5]


def test_a_temperature_has_a_panel_of_its_own(one):
    strength = torch.linspace(0, 1, 5, dtype=torch.float64)[None]
    nothing = torch.full((1, 5), torch.nan)
    trace = {**one.trace, "strength": strength, "acceptance": nothing}
    axes = plot_run(dataclasses.replace(one, trace=trace))
    assert len(axes) == 5 and axes[4].get_title().startswith("temperature")
    np.testing.assert_array_equal(axes[4].lines[0].get_ydata(), strength[0])


def test_a_run_without_evidence_says_why(one):
    evidence = plot_run(one.unweighted())[1]
    assert [text.get_text() for text in evidence.texts] == ["no log Z: biased"]


def test_axes_of_the_caller_are_used(two):
    axes = Figure().subplots(2, 2)
    assert list(plot_run(two, axes=axes)) == list(axes.ravel())
    ax = Figure().subplots()
    assert plot_genealogy(two, ax=ax) is ax and len(ax.collections) == 2
    assert plot_evidence({"a": two}, ax=(ax := Figure().subplots())) is ax
    assert plot_weights(two, ax=(ax := Figure().subplots())) is ax
    with pytest.raises(sg.InvalidInput, match=r"needs axes of shape \(4,\), got \(3,\)"):
        plot_run(two, axes=Figure().subplots(3, 1))


# ---- the genealogy -------------------------------------------------------------------------------

PARENTS = np.array([[0, 1, 2, 3], [2, 0, 0, 3], [1, 1, 0, 3]])  # of 3 generations of 4
ALL = np.ones(4, dtype=bool)


def test_children_stand_in_the_order_of_their_parents():
    np.testing.assert_array_equal(places(PARENTS), [[0, 1, 2, 3], [2, 0, 1, 3], [0, 1, 2, 3]])


def test_surviving_and_dead_lines_are_told_apart():
    alive, dead = chosen_lines(PARENTS, ALL)
    assert np.argwhere(alive).tolist() == [
        [0, 0], [0, 2], [0, 3], [1, 0], [1, 1], [1, 3], [2, 0], [2, 1], [2, 2], [2, 3],
    ]  # fmt: skip
    assert np.argwhere(dead).tolist() == [[0, 1], [1, 2]]
    alive, dead = chosen_lines(PARENTS, np.array([False, False, True, False]))
    assert np.argwhere(alive).tolist() == [[0, 2], [1, 0], [2, 2]]
    assert dead[1].tolist() == [False, True, True, True]


def test_genealogy_draws_every_child_once_and_the_dead_pale(two):
    ax = plot_genealogy(two, system=1)
    pale, dark = ax.collections
    assert [tuple(c.get_colors()[0][:3]) for c in (pale, dark)] == [to_rgb(DEAD), to_rgb(ALIVE)]
    assert len(pale.get_segments()) + len(dark.get_segments()) == 4 * 40
    parents = two.recorded["ancestors"][1].numpy()
    here, survivors = np.arange(40), []
    for k in range(4, 0, -1):
        survivors.append(len(np.unique(here)))
        here = parents[k][here]
    assert len(dark.get_segments()) == sum(survivors)
    eves = len(two.eves[1].unique())
    assert eves < 40 and ax.get_title() == f"System 1: {eves} of 40 initial particles survive"
    roots = {tuple(line[0]) for line in dark.get_segments() if line[0][0] == 0}
    assert len(roots) == eves


def test_genealogies_of_many_particles_are_thinned_and_say_so():
    ax = plot_genealogy(posterior(num_particles=300))
    ends = [line for line in ax.collections[1].get_segments() if line[1][0] == 4]
    assert len(ends) == 100 and ax.get_title().endswith("; 1 of 3 lines")


def test_lines_never_cross():
    generator = np.random.default_rng(0)
    parents = generator.integers(0, 9, (5, 9))
    at = places(parents)
    for k in range(1, 5):
        order = np.argsort(at[k])
        assert (np.diff(at[k - 1][parents[k][order]]) >= 0).all()


def test_genealogy_needs_recorded_ancestors_and_a_system(two):
    bare = dataclasses.replace(two, recorded={})
    with pytest.raises(sg.InvalidInput, match=r'record=\("ancestors",\)'):
        plot_genealogy(bare)
    with pytest.raises(sg.InvalidInput, match="no system 2; choose one of 0 to 1"):
        plot_genealogy(two, system=2)


# ---- weights and evidence ------------------------------------------------------------------------


def test_weights_are_summed_from_the_heaviest(one):
    log_w = torch.full((1, 40), -torch.inf, dtype=torch.float64)
    log_w[0, :3] = torch.tensor([0.1, 0.7, 0.2]).log()
    ax = plot_weights(dataclasses.replace(one, log_w=log_w))
    equal, share = ax.lines
    np.testing.assert_allclose(share.get_ydata()[:4], [0.7, 0.9, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(equal.get_ydata(), np.arange(1, 41) / 40)
    assert ax.get_title().startswith("ESS 1.9 of 40, Pareto k ")


def test_weights_of_several_systems_have_the_range_in_the_title(two):
    ax = plot_weights(two)
    low, high = two.ess.sort().values
    assert ax.get_title().startswith(f"ESS {low:.1f} to {high:.1f} of 40, Pareto k ")
    assert len(ax.lines) == 3


def test_evidences_have_bars_pools_and_a_truth(one, two):
    ax = plot_evidence({"one": one, "two": two, "none": one.unweighted()}, truth=-2.0)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["one", "two", "none\nno log Z"]
    points = [line for line in ax.lines if line.get_marker() in "os"]
    drawn = [float(line.get_xdata()[0]) for line in points]
    pool = two.pooled()
    expected = [one.log_evidence, *two.log_evidence, pool.log_evidence]
    np.testing.assert_allclose(drawn, [float(z) for z in expected])
    _, _, (bar,) = ax.containers[-1]
    half = float(np.diff(bar.get_segments()[0][:, 0])[0]) / 2
    np.testing.assert_allclose(half, float(pool.log_evidence_se))
    assert -2.0 in [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def test_an_unknown_error_has_no_bar(one):
    related = dataclasses.replace(one, eves=torch.zeros_like(one.eves))
    ax = plot_evidence({"a": related})
    assert not ax.containers[0].has_xerr and len(ax.lines) == 1


def test_evidences_of_many_systems_say_how_many_are_shown():
    ax = plot_evidence({"many": posterior(11, num_particles=8)})
    assert ax.get_yticklabels()[0].get_text() == "many\nfirst 8 of 11 systems"
    assert sum(line.get_marker() == "o" for line in ax.lines) == 8
    with pytest.raises(sg.InvalidInput, match="name one at least"):
        plot_evidence({})
