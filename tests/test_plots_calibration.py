"""Figures of calibration: pixels of one problem, ranks and coverage of many."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import binom

import smcguide as sg
from smcguide.plots import plot_coverage, plot_inverse_problem, plot_posterior, plot_ranks
from smcguide.plots.inverse_problem import ranks_of_truth, standardised_error


def posterior(x, log_w=None):
    """A result with particles x (S, N, *E)."""
    S, N = x.shape[:2]
    log_w = torch.zeros(S, N, dtype=torch.float64) if log_w is None else log_w
    flat = {n: torch.ones(S, 2) for n in ("ess", "log_evidence", "unique_eves")}
    trace = {**flat, "resampled": torch.zeros(S, 2, dtype=torch.bool)}
    eves, log_z = torch.arange(N).expand(S, N), torch.zeros(S, dtype=torch.float64)
    return sg.Posterior(x, log_w, eves, log_z, log_z, trace, torch.tensor([1.0, 0.0]))


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---- one inverse problem -------------------------------------------------------------------------


def test_ranks_and_errors_against_hand_counts():
    x = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    log_w = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double().log()
    post = posterior(x, log_w)
    ranks = [float(ranks_of_truth(post, torch.tensor([[t]]))) for t in (-1.0, 1.5, 2.0, 9.0)]
    np.testing.assert_allclose(ranks, [0, 0.3, 0.3 + 0.15, 1], atol=1e-7)
    error = standardised_error(post, torch.tensor([[4.0]]))
    np.testing.assert_allclose(float(error), 2.0, rtol=1e-6)  # mean 2, s.d. 1
    certain = posterior(torch.ones(1, 4, 2))
    error = standardised_error(certain, torch.tensor([[1.0, 2.0]]))
    assert error.tolist() == [[0.0, torch.inf]]


def test_calibration_of_pixels_has_a_map_and_a_histogram():
    post, truth = posterior(normal(2, 50, 1, 4, 6)), normal(2, 1, 4, 6, seed=1)
    figure = plot_inverse_problem(post, truth, torch.zeros(2, 3), calibration=True)
    assert len(figure.axes) == 2 * 11
    errors, ranks = figure.axes[20], figure.axes[21]
    assert figure.axes[9].get_title() == "|error| / s.d.\n0 to 4"
    expected = standardised_error(post, truth)[1, 0].clamp(max=4)
    np.testing.assert_allclose(np.ma.getdata(errors.images[0].get_array()), expected)
    assert errors.images[0].get_clim() == (0, 4)
    density, edges, _ = ranks.patches[0].get_data()
    counts = np.histogram(ranks_of_truth(post, truth)[1], 10, range=(0, 1))[0]
    np.testing.assert_allclose(density * np.diff(edges) * 24, counts)


def test_signals_are_curves_with_their_truth():
    post, truth = posterior(normal(2, 60, 20)), normal(2, 20, seed=1)
    data = torch.tensor([[1.0, torch.nan, 3.0]] * 2)
    figure = plot_inverse_problem(post, truth, data, row_labels=["a", "b"])
    assert len(figure.axes) == 4 and figure.axes[2].get_ylabel() == "b"
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), data[1])
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[3].lines}
    np.testing.assert_array_equal(lines["truth"], truth[1])
    np.testing.assert_array_equal(lines["mean"], post.mean()[1])
    assert len(figure.axes[3].lines) == 1 + 5 + 1
    low, high = post.quantile([0.05, 0.95])[:, 1]
    corners = figure.axes[3].collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(corners[:, 1].min(), low.min())
    np.testing.assert_allclose(corners[:, 1].max(), high.max())


def test_short_vectors_are_intervals_with_their_ranks():
    post, truth = posterior(normal(1, 60, 3)), normal(1, 3, seed=1)
    figure = plot_inverse_problem(post, truth, torch.zeros(1, 2), calibration=True)
    _, shown, errors, ranks = figure.axes
    _, _, (bars,) = shown.containers[0]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends.T, post.quantile([0.05, 0.95])[:, 0])
    np.testing.assert_array_equal(shown.lines[-1].get_ydata(), truth[0])
    np.testing.assert_allclose(errors.lines[0].get_ydata(), standardised_error(post, truth)[0])
    np.testing.assert_allclose(ranks.lines[0].get_ydata(), ranks_of_truth(post, truth)[0])


def test_of_many_problems_the_first_eight_are_shown():
    post = posterior(normal(30, 5, 2, 2))
    figure = plot_inverse_problem(post, torch.zeros(30, 2, 2), torch.zeros(30, 2))
    assert len(figure.axes) == 8 * 9 and figure.get_suptitle() == "first 8 of 30 systems"


def test_vectors_need_measurements_of_numbers():
    with pytest.raises(sg.InvalidInput, match=r"vectors \(d,\) with a truth"):
        plot_inverse_problem(posterior(normal(2, 5, 20)), torch.zeros(2, 20), torch.zeros(2, 4, 4))
    with pytest.raises(sg.InvalidInput, match=r"events \(\)"):
        plot_inverse_problem(posterior(normal(2, 5)), torch.zeros(2), torch.zeros(2, 4))


def test_the_posterior_of_a_signal_is_its_curve_unless_told_otherwise():
    post = posterior(normal(6, 30, 20))
    top = plot_posterior(post).subfigs[0].axes
    assert len(top) == 4 and [ax.get_ylabel() for ax in top[:2]] == ["system 0", "system 1"]
    np.testing.assert_array_equal(top[3].lines[-1].get_ydata(), post.mean()[3])
    np.testing.assert_array_equal(top[3].lines[1].get_ydata(), post.draws(5)[3, 1])
    assert len(plot_posterior(post, signal=False).subfigs[0].axes) == 6
    short = dataclasses.replace(post, x=post.x[..., :3])
    assert len(plot_posterior(short, signal=True).subfigs[0].axes) == 4


def test_missing_pixels_of_colour_images_show_the_background():
    post, truth = posterior(normal(1, 5, 3, 4, 4)), normal(1, 3, 4, 4)
    truth = truth.clamp(-1, 1)
    figure = plot_inverse_problem(post, truth, torch.zeros(1, 2))
    assert figure.axes[0].images[0].get_array().shape == (4, 4, 3)
    lost = torch.where(torch.arange(4) < 2, truth, torch.nan)
    ax = Figure().subplots()
    sg.plots.panels.image(ax, lost, (-1.0, 1.0))
    np.testing.assert_array_equal(ax.images[0].get_array()[..., 3], [[1, 1, 0, 0]] * 4)


# ---- ranks and coverage --------------------------------------------------------------------------


def ranks(values, n, names=None):
    values = torch.as_tensor(values)
    names = names or tuple(f"f{i}" for i in range(values.shape[1]))
    return SimpleNamespace(ranks=values, num_draws=n, names=names)


def test_rank_histograms_count_in_units_of_what_is_expected():
    values = np.random.default_rng(0).integers(0, 20, (200, 2))
    axes = plot_ranks(ranks(values, 19, ("mean", "norm")))
    assert [ax.get_title() for ax in axes] == ["mean", "norm"]
    band, curve = axes[1].patches
    height, edges, _ = curve.get_data()
    assert edges.tolist() == np.linspace(0, 20, 11).tolist()
    counts = [((values[:, 1] // 2) == b).sum() for b in range(10)]
    np.testing.assert_allclose(height, np.array(counts) / 20)
    high, _, low = band.get_data()
    # Bonferroni: each of 10 bins keeps 99.5 %
    np.testing.assert_allclose(high, binom.ppf(0.9975, 200, 0.1) / 20)
    np.testing.assert_allclose(low, binom.ppf(0.0025, 200, 0.1) / 20)


def test_bins_of_whole_ranks_are_fair_where_they_cannot_be_equal():
    values = np.tile(np.arange(23), 20)[:, None]  # perfectly uniform on 0, ..., 22
    height, edges, _ = plot_ranks(ranks(values, 22))[0].patches[1].get_data()
    assert set(np.diff(edges)) == {1.0, 2.0}
    np.testing.assert_allclose(height, 1.0)


def test_the_other_view_is_the_difference_of_distribution_functions():
    values = np.random.default_rng(0).integers(0, 8, (60, 1))
    ax = plot_ranks(ranks(values, 7), ecdf=True)[0]
    levels = np.arange(1, 8) / 8
    np.testing.assert_allclose(ax.lines[0].get_xdata(), levels)
    below = np.array([(values < r).mean() for r in range(1, 8)])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), below - levels)


def test_a_broken_posterior_leaves_the_bands_and_an_exact_one_does_not():
    generator = np.random.default_rng(1)
    exact = generator.integers(0, 20, 300)
    narrow = (20 * generator.beta(0.4, 0.4, 300)).astype(int).clip(max=19)
    shown = ranks(np.stack([exact, narrow], 1), 19)

    def leaves(ax, ecdf):
        if ecdf:
            inside = (
                ax.collections[0]
                .get_paths()[0]
                .contains_points(np.stack(ax.lines[0].get_data(), -1), radius=1e-6)
            )
            return not inside.all()
        high, _, low = ax.patches[0].get_data()
        height = ax.patches[1].get_data()[0]
        return bool(((height > high) | (height < low)).any())

    for ecdf in (False, True):
        assert [leaves(ax, ecdf) for ax in plot_ranks(shown, ecdf=ecdf)] == [False, True]


def test_of_many_statistics_twelve_are_shown_and_it_says_so():
    axes = plot_ranks(ranks(np.zeros((5, 64), dtype=int), 3))
    assert len(axes) == 12
    assert (
        axes[0].figure.get_suptitle() == "5 truths, ranks among 3 draws, first 12 of 64 statistics"
    )
    own = Figure().subplots(1, 2)
    assert list(plot_ranks(ranks(np.zeros((5, 2), dtype=int), 3), axes=own)) == list(own)


def test_ranks_out_of_range_are_refused():
    with pytest.raises(sg.InvalidInput, match="from 0 to num_draws = 9"):
        plot_ranks(ranks(np.full((5, 1), 10), 9))
    with pytest.raises(sg.InvalidInput, match=r"got shape \(5,\)"):
        plot_ranks(SimpleNamespace(ranks=torch.zeros(5), num_draws=9, names=("a",)))


def test_coverage_is_drawn_with_the_diagonal_and_a_band():
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    found = torch.stack([levels, levels**2], 1)
    result = SimpleNamespace(levels=levels, coverage=found, names=("a", "b"), num_sets=40)
    ax = Figure().subplots()
    assert plot_coverage(result, ax=ax) is ax
    diagonal, first, second = ax.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    np.testing.assert_array_equal(first.get_ydata(), levels)
    np.testing.assert_array_equal(second.get_ydata(), levels**2)
    assert [first.get_label(), second.get_label()] == ["a", "b"]
    corners = ax.collections[0].get_paths()[0].vertices
    at_half = corners[np.isclose(corners[:, 0], 0.5), 1]
    # at least as wide as the interval for this level alone, and not absurdly wide
    assert at_half.min() <= binom.ppf(0.025, 40, 0.5) / 40 <= 0.5 <= at_half.max() <= 0.75
    bad = SimpleNamespace(levels=levels, coverage=found.T, names=("a",), num_sets=40)
    with pytest.raises(sg.InvalidInput, match=r"got \(3,\) and \(2, 3\)"):
        plot_coverage(bad)


def test_ranks_that_are_no_numbers_are_refused():
    values = torch.full((30, 1), 4.0)
    values[3] = torch.nan
    ranks = SimpleNamespace(ranks=values, num_draws=9, names=("x",))
    with pytest.raises(sg.InvalidInput, match="from 0 to num_draws = 9"):
        plot_ranks(ranks)
