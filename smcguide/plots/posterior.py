"""Pictures of a posterior: what the particles look like, and how the run went.

Figures are made without pyplot: nothing stays open, no window is needed, and a caller's own figure
or subfigure can be drawn into. The grey images of a figure share one scale; standard deviations are
in viridis, from 0 to the number in their title.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.plots import panels, run
from smcguide.plots.ranges import finite_range
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

NUM_DRAWS, MOST_COORDINATES = 5, 6

_PANEL = 0.95  # inches
_RUN = 2.0


def plot_posterior(
    posterior: Posterior,
    *,
    signal: bool | None = None,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure | SubFigure":
    """The posterior above, the run below, for the first four systems.

    Events (..., H, W) are shown as mean, standard deviation and five draws, one system per row;
    signals as mean, 90 % band and five draws over the index, one system per row; other vectors as
    weighted marginal histograms of their first six coordinates. The run is shown as ESS (dots where it
    resampled), running log evidence with its final standard error, and the number of initial
    ancestors that still have descendants; `plot_run` shows more.

    Arguments:
        posterior: what to show.
        signal: whether events (d,) are signals; default those with more than 12 coordinates.
        figure: where to draw; default a new figure.

    Raises:
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_posterior", posterior)
    S, N = posterior.log_w.shape
    event = posterior.x.shape[2:]
    rows = min(S, panels.MOST_SYSTEMS)
    curves = panels.is_curve(event, signal)
    height = rows * 1.2 + 0.3 if curves else rows * _PANEL + 0.5 if panels.is_image(event) else 1.7
    figure = figure or panels.new_figure(7.2, height + _RUN)
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, _RUN])
    top, bottom = halves
    names = [f"system {s}" for s in range(rows)] if posterior.has_systems else ()
    if panels.is_image(event):
        axes = top.subplots(rows, 2 + NUM_DRAWS, squeeze=False)
        panels.label(axes, images(axes, posterior), names)
    elif curves:
        axes = top.subplots(rows, 1, squeeze=False, sharex=True)
        curves_of(axes[:, 0], posterior)
        panels.label(axes, (), names)
        panels.legend(axes[0, 0], columns=3)
        axes[-1, 0].set_xlabel("index", fontsize=panels.TEXT)
    else:
        _marginals(top, posterior)
    shown = f", the first {rows} of {S} systems" if rows < S else ""
    top.suptitle(f"Posterior, {N} particles per system{shown}", fontsize=panels.TEXT + 1)
    _run(bottom, posterior)
    return figure


def images(
    axes: np.ndarray, posterior: Posterior, limits: tuple[float, float] | None = None
) -> list[str]:
    """Mean, standard deviation and draws of the first systems, one per row; returns the titles."""
    mean, std, draws = (
        with_systems(posterior, a)
        for a in (posterior.mean(), posterior.std(), posterior.draws(NUM_DRAWS))
    )
    largest = finite_range(panels.numbers(std[: len(axes)]))[1]
    limits = limits or finite_range(panels.numbers(draws))
    for s, (first, second, *others) in enumerate(axes):
        panels.image(first, mean[s], limits)
        panels.spread(second, std[s], largest)
        for ax, draw in zip(others, draws[s], strict=True):
            panels.image(ax, draw, limits)
    return ["mean", f"s.d., 0 to {largest:.2g}", *["draw"] * NUM_DRAWS]


def curves_of(axes: np.ndarray, posterior: Posterior) -> None:
    """Mean, 90 % band and draws of signals, one system in each of the axes (rows,)."""
    mean, draws = (
        with_systems(posterior, a) for a in (posterior.mean(), posterior.draws(NUM_DRAWS))
    )
    intervals = band(posterior)
    for s, ax in enumerate(axes):
        panels.curve(ax, mean[s], intervals[:, s], draws[s])
        panels.plain(ax, "")


def band(posterior: Posterior) -> Tensor:
    """5 and 95 % quantiles (2, S, *E)."""
    return with_systems(posterior, posterior.quantile([0.05, 0.95]), 1)


def with_systems(posterior: Posterior, answer: Tensor, axis: int = 0) -> Tensor:
    """An answer of the posterior with the axis of systems, whether asked for or not."""
    return answer if posterior.has_systems else answer.unsqueeze(axis)


def _marginals(figure: "SubFigure", posterior: Posterior) -> None:
    """Weighted histograms of the first coordinates, one line per system."""
    first = slice(panels.MOST_SYSTEMS)
    x = panels.numbers(posterior.x[first].reshape(*posterior.log_w[first].shape, -1))
    W = panels.numbers(weights.normalise(posterior.log_w[first]))
    count = min(x.shape[-1], MOST_COORDINATES)
    for i, ax in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        panels.histogram(ax, x[..., i], W)
        panels.plain(ax, f"x[{i}]" if posterior.x.ndim > 2 else "x")


def _run(figure: "SubFigure", posterior: Posterior) -> None:
    """ESS, running log evidence and surviving initial ancestors against the step."""
    ess, evidence, survivors = figure.subplots(1, 3)
    run.ess_panel(ess, posterior)
    run.evidence_panel(evidence, posterior)
    run.eves_panel(survivors, posterior)
    for ax in (ess, evidence, survivors):
        ax.set_xlabel("step", fontsize=panels.TEXT)
        panels.whole_steps(ax)
    if len(posterior.log_w) > 1:
        panels.legend(evidence)
