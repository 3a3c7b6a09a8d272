"""Pictures of a posterior: what the particles look like, and how the run went.

Figures are made without pyplot: nothing stays open, no window is needed, and a caller's own figure or
subfigure can be drawn into. All grey images of a figure share one scale; standard deviations are in
viridis from 0 to the number in their title.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from smcguide.errors import InvalidInput, MissingExtra
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NUM_DRAWS, MOST_SYSTEMS, MOST_COORDINATES = 5, 4, 6

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: safe for the colour-blind
_UNOBSERVED = "#b9d3ea"
_PANEL, _SMALL = 0.95, 8  # inches, points


def plot_posterior(
    posterior: Posterior, *, figure: "Figure | SubFigure | None" = None
) -> "Figure | SubFigure":
    """The posterior above, the run below; the first four systems.

    Events (..., H, W) appear as mean, standard deviation and draws, one system per row: three channels
    in colour, otherwise the first channel. Other events appear as weighted marginal histograms of the
    first six coordinates. The run is shown as ESS (dots where it resampled), running log-evidence
    (with its final standard error) and the number of initial ancestors that still have descendants.

    Arguments:
        posterior: what to show.
        figure: where to draw; default a new figure.

    Raises:
        MissingExtra: without matplotlib.
    """
    S, N = posterior.log_w.shape
    rows = min(S, MOST_SYSTEMS)
    is_image = posterior.x.ndim >= 4
    columns = 2 + NUM_DRAWS if is_image else min(posterior.x[0, 0].numel(), MOST_COORDINATES)
    height = rows * _PANEL + 0.5 if is_image else 1.8
    figure = figure or new_figure(7.6, height + 2.3)
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 2.0])
    axes = top.subplots(rows if is_image else 1, columns, squeeze=False)
    if is_image:
        _draw_images(axes, posterior)
        labels = [f"system {s}" if posterior.has_systems else "" for s in range(rows)]
        _label_rows(axes, labels)
    else:
        _draw_marginals(axes[0], posterior)
    shown = f", {rows} of {S} systems" if rows < S else ""
    top.suptitle(f"posterior, {N} particles{shown}", fontsize=_SMALL + 1)
    _draw_run(bottom.subplots(1, 3), posterior)
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
        measurement: (S, H', W') images on the scale of the truth, NaN where nothing was observed, or
            (S, m) numbers, shown as bars.
        row_labels: one text per system.
        figure: where to draw; default a new figure.

    Raises:
        InvalidInput: for events that are no images, or shapes that do not fit.
        MissingExtra: without matplotlib.
    """
    S = len(posterior.x)
    event = posterior.x.shape[2:]
    if len(event) < 2 or truth.shape != (S, *event) or measurement.ndim not in (2, 3):
        raise InvalidInput(
            f"plot_inverse_problem: events {tuple(event)} of {S} systems, truth {tuple(truth.shape)}, "
            f"measurement {tuple(measurement.shape)}; expected image events (..., H, W), "
            "truth (S, ..., H, W), and measurement (S, H', W') or (S, m)."
        )
    columns = 4 + NUM_DRAWS
    figure = figure or new_figure(columns * _PANEL + 0.4, S * _PANEL + 0.4)
    axes = figure.subplots(S, columns, squeeze=False)
    limits = float(truth.min()), float(truth.max())
    for row, image, seen in zip(axes, truth, measurement, strict=True):
        _show(row[0], _picture(image), limits)
        if seen.ndim == 1:
            _bars(row[1], seen)
        else:
            _show(row[1], _array(seen), limits)
    _draw_images(axes[:, 2:], posterior, limits)
    for ax, title in zip(axes[0], ("truth", "measurement"), strict=False):
        ax.set_title(title, fontsize=_SMALL)
    _label_rows(axes, row_labels)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches, outside pyplot.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plots", "Drawing a figure") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _draw_images(
    axes: np.ndarray, posterior: Posterior, limits: tuple[float, float] | None = None
) -> None:
    """Mean, standard deviation and draws of the first systems, one per row of axes."""
    rows = len(axes)
    mean, std, draws = (
        (a if posterior.has_systems else a[None])[:rows].detach().cpu()
        for a in (posterior.mean(), posterior.std(), posterior.draws(NUM_DRAWS))
    )
    if limits is None:
        limits = float(draws.min()), float(draws.max())
    spread = float(std.max())
    for s, row in enumerate(axes):
        _show(row[0], _picture(mean[s]), limits)
        flat = std[s].flatten(0, -3).mean(0) if std[s].ndim > 2 else std[s]
        row[1].imshow(_array(flat), cmap="viridis", vmin=0, vmax=spread)
        _bare(row[1])
        for ax, draw in zip(row[2:], draws[s], strict=True):
            _show(ax, _picture(draw), limits)
    titles = ("mean", f"s.d., 0 to {spread:.2g}", *["draw"] * NUM_DRAWS)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=_SMALL)


