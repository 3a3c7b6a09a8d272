"""Figures show the numbers they claim to show."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import smcguide as sg
from smcguide import plots
from smcguide.plots import plot_inverse_problem, plot_posterior


def posterior(event, systems=None, num_particles=40):
    """A run that resamples at step 2, on N(0, 1) seen through its first coordinate."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, *event), scale=1.0)
    d = int(np.prod(event))
    cost = sg.costs.LinearGaussian(torch.eye(d)[:1], torch.ones(1), 0.5)
    model = sg.GuidedDiffusion(
        prior,
        cost,
        kernel=sg.kernels.DDIM(eta=1.0),
        times=sg.grids.karras(4),
        potential=sg.potentials.Tweedie(),
        proposal=sg.proposals.Bootstrap(),
    )
    trigger = sg.triggers.at_steps([1])
    return sg.run(model, num_particles=num_particles, num_systems=systems, trigger=trigger)


def parts(figure):
    """Axes of the upper and of the lower half."""
    top, bottom = figure.subfigs
    return top.axes, bottom.axes


def images(axes):
    return [np.ma.getdata(ax.images[0].get_array()) for ax in axes if ax.images]


def test_image_events_are_mean_spread_and_draws():
    post = posterior((1, 3, 4), systems=2)
    top, bottom = parts(plot_posterior(post))
    assert len(top) == 2 * 7 and len(bottom) == 3
    titles = [ax.get_title() for ax in top[:7]]
    assert titles == ["mean", f"s.d., 0 to {post.std().max():.2g}", *["draw"] * 5]
    assert [top[0].get_ylabel(), top[7].get_ylabel()] == ["system 0", "system 1"]
    shown = images(top)
    for s in range(2):
        np.testing.assert_allclose(shown[7 * s], post.mean()[s, 0].numpy())
        np.testing.assert_allclose(shown[7 * s + 1], post.std()[s, 0].numpy())
        np.testing.assert_array_equal(shown[7 * s + 4], post.draws(5)[s, 2, 0].numpy())


def test_grey_images_share_a_scale_and_spreads_another():
    top, _ = parts(plot_posterior(posterior((1, 3, 4), systems=2)))
    by_map = {}
    for ax in top:
        image = ax.images[0]
        by_map.setdefault(image.get_cmap().name, set()).add(image.get_clim())
    assert set(by_map) == {"gray", "viridis"}
    assert all(len(limits) == 1 for limits in by_map.values())
    assert by_map["viridis"].pop()[0] == 0


def test_without_systems_rows_have_no_label():
    top, bottom = parts(plot_posterior(posterior((2, 2))))
    assert len(top) == 7 and top[0].get_ylabel() == ""
    assert bottom[1].get_legend() is None


def test_three_channels_are_in_colour():
    top, _ = parts(plot_posterior(posterior((3, 4, 5))))
    assert [image.shape for image in images(top)] == [(4, 5, 3), (4, 5), *[(4, 5, 3)] * 5]
    assert images(top)[0].min() >= 0 and images(top)[0].max() <= 1


def test_at_most_four_systems_are_shown_and_it_says_so():
    figure = plot_posterior(posterior((1, 2, 2), systems=6))
    top, bottom = parts(figure)
    assert len(top) == 4 * 7 and len(bottom[0].lines) == 4
    assert figure.subfigs[0].get_suptitle() == (
        "Posterior, 40 particles per system, the first 4 of 6 systems"
    )


@pytest.mark.parametrize(("event", "titles"), [((2,), 2), ((9,), 6)])
def test_vector_events_are_marginals_of_up_to_six_coordinates(event, titles):
    top, _ = parts(plot_posterior(posterior(event, systems=2)))
    assert [ax.get_title() for ax in top] == [f"x[{i}]" for i in range(titles)]
    assert all(len(ax.patches) == 2 for ax in top)


def test_marginals_are_weighted():
    post = posterior((2,))
    log_w = torch.full_like(post.log_w, -torch.inf)
    log_w[0, 3], log_w[0, 5] = 0.0, np.log(3.0)
    x = post.x.clone()
    x[0, :, 0], x[0, 3, 0], x[0, 5, 0] = torch.nan, 0.0, 1.0  # the dead may be anything
    top, _ = parts(plot_posterior(dataclasses.replace(post, x=x, log_w=log_w)))
    density, edges, _ = top[0].patches[0].get_data()
    mass = density * np.diff(edges)
    np.testing.assert_allclose([mass[0], mass[-1], mass.sum()], [0.25, 0.75, 1.0])


def test_the_run_is_the_trace():
    post = posterior((2,), systems=2)
    _, (ess, evidence, survivors) = parts(plot_posterior(post))
    for s in range(2):
        np.testing.assert_array_equal(ess.lines[s].get_ydata(), post.trace["ess"][s])
        assert list(ess.lines[s].get_markevery()) == [2]  # resampled at the start of step 2
        np.testing.assert_array_equal(survivors.lines[s].get_ydata(), post.trace["unique_eves"][s])
    curves = [line for line in evidence.lines if line.get_label().startswith("system")]
    assert len(curves) == 2 and len(evidence.containers) == 2
    np.testing.assert_array_equal(curves[1].get_ydata(), post.trace["log_evidence"][1])


def test_unknown_standard_error_has_no_bar():
    post = posterior((2,))
    one_eve = dataclasses.replace(post, eves=torch.zeros_like(post.eves))
    _, (_, evidence, _) = parts(plot_posterior(one_eve))
    assert not evidence.containers


