"""The panels that figures are made of: each draws into the axes it is given.

Lines of different systems differ in colour (Okabe and Ito: safe for the colour-blind) and in style,
so that they can be told apart in a grey print too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smcguide.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
MOST_SYSTEMS = len(COLOURS)  # that one panel shows
TRUTH = "black"
TEXT = 8  # points

_UNOBSERVED = "#b9d3ea"
_FEW = 12  # coordinates that are read one by one; more are read as a curve


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


def one(ax: "Axes | None", width: float, height: float) -> "Axes":
    """The axes given, or those of a new figure."""
    return new_figure(width, height).subplots() if ax is None else ax


def given(axes: Any, shape: tuple[int, ...], caller: str) -> np.ndarray:
    """The caller's axes as an array of that shape.

    Raises:
        InvalidInput: where there are more or fewer of them.
    """
    found = np.asarray(axes, dtype=object)
    if found.size != int(np.prod(shape)):
        raise InvalidInput(
            f"{caller}: needs axes of shape {shape}, got {found.shape}; pass as many, or none."
        )
    return found.reshape(shape)


def check_system(system: int, num_systems: int, caller: str) -> None:
    """Raise InvalidInput unless there is such a system."""
    if not 0 <= system < num_systems:
        raise InvalidInput(
            f"{caller}: there is no system {system}; choose one of 0 to {num_systems - 1}."
        )


def numbers(a: Tensor) -> np.ndarray:
    """A tensor of any device and dtype, with or without gradient, as float64."""
    return a.detach().double().cpu().numpy()


def is_image(event: Sequence[int]) -> bool:
    """Whether events of that shape are shown as images: two axes or more."""
    return len(event) >= 2


def is_curve(event: Sequence[int], signal: bool | None) -> bool:
    """Whether events are curves over their index: vectors, where `signal` says so; where it is None,
    those with too many coordinates to be read one by one."""
    long = len(event) == 1 and event[0] > _FEW
    return len(event) == 1 and (long if signal is None else signal)


def image(ax: "Axes", event: Tensor, limits: tuple[float, float]) -> None:
    """An event (..., H, W) in grey: three channels in colour, else the first; NaN in pale blue."""
    low, high = limits
    channels = numbers(event).reshape(-1, *event.shape[-2:])
    if len(channels) == 3:
        scaled = (np.moveaxis(channels, 0, -1) - low) / max(high - low, 1e-12)
        alpha = (~np.isnan(scaled).any(-1, keepdims=True)).astype(float)
        ax.set_facecolor(_UNOBSERVED)
        seen = np.nan_to_num(np.clip(scaled, 0, 1))
        ax.imshow(seen if alpha.all() else np.concatenate([seen, alpha], -1))
    else:
        ax.set_facecolor(_UNOBSERVED)  # shines through where the image is NaN
        ax.imshow(channels[0], cmap="gray", vmin=low, vmax=high)
    bare(ax)


def spread(ax: "Axes", std: Tensor, largest: float, cmap: str = "viridis") -> None:
    """A standard deviation (..., H, W), averaged over channels, in viridis from 0 to `largest`."""
    channels = numbers(std).reshape(-1, *std.shape[-2:])
    ax.imshow(channels.mean(0), cmap=cmap, vmin=0, vmax=largest)
    bare(ax)


def bars(ax: "Axes", values: Tensor) -> None:
    """Numbers (m,) as bars from zero, on their own scale."""
    ax.bar(np.arange(len(values)), numbers(values), width=0.8, color="0.3")
    ax.set_box_aspect(1)
    bare(ax)


def say(ax: "Axes", text: str) -> None:
    """Words in the place of what cannot be drawn."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TEXT)


def histogram(ax: "Axes", x: np.ndarray, W: np.ndarray) -> None:
    """Weighted histograms of samples x (S, N) with weights W (S, N) on common bins, of what is finite."""
    shown = (W > 0) & np.isfinite(x)
    if not shown.any():
        say(ax, "no finite values")
    edges = np.histogram_bin_edges(x[shown].astype(float), bins=30)
    for s, alive in enumerate(shown):
        if alive.any():
            density, _ = np.histogram(x[s, alive], edges, weights=W[s, alive], density=True)
            ax.stairs(density, edges, color=COLOURS[s], ls=STYLES[s], lw=1.2)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def curve(ax: "Axes", mean: Tensor, band: Tensor, draws: Tensor) -> None:
    """A signal: mean (d,), 90 % band (2, d) and draws (n, d) over the index."""
    index = np.arange(len(mean))
    low, high = numbers(band)
    ax.fill_between(index, low, high, color=COLOURS[0], alpha=0.25, lw=0, label="90 % band")
    for i, draw in enumerate(numbers(draws)):
        ax.plot(index, draw, color="0.35", lw=0.6, ls=STYLES[3], label="" if i else "draws")
    ax.plot(index, numbers(mean), color=COLOURS[0], lw=1.4, label="mean")


def intervals(ax: "Axes", mean: Tensor, band: Tensor) -> None:
    """A short vector: mean (d,) and 90 % intervals (2, d) over the index."""
    centre, (low, high) = numbers(mean), numbers(band)
    ax.set_xlim(-0.5, len(centre) - 0.5)
    reach = np.stack([centre - low, high - centre]).clip(min=0)  # a skewed mean may lie outside
    ax.errorbar(
        np.arange(len(mean)), centre, reach, fmt="o", ms=4, lw=1.4, capsize=3, color=COLOURS[0],
        label="mean, 90 %",
    )  # fmt: skip
    whole_steps(ax)


def whole_steps(ax: "Axes") -> None:
    """Ticks of the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))


def legend(ax: "Axes", title: str = "", columns: int = 1) -> None:
    """A small legend without a frame, where it hides least."""
    small = TEXT - 1
    ax.legend(
        fontsize=small, title=title or None, title_fontsize=small, frameon=False, ncols=columns
    )


def bare(ax: "Axes") -> None:
    """No ticks, no frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def plain(ax: "Axes", title: str, x: str = "", y: str = "") -> None:
    """A title, small ticks and labels, and no frame on top and right."""
    ax.set_title(title, fontsize=TEXT)
    ax.set_xlabel(x, fontsize=TEXT)
    ax.set_ylabel(y, fontsize=TEXT)
    ax.tick_params(labelsize=TEXT - 1)
    ax.spines[["top", "right"]].set_visible(False)


def label(axes: np.ndarray, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
    """Titles over the first row and labels left of the first column of a grid of axes."""
    for ax, text in zip(axes[0], columns, strict=False):
        ax.set_title(text, fontsize=TEXT)
    for ax, text in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(text, fontsize=TEXT)


def first_of(shown: int, total: int) -> str:
    """The words "first 4 of 100 systems", or nothing where all are shown."""
    return f"first {shown} of {total} systems" if shown < total else ""