def _draw_marginals(axes: np.ndarray, posterior: Posterior) -> None:
    """Weighted histograms of the first coordinates, one line per system."""
    W = torch.softmax(posterior.log_w, -1)
    x, W = _array(posterior.x.flatten(2) if posterior.x.ndim > 2 else posterior.x[..., None]), _array(W)
    for i, ax in enumerate(axes):
        alive = x[:MOST_SYSTEMS, :, i][W[:MOST_SYSTEMS] > 0]
        edges = np.histogram_bin_edges(alive, bins=30)
        for s in range(min(len(x), MOST_SYSTEMS)):
            keep = W[s] > 0
            density, _ = np.histogram(x[s, keep, i], edges, weights=W[s, keep], density=True)
            ax.stairs(density, edges, color=_COLOURS[s], lw=1.2)
        ax.set_title(f"x[{i}]" if posterior.x.ndim > 2 else "x", fontsize=_SMALL)
        ax.set_yticks([])
        _tidy(ax, left=False)


def _draw_run(axes: Sequence["Axes"], posterior: Posterior) -> None:
    """ESS, running log-evidence and surviving initial ancestors against the step."""
    S, N = posterior.log_w.shape
    trace = {name: _array(a[:MOST_SYSTEMS]) for name, a in posterior.trace.items()}
    se = _array(posterior.log_evidence_se.reshape(-1))
    for s in range(min(S, MOST_SYSTEMS)):
        style: dict[str, Any] = {"color": _COLOURS[s], "lw": 1.2}
        again = np.flatnonzero(trace["resampled"][s])
        axes[0].plot(trace["ess"][s], **style, marker="o", ms=3, markevery=list(again))
        log_z = trace["log_evidence"][s]
        axes[1].plot(log_z, **style, label=f"system {s}")
        if np.isfinite(se[s]):
            axes[1].errorbar(len(log_z) - 1, log_z[-1], se[s], **style, capsize=2)
        axes[2].plot(trace["unique_eves"][s], **style)
    axes[0].set_ylim(0, 1.05 * N)
    axes[2].set_yscale("log")
    axes[2].set_ylim(0.8, 1.3 * N)
    titles = ("ESS (dots: resampled)", "running log evidence", "initial ancestors alive")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=_SMALL)
        ax.set_xlabel("step", fontsize=_SMALL)
        _tidy(ax)
    if S > 1:
        axes[1].legend(fontsize=_SMALL - 1, frameon=False)


def _array(a: Tensor) -> np.ndarray:
    return a.detach().cpu().numpy()


def _picture(event: Tensor) -> np.ndarray:
    """(H, W), or (H, W, 3) for three channels, of an event (..., H, W)."""
    channels = event.flatten(0, -3) if event.ndim > 2 else event[None]
    return _array(channels.movedim(0, -1) if len(channels) == 3 else channels[0])


def _show(ax: "Axes", image: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    if image.ndim == 3:
        ax.imshow(np.clip((image - low) / max(high - low, 1e-12), 0, 1))
    else:
        ax.set_facecolor(_UNOBSERVED)  # shines through where the image is NaN
        ax.imshow(image, cmap="gray", vmin=low, vmax=high)
    _bare(ax)


def _bars(ax: "Axes", values: Tensor) -> None:
    ax.bar(np.arange(len(values)), _array(values), width=0.8, color="0.3")
    ax.set_box_aspect(1)
    _bare(ax)


def _bare(ax: "Axes") -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _tidy(ax: "Axes", left: bool = True) -> None:
    ax.tick_params(labelsize=_SMALL - 1)
    ax.spines["left"].set_visible(left)
    ax.spines[["top", "right"]].set_visible(False)


def _label_rows(axes: np.ndarray, labels: Sequence[str]) -> None:
    for row, label in zip(axes, labels, strict=False):
        row[0].set_ylabel(label, fontsize=_SMALL)
