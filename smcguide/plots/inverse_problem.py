"""Pictures of inverse problems: truth, data and posterior, and whether the posterior covers the truth.

Two views of the calibration of pixels. The error of the mean in units of the posterior standard
deviation should be about 1, and beyond 3 hardly anywhere. The rank of a true pixel among its weighted
particles, sum_i W_i 1[x_i < truth], should be uniform over the pixels: heaps at 0 and 1 say that the
posterior is too narrow, a hill in the middle that it is too wide. Pixels of one image depend on each
other, so neither is a test; `smcguide.diagnostics` has tests, which need many images.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput
from smcguide.plots import panels
from smcguide.plots.posterior import NUM_DRAWS, band, curves_of, images, with_systems
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_ROWS = 8

_PANEL, _LARGEST, _BINS = 0.95, 4, 10


def plot_inverse_problem(
    posterior: Posterior,
    truth: Tensor,
    measurement: Tensor,
    *,
    row_labels: Sequence[str] = (),
    calibration: bool = False,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure | SubFigure":
    """One row for each of the first eight systems: truth, measurement, and the posterior.

    Of images (..., H, W) the posterior is shown as mean, standard deviation and five draws. Of vectors
    (d,) it shares one panel with the truth: mean, 90 % band and five draws, or for up to 12 coordinates
    mean and 90 % intervals.

    Arguments:
        posterior: of events (..., H, W) or (d,), S systems.
        truth: (S, *E); its range is the grey scale of the figure.
        measurement: (S, H', W') images on the scale of the truth, NaN where nothing was observed;
            or (S, m) numbers, shown as bars, or as points beside vectors.
        row_labels: one text per system; none by default.
        calibration: also show how well the posterior knows its error: |mean - truth| / s.d., and a
            histogram over the coordinates of the rank of the truth among the particles.
        figure: where to draw; default a new figure.

    Raises:
        InvalidInput: for shapes, or a number of labels, that do not fit.
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_inverse_problem", posterior)
    S, event = len(posterior.x), tuple(posterior.x.shape[2:])
    most = 3 if panels.is_image(event) else 2
    fits = truth.shape == (S, *event) and measurement.ndim in range(2, most + 1)
    if not event or not fits or len(measurement) != S:
        raise InvalidInput(
            f"plot_inverse_problem: {S} systems with events {event}, truth {tuple(truth.shape)}, "
            f"measurement {tuple(measurement.shape)}; expected image events (..., H, W) with a truth "
            "(S, ..., H, W) and a measurement (S, H', W') or (S, m), or vectors (d,) with a truth "
            "(S, d) and a measurement (S, m)."
        )
    if len(row_labels) not in (0, S):
        raise InvalidInput(
            f"plot_inverse_problem: row_labels must hold one text for each of {S} systems, got "
            f"{len(row_labels)}."
        )
    rows = min(S, MOST_ROWS)
    if panels.is_image(event):
        count = 4 + NUM_DRAWS + 2 * calibration
        figure = figure or panels.new_figure(count * _PANEL, rows * _PANEL + 0.3)
        axes = figure.subplots(rows, count, squeeze=False)
        titles = _image_rows(axes, posterior, truth, measurement)
    else:
        wide = ([2, 3, 2, 1] if panels.is_curve(event, None) else [1, 2, 1, 1])[
            : 2 + 2 * calibration
        ]
        figure = figure or panels.new_figure(1.2 + 1.3 * sum(wide), rows * 1.4 + 0.4)
        axes = figure.subplots(rows, len(wide), squeeze=False, width_ratios=wide)
        titles = _vector_rows(axes, posterior, truth, measurement)
    if calibration:
        titles += _calibration(axes[:, -2:], posterior, truth)
    panels.label(axes, titles, row_labels)
    if rows < S:
        figure.suptitle(panels.first_of(rows, S), fontsize=panels.TEXT + 1)
    return figure


