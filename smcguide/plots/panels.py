"""The panels that figures are made of: each draws into the axes it is given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from smcguide.bridges.netcdf import to_numpy
from smcguide.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: safe for the colour-blind
TEXT = 8  # points

_UNOBSERVED = "#b9d3ea"


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


def image(ax: "Axes", event: Tensor, limits: tuple[float, float]) -> None:
    """An event (..., H, W) in grey: three channels in colour, else the first; NaN in pale blue."""
    low, high = limits
    channels = to_numpy(event).reshape(-1, *event.shape[-2:])
    if len(channels) == 3:
        scaled = (np.moveaxis(channels, 0, -1) - low) / max(high - low, 1e-12)
        ax.imshow(np.clip(scaled, 0, 1))
    else:
        ax.set_facecolor(_UNOBSERVED)  # shines through where the image is NaN
        ax.imshow(channels[0], cmap="gray", vmin=low, vmax=high)
    bare(ax)


def spread(ax: "Axes", std: Tensor, largest: float) -> None:
    """A standard deviation (..., H, W), averaged over channels, in viridis from 0 to `largest`."""
    channels = to_numpy(std).reshape(-1, *std.shape[-2:])
    ax.imshow(channels.mean(0), cmap="viridis", vmin=0, vmax=largest)
    bare(ax)


def bars(ax: "Axes", values: Tensor) -> None:
    """Numbers (m,) as bars from zero, on their own scale."""
    ax.bar(np.arange(len(values)), to_numpy(values), width=0.8, color="0.3")
    ax.set_box_aspect(1)
    bare(ax)


def histogram(ax: "Axes", x: np.ndarray, W: np.ndarray) -> None:
    """Weighted histograms of samples x (S, N) with weights W (S, N) on common bins."""
    edges = np.histogram_bin_edges(x[W > 0], bins=30)
    for values, weights, colour in zip(x, W, COLOURS, strict=False):
        alive = weights > 0
        density, _ = np.histogram(values[alive], edges, weights=weights[alive], density=True)
        ax.stairs(density, edges, color=colour, lw=1.2)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def bare(ax: "Axes") -> None:
    """No ticks, no frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def plain(ax: "Axes", title: str) -> None:
    """A title, small ticks, and no frame on top and right."""
    ax.set_title(title, fontsize=TEXT)
    ax.tick_params(labelsize=TEXT - 1)
    ax.spines[["top", "right"]].set_visible(False)


def label(axes: np.ndarray, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
    """Titles over the first row and labels left of the first column of a grid of axes."""
    for ax, text in zip(axes[0], columns, strict=False):
        ax.set_title(text, fontsize=TEXT)
    for ax, text in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(text, fontsize=TEXT)
