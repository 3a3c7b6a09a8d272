"""The frames of an animation, each drawn into an empty figure."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from smcguide import weights
from smcguide.plots import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS, MOST_CURVES, MOST_IMAGES = 2000, 50, 16

_ENDS = (0.005, 0.995)  # the rest of the particles may leave the picture


@dataclass(frozen=True)
class Film:
    """Draws the frames.

    Attributes:
        states: (K + 1, N, *E).
        log_w: (K + 1, N) log-weights, if known.
        steps: (F,) which states to show.
        signal: as in `smcguide.plots.animate`.
    """

    states: Tensor
    log_w: Tensor | None
    steps: np.ndarray
    signal: bool | None

    def draw(self, figure: "Figure", frame: int) -> None:
        """Frame number `frame` into an empty figure."""
        k, event = int(self.steps[frame]), self.states.shape[2:]
        share = self._share(k)
        if panels.is_image(event):
            everywhere = figure.add_axes((0.02, 0.02, 0.96, 0.90))
            _image_grid(everywhere, self.states[k, :MOST_IMAGES], share)
            return
        ax = figure.add_axes((0.13, 0.11, 0.83, 0.80))  # fixed, or they would move between frames
        panels.plain(ax, "")
        curves = panels.is_curve(event, self.signal)
        most = MOST_CURVES if curves else MOST_POINTS
        state = self.states[k, :most]
        x = panels.numbers(state.reshape(len(state), -1))
        limits = self._limits[frame]
        if curves:
            _curves(ax, x, share)
            ax.set_ylim(*limits[0])
        elif x.shape[1] == 1:
            _density(ax, x[:, 0], share, limits[0])
        else:
            _points(ax, x, share)
            ax.set(xlim=limits[0], ylim=limits[1])
            panels.plain(ax, "", "x[0]", "x[1]")

    @property
    def key(self) -> str:
        """What the weights are shown as."""
        if self.log_w is None or self.states[0, 0].numel() == 1:
            return ""
        return ", numbers: N W" if panels.is_image(self.states.shape[2:]) else ", dark: heavy"

    def _share(self, k: int) -> np.ndarray | None:
        """N W of every particle after step k."""
        if self.log_w is None:
            return None
        W = panels.numbers(weights.normalise(self.log_w[k]))
        return len(W) * W

    @cached_property
    def _limits(self) -> np.ndarray:
        """Limits (F, 2, 2) of two coordinates, or twice of all: they hold the particles of this frame
        and of all later ones."""
        event = self.states.shape[2:]
        ends = []
        for k in self.steps:
            state = self.states[int(k), :MOST_POINTS]
            x = panels.numbers(state.reshape(len(state), -1))
            seen = x.reshape(-1, 1) if panels.is_curve(event, self.signal) else x[:, :2]
            low, high = np.nanquantile(np.where(np.isfinite(seen), seen, np.nan), _ENDS, axis=0)
            margin = np.where(high > low, 0.08 * (high - low), 0.5)
            ends.append(np.broadcast_to(np.stack([low - margin, high + margin]), (2, 2)))
        later = np.stack(ends)[::-1]
        low, high = np.minimum.accumulate(later[:, 0]), np.maximum.accumulate(later[:, 1])
        return np.stack([low, high], -1)[::-1]


def _points(ax: "Axes", x: np.ndarray, share: np.ndarray | None) -> None:
    if share is None:
        ax.scatter(x[:, 0], x[:, 1], s=10, lw=0, alpha=0.8, color=panels.COLOURS[0])
        return
    order = np.argsort(share[: len(x)])  # heaviest on top
    ax.scatter(
        x[order, 0], x[order, 1], s=10, lw=0, alpha=0.8, c=_brightness(share[order]),
        cmap="viridis_r", vmin=0, vmax=1,
    )  # fmt: skip


def _curves(ax: "Axes", x: np.ndarray, share: np.ndarray | None) -> None:
    from matplotlib import colormaps

    order = np.arange(len(x)) if share is None else np.argsort(share[: len(x)])
    for i in order:
        colour = panels.COLOURS[0]
        if share is not None:
            colour = colormaps["viridis_r"](_brightness(share[i]))
        ax.plot(x[i], color=colour, lw=0.7)
    panels.plain(ax, "", "index")


def _density(ax: "Axes", x: np.ndarray, share: np.ndarray | None, limits: np.ndarray) -> None:
    W = np.ones(len(x)) if share is None else share[: len(x)]
    alive = (W > 0) & np.isfinite(x)
    density, edges = np.histogram(x[alive], 40, range=tuple(limits), weights=W[alive], density=True)
    ax.stairs(density, edges, fill=True, color=panels.COLOURS[0])
    ax.set_xlim(*limits)
    panels.plain(ax, "", "x")
    ax.set_yticks([])


def _image_grid(ax: "Axes", images: Tensor, share: np.ndarray | None) -> None:
    """One picture of them all, which is much faster than axes for each."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    high, wide = images.shape[-2:]
    gap = max(1.0, 0.22 * high)
    for i, event in enumerate(images):
        channels = panels.numbers(event).reshape(-1, high, wide)
        shown = np.moveaxis(channels, 0, -1) if len(channels) == 3 else channels[0]
        seen = shown[np.isfinite(shown)]
        low, top = (seen.min(), seen.max()) if seen.size else (0.0, 1.0)  # the dead may be anything
        left, upper = i % columns * (wide + gap / 2), i // columns * (high + gap)
        ax.imshow(
            (shown - low) / max(top - low, 1e-12), cmap="gray", vmin=0, vmax=1,
            extent=(left, left + wide, upper + high, upper),
        )  # fmt: skip
        if share is not None:
            middle = left + wide / 2, upper - 0.1 * gap
            ax.text(*middle, f"{share[i]:.2g}", fontsize=panels.TEXT, ha="center", va="bottom")
    ax.set(xlim=(0, columns * (wide + gap / 2)), ylim=(rows * (high + gap), -gap))
    panels.bare(ax)


def _brightness(share: np.ndarray) -> np.ndarray:
    """N W between 0 and 1: an average particle in the middle."""
    return share / (1 + share)