def standardised_error(posterior: Posterior, truth: Tensor) -> Tensor:
    """|mean - truth| / s.d. of every coordinate, (S, *E) float64; infinite where a certain mean is
    wrong, zero where it is right."""
    mean, std = (with_systems(posterior, a) for a in (posterior.mean(), posterior.std()))
    error = (mean - truth.to(mean)).abs()
    return torch.where(error > 0, error / std, 0.0)


def ranks_of_truth(posterior: Posterior, truth: Tensor) -> Tensor:
    """sum_i W_i (1[x_i < truth] + 1[x_i = truth] / 2) of every coordinate, (S, *E) float64."""
    true = truth.to(posterior.x)[:, None]
    below = (posterior.x < true).double() + (posterior.x == true).double() / 2
    return weights.mean(below, posterior.log_w)


def _image_rows(
    axes: np.ndarray, posterior: Posterior, truth: Tensor, measurement: Tensor
) -> list[str]:
    limits = float(truth.min()), float(truth.max())
    for row, image, seen in zip(axes, truth, measurement, strict=False):
        panels.image(row[0], image, limits)
        if seen.ndim == 1:
            panels.bars(row[1], seen)
        else:
            panels.image(row[1], seen, limits)
    titles = images(axes[:, 2 : 4 + NUM_DRAWS], posterior, limits)
    return ["truth", "measurement", *titles]


def _vector_rows(
    axes: np.ndarray, posterior: Posterior, truth: Tensor, measurement: Tensor
) -> list[str]:
    curves = panels.is_curve(posterior.x.shape[2:], None)
    if curves:
        curves_of(axes[:, 1], posterior)
    intervals, mean = band(posterior), with_systems(posterior, posterior.mean())
    for s, (data, ax, *_) in enumerate(axes):
        _points(data, measurement[s])
        if not curves:
            panels.intervals(ax, mean[s], intervals[:, s])
        true, line = panels.numbers(truth[s]), "-" if curves else ""
        ax.plot(
            true, ls=line, lw=1, marker="" if curves else "x", color=panels.TRUTH, label="truth"
        )
        panels.plain(ax, "")
    panels.legend(axes[0, 1], columns=2)
    return ["measurement", "posterior and truth"]


def _calibration(axes: np.ndarray, posterior: Posterior, truth: Tensor) -> list[str]:
    """Standardised errors and ranks, one system per row."""
    errors, ranks = standardised_error(posterior, truth), ranks_of_truth(posterior, truth)
    event = tuple(errors.shape[1:])
    for s, (first, second) in enumerate(axes):
        if panels.is_image(event):
            panels.spread(first, errors[s].clamp(max=_LARGEST), _LARGEST, "magma")
            second.set_box_aspect(event[-2] / event[-1])
        else:
            _points(first, errors[s], [1.0])
            first.set_ylim(bottom=0)
        if panels.is_image(event) or panels.is_curve(event, None):
            _rank_histogram(second, panels.numbers(ranks[s]))
        else:
            _points(second, ranks[s], [0.05, 0.95])
            second.set_ylim(0, 1)
    scale = f"\n0 to {_LARGEST}" if panels.is_image(event) else ""
    return [f"|error| / s.d.{scale}", "ranks of truth"]


def _points(ax: "Axes", values: Tensor, lines: Sequence[float] = ()) -> None:
    """Numbers (d,) over their index, and levels to compare them with."""
    ax.plot(panels.numbers(values), ls="", marker=".", ms=5, color=panels.COLOURS[1])
    for level in lines:
        ax.axhline(level, color="0.6", lw=0.8, ls="--")
    ax.margins(x=0.1)
    panels.whole_steps(ax)
    panels.plain(ax, "")


def _rank_histogram(ax: "Axes", ranks: np.ndarray) -> None:
    density, edges = np.histogram(ranks, _BINS, range=(0, 1), density=True)
    ax.stairs(density, edges, fill=True, color=panels.COLOURS[0], alpha=0.5)
    ax.axhline(1, color="0.3", lw=0.8, ls="--")
    panels.plain(ax, "")
    ax.set(xlim=(0, 1), yticks=[])
    ax.set_xticks([0, 1], ["0", "1"])
    ax.spines["left"].set_visible(False)
