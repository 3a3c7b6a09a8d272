"""Pictures of a posterior: what the particles look like, and how the run went.

Figures are made without pyplot: nothing stays open, no window is needed, and a caller's own figure
or subfigure can be drawn into. The grey images of a figure share one scale; standard deviations are
in viridis, from 0 to the number in their title.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smcguide import weights
from smcguide.bridges.netcdf import to_numpy
from smcguide.errors import InvalidInput
from smcguide.plots import panels
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

NUM_DRAWS, MOST_SYSTEMS, MOST_COORDINATES = 5, 4, 6

_PANEL = 0.95  # inches


def plot_posterior(
    posterior: Posterior, *, figure: "Figure | SubFigure | None" = None
) -> "Figure | SubFigure":
    """The posterior above, the run below, for the first four systems.

    Events (..., H, W) are shown as mean, standard deviation and five draws, one system per row;
    other events as weighted marginal histograms of their first six coordinates. The run is shown
    as ESS (dots where it resampled), running log evidence with its final standard error, and the
    number of initial ancestors that still have descendants.

    Arguments:
        posterior: what to show.
        figure: where to draw; default a new figure.

    Raises:
        MissingExtra: without matplotlib.
    """
    S, N = posterior.log_w.shape
    rows = min(S, MOST_SYSTEMS)
    is_image = posterior.x.ndim >= 4
    height = rows * _PANEL + 0.5 if is_image else 1.7
    figure = figure or panels.new_figure(7.2, height + 2.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, 2.0])
    top, bottom = halves
    if is_image:
        axes = top.subplots(rows, 2 + NUM_DRAWS, squeeze=False)
        titles = _images(axes, posterior)
        systems = [f"system {s}" for s in range(rows)] if posterior.has_systems else ()
        panels.label(axes, titles, systems)
    else:
        _marginals(top, posterior)
    shown = f", the first {rows} of {S} systems" if rows < S else ""
    top.suptitle(f"Posterior, {N} particles per system{shown}", fontsize=panels.TEXT + 1)
    _run(bottom, posterior)
    return figure


def plot_inverse_problem(
    posterior: Posterior,
    truth: Tensor,
    measurement: Tensor,
    *,
    row_labels: Sequence[str] = (),
    figure: "Figure | SubFigure | None" = None,
) -> "Figure | SubFigure":
    """One row per system: truth, measurement, posterior mean, standard deviation, five draws.

    Arguments:
        posterior: of image events (..., H, W), S systems.
        truth: (S, *E); its range is the grey scale of the figure.
        measurement: (S, H', W') images on the scale of the truth, NaN where nothing was observed;
            or (S, m) numbers, shown as bars.
        row_labels: one text per system.
        figure: where to draw; default a new figure.

    Raises:
        InvalidInput: for events that are not images, or shapes that do not fit.
        MissingExtra: without matplotlib.
    """
    S, event = len(posterior.x), tuple(posterior.x.shape[2:])
    fits = truth.shape == (S, *event) and measurement.ndim in (2, 3) and len(measurement) == S
    if len(event) < 2 or not fits:
        raise InvalidInput(
            f"plot_inverse_problem: {S} systems with events {event}, truth {tuple(truth.shape)}, "
            f"measurement {tuple(measurement.shape)}; expected image events (..., H, W), a truth "
            "(S, ..., H, W), and a measurement (S, H', W') or (S, m)."
        )
    columns = 4 + NUM_DRAWS
    figure = figure or panels.new_figure(columns * _PANEL, S * _PANEL + 0.3)
    axes = figure.subplots(S, columns, squeeze=False)
    limits = float(truth.min()), float(truth.max())
    for row, image, seen in zip(axes, truth, measurement, strict=True):
        panels.image(row[0], image, limits)
        if seen.ndim == 1:
            panels.bars(row[1], seen)
        else:
            panels.image(row[1], seen, limits)
    titles = _images(axes[:, 2:], posterior, limits)
    panels.label(axes, ["truth", "measurement", *titles], row_labels)
    return figure


def _images(
    axes: np.ndarray, posterior: Posterior, limits: tuple[float, float] | None = None
) -> list[str]:
    """Mean, standard deviation and draws of the first systems, one per row; returns the titles."""
    mean, std, draws = (
        a if posterior.has_systems else a[None]
        for a in (posterior.mean(), posterior.std(), posterior.draws(NUM_DRAWS))
    )
    largest = float(std[: len(axes)].max())
    limits = limits or (float(draws.min()), float(draws.max()))
    for s, (first, second, *others) in enumerate(axes):
        panels.image(first, mean[s], limits)
        panels.spread(second, std[s], largest)
        for ax, draw in zip(others, draws[s], strict=True):
            panels.image(ax, draw, limits)
    return ["mean", f"s.d., 0 to {largest:.2g}", *["draw"] * NUM_DRAWS]


def _marginals(figure: "SubFigure", posterior: Posterior) -> None:
    """Weighted histograms of the first coordinates, one line per system."""
    x = to_numpy(posterior.x.reshape(*posterior.log_w.shape, -1))[:MOST_SYSTEMS]
    W = to_numpy(weights.normalise(posterior.log_w))[:MOST_SYSTEMS]
    count = min(x.shape[-1], MOST_COORDINATES)
    for i, ax in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        panels.histogram(ax, x[..., i], W)
        panels.plain(ax, f"x[{i}]" if posterior.x.ndim > 2 else "x")


def _run(figure: "SubFigure", posterior: Posterior) -> None:
    """ESS, running log evidence and surviving initial ancestors against the step."""
    S, N = posterior.log_w.shape
    ess, evidence, survivors = figure.subplots(1, 3)
    trace = {name: to_numpy(a) for name, a in posterior.trace.items()}
    se = to_numpy(posterior.log_evidence_se.reshape(-1))
    for s, colour in zip(range(S), panels.COLOURS, strict=False):
        again = np.flatnonzero(trace["resampled"][s]).tolist()
        ess.plot(trace["ess"][s], color=colour, lw=1.2, marker="o", ms=3, markevery=again)
        log_z = trace["log_evidence"][s]
        evidence.plot(log_z, color=colour, lw=1.2, label=f"system {s}")
        if np.isfinite(se[s]):
            evidence.errorbar(len(log_z) - 1, log_z[-1], se[s], color=colour, capsize=2)
        survivors.plot(trace["unique_eves"][s], color=colour, lw=1.2)
    ess.set_ylim(0, 1.05 * N)
    survivors.set(yscale="log", ylim=(0.8, 1.3 * N))
    panels.plain(ess, "ESS (dots: resampled)")
    panels.plain(evidence, "running log evidence")
    panels.plain(survivors, "initial ancestors alive")
    for ax in (ess, evidence, survivors):
        ax.set_xlabel("step", fontsize=panels.TEXT)
    if S > 1:
        evidence.legend(fontsize=panels.TEXT - 1, frameon=False)