def test_inverse_problem_shows_truth_measurement_and_posterior():
    post = posterior((1, 4, 4), systems=2)
    truth = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
    seen = torch.where(torch.arange(4)[:, None] < 2, truth[:, 0], torch.nan)
    figure = plot_inverse_problem(post, truth, seen, row_labels=["a", "b"])
    assert isinstance(figure, Figure) and len(figure.axes) == 2 * 9
    titles = [ax.get_title() for ax in figure.axes[:9]]
    assert titles[:3] == ["truth", "measurement", "mean"] and titles[4:] == ["draw"] * 5
    assert [figure.axes[0].get_ylabel(), figure.axes[9].get_ylabel()] == ["a", "b"]
    shown = images(figure.axes)
    np.testing.assert_array_equal(shown[9], truth[1, 0])
    np.testing.assert_array_equal(shown[10], seen[1])
    grey = [ax.images[0] for i, ax in enumerate(figure.axes) if i % 9 != 3]
    assert {image.get_clim() for image in grey} == {(-1.0, 1.0)}


def test_a_measurement_of_numbers_is_shown_as_bars():
    post = posterior((1, 4, 4), systems=2)
    numbers = torch.arange(6.0).reshape(2, 3)
    figure = plot_inverse_problem(post, torch.zeros(2, 1, 4, 4), numbers)
    for s in range(2):
        heights = [bar.get_height() for bar in figure.axes[9 * s + 1].patches]
        assert heights == numbers[s].tolist()


def test_shapes_that_do_not_fit_are_refused():
    post, truth = posterior((1, 4, 4), systems=2), torch.zeros(2, 1, 4, 4)
    with pytest.raises(sg.InvalidInput, match=r"truth \(1, 4, 4\)"):
        plot_inverse_problem(post, truth[0], truth[:, 0])
    with pytest.raises(sg.InvalidInput, match=r"measurement \(1, 4, 4\)"):
        plot_inverse_problem(post, truth, truth[0])
    with pytest.raises(sg.InvalidInput, match="expected image events"):
        plot_inverse_problem(posterior((3,), systems=2), torch.zeros(2, 3), truth[:, 0])


def test_a_callers_figure_is_drawn_into_and_saved(tmp_path):
    figure = Figure(figsize=(6, 8), layout="constrained")
    left, right = figure.subfigures(2, 1)
    assert plot_posterior(posterior((2,)), figure=left) is left
    post = posterior((1, 2, 2), systems=1)
    plot_inverse_problem(post, torch.eye(2)[None, None], torch.ones(1, 2), figure=right)
    figure.savefig(tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"


def test_method_of_the_posterior():
    assert len(posterior((2,)).plot().subfigs) == 2


# ---- numbers that are none, and what is no posterior ---------------------------------------------


def test_histograms_show_what_is_finite():
    post = posterior((2,), systems=2)
    x = post.x.clone()
    x[0, 0, 0], x[0, 1, 0], x[0, :, 1], x[1, 2, 1] = torch.nan, torch.inf, torch.nan, -torch.inf
    top, _ = parts(plot_posterior(dataclasses.replace(post, x=x)))
    W, x = post.weights.numpy(), x.numpy()
    for i, ax in enumerate(top):
        lines = [patch for patch in ax.patches if hasattr(patch, "get_data")]
        drawn = [s for s in range(2) if np.isfinite(x[s, :, i]).any()]
        assert len(lines) == len(drawn)
        for s, line in zip(drawn, lines, strict=True):
            kept = np.isfinite(x[s, :, i])
            values, edges, _ = line.get_data()
            expected, _ = np.histogram(x[s, kept, i], edges, weights=W[s, kept], density=True)
            np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("event", [(), (2,), (16,), (3, 4)])
@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_posteriors_without_finite_values_say_so(event, what):
    post = posterior((2,) if event == () else event)
    x = post.x[..., 0] if event == () else post.x
    figure = plot_posterior(dataclasses.replace(post, x=torch.full_like(x, what)))
    figure.draw_without_rendering()
    if event in [(), (2,)]:
        assert all(
            [t.get_text() for t in ax.texts] == ["no finite values"] for ax in parts(figure)[0]
        )


PLOTS = {
    "plot_genealogy": plots.plot_genealogy,
    "plot_inverse_problem": lambda post: plot_inverse_problem(post, torch.zeros(1), torch.zeros(1)),
    "plot_pairs": plots.plot_pairs,
    "plot_posterior": plot_posterior,
    "plot_run": plots.plot_run,
    "plot_trajectory": plots.plot_trajectory,
    "plot_weights": plots.plot_weights,
    "animate": lambda post: plots.animate(post, "a.gif"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_chains_are_no_posterior(name):
    chains = object.__new__(sg.chains.Chains)
    with pytest.raises(sg.InvalidInput, match=f"{name}: expected a Posterior, got Chains"):
        PLOTS[name](chains)


@pytest.mark.parametrize("given", ["a posterior", "a table of numbers", "nothing"])
def test_evidence_needs_names_and_posteriors(given):
    wrong = {"a posterior": posterior((2,)), "a table of numbers": {"a": 1.0}, "nothing": {}}[given]
    with pytest.raises(sg.InvalidInput, match=r"plot_evidence.*expected"):
        plots.plot_evidence(wrong)


@pytest.mark.parametrize("labels", [["a"], ["a", "b", "c"]])
def test_each_system_has_a_label_or_none_has(labels):
    post = posterior((3, 4), systems=2)
    with pytest.raises(
        sg.InvalidInput, match="row_labels must hold one text for each of 2 systems"
    ):
        plot_inverse_problem(post, torch.zeros(2, 3, 4), torch.zeros(2, 1), row_labels=labels)
