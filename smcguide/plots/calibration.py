"""Pictures of calibration: ranks of truths among posterior draws, and coverage of credible regions.

Ranks of a correct posterior are uniform on 0, ..., n. A histogram shows what is wrong: a valley (too
narrow), a hill (too wide), a slope (biased). The difference of their distribution function from the
uniform one needs no bins. Every picture has a band that a correct posterior leaves anywhere with
probability 5 %: of the histogram by Bonferroni, of distribution functions and coverages as in
`smcguide.diagnostics.calibration.bands`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from smcguide.errors import InvalidInput
from smcguide.plots import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from smcguide.diagnostics.calibration import Coverage, Ranks

MOST_RANKS, MOST_CURVES = 12, 4
LEVEL = 0.95

_MOST_BINS = 20


def plot_ranks(ranks: "Ranks", *, ecdf: bool = False, axes: Any = None) -> np.ndarray:
    """Rank histograms, or differences of distribution functions, of the first twelve statistics.

    Arguments:
        ranks: ranks (L, F) of L truths among `num_draws` draws each, for F statistics.
        ecdf: draw the distribution function's difference from the uniform one instead of a histogram.
        axes: one per statistic shown; default a new figure.

    Returns:
        The axes, one per statistic shown.

    Raises:
        InvalidInput: for ranks that are not (L, F) numbers from 0 to `num_draws`.
        MissingExtra: without matplotlib.
    """
    values, n = panels.numbers(torch.as_tensor(ranks.ranks)), int(ranks.num_draws)
    if values.ndim != 2 or not values.size or not (values.min() >= 0 and values.max() <= n):
        raise InvalidInput(
            f"plot_ranks: ranks must be (L, F) numbers from 0 to num_draws = {n}; got shape "
            f"{values.shape}."
        )
    L, F = values.shape
    shown = min(F, MOST_RANKS)
    if axes is None:
        rows = -(-shown // 4)
        columns = -(-shown // rows)
        figure = panels.new_figure(0.6 + 1.8 * columns, 0.4 + 1.5 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in grid[shown:]:
            ax.set_visible(False)
        axes = grid[:shown]
        more = f", first {shown} of {F} statistics" if shown < F else ""
        figure.suptitle(f"{L} truths, ranks among {n} draws{more}", fontsize=panels.TEXT + 1)
    axes = panels.given(axes, (shown,), "plot_ranks")
    band = _ecdf_band(L, n) if ecdf else _bin_band(L, n)
    for f, ax in enumerate(axes):
        (_ecdf if ecdf else _histogram)(ax, values[:, f], n, band)
        panels.plain(ax, str(ranks.names[f]))
    axes[0].set_ylabel("difference" if ecdf else "found / expected", fontsize=panels.TEXT)
    return axes


def plot_coverage(coverage: "Coverage", *, ax: "Axes | None" = None) -> "Axes":
    """How often credible regions hold the truth, against how often they should.

    The grey band holds the whole curve of a correct posterior with probability 95 %. Curves below
    the diagonal are of posteriors that are too narrow.

    Arguments:
        coverage: levels (Q,), coverage (Q, F), from `num_sets` truths.
        ax: where to draw; default a new figure.

    Raises:
        InvalidInput: for shapes that do not fit.
        MissingExtra: without matplotlib.
    """
    levels, found = (
        panels.numbers(torch.as_tensor(a)) for a in (coverage.levels, coverage.coverage)
    )
    if levels.ndim != 1 or found.ndim != 2 or len(found) != len(levels):
        raise InvalidInput(
            f"plot_coverage: expected levels (Q,) and coverage (Q, F), got {levels.shape} and "
            f"{found.shape}."
        )
    ax = panels.one(ax, 3.6, 3.4)
    n, F = int(coverage.num_sets), found.shape[1]
    inside = np.unique(levels[(levels > 0) & (levels < 1)])
    low, high = _band(n, inside)
    q = np.concatenate([[0], inside, [1]])
    low, high = np.concatenate([[0], low, [1]]), np.concatenate([[0], high, [1]])
    ax.fill_between(q, low, high, color="0.87", lw=0, label=f"95 % band, {n} truths")
    ax.plot([0, 1], [0, 1], color=panels.TRUTH, lw=0.8, ls="--")
    order = np.argsort(levels)
    for f in range(min(F, MOST_CURVES)):
        ax.plot(levels[order], found[order, f], color=panels.COLOURS[f], ls=panels.STYLES[f],
                lw=1.4, label=str(coverage.names[f]))  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels.plain(ax, "", "credible level", "share of truths inside")
    panels.legend(ax, f"first {MOST_CURVES} of {F}" if F > MOST_CURVES else "")
    return ax


def _band(num: int, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (Q,) of the distribution function of `num` uniform numbers, at all levels at once."""
    from smcguide.diagnostics.calibration.bands import simultaneous_band

    return simultaneous_band(num, levels, LEVEL) if len(levels) else (levels, levels)


def _edges(L: int, n: int) -> np.ndarray:
    """Edges of at most 20 bins of the ranks 0, ..., n, with 20 truths or more in each: equally wide
    bins, unless those were less than half as many."""
    most = max(1, min(_MOST_BINS, n + 1, L // 20))
    even = max(bins for bins in range(1, most + 1) if (n + 1) % bins == 0)
    return np.round(np.linspace(0, n + 1, (even if 2 * even > most else most) + 1))


def _bin_band(L: int, n: int) -> np.ndarray:
    """Bounds (2, B) of the bins' heights, in units of what is expected."""
    from scipy.stats import binom

    share = np.diff(_edges(L, n)) / (n + 1)
    tail = (1 - LEVEL) / (2 * len(share))
    return np.stack([binom.ppf(p, L, share) for p in (tail, 1 - tail)]) / (L * share)


def _histogram(ax: "Axes", ranks: np.ndarray, n: int, band: np.ndarray) -> None:
    edges = _edges(len(ranks), n)
    low, high = band
    height = np.histogram(ranks, edges)[0] / (len(ranks) * np.diff(edges) / (n + 1))
    ax.stairs(high, edges, baseline=low, fill=True, color="0.85")
    ax.stairs(height, edges, baseline=None, color=panels.COLOURS[0], lw=1.4)
    ax.axhline(1, color=panels.TRUTH, lw=0.8, ls="--")
    ax.set(xlim=(0, n + 1), ylim=(0, 1.1 * max(height.max(), high.max())), xticks=[0, n])


def _ecdf_band(L: int, n: int) -> np.ndarray:
    """Levels (Q,) and bounds of the difference there, (3, Q)."""
    from smcguide.diagnostics.calibration.bands import thinned

    levels = thinned(n) / (n + 1)
    low, high = _band(L, levels)
    return np.stack([levels, low - levels, high - levels])


def _ecdf(ax: "Axes", ranks: np.ndarray, n: int, band: np.ndarray) -> None:
    """Share of ranks below r minus r / (n + 1), at r / (n + 1) for r = 1, ..., n."""
    levels = np.arange(1, n + 1) / (n + 1)
    below = np.bincount(ranks.astype(int), minlength=n + 1).cumsum()[:-1] / len(ranks)
    at, low, high = band
    ax.fill_between(at, low, high, color="0.85", lw=0)
    ax.plot(levels, below - levels, color=panels.COLOURS[0], lw=1.4)
    ax.axhline(0, color=panels.TRUTH, lw=0.8, ls="--")
    ax.set(xlim=(0, 1))
    ax.set_xticks([0, 1], ["0", "1"])
