"""Evidences side by side: which method, or which model, says what, and how sure it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput
from smcguide.evidence import islands
from smcguide.plots import panels
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 8  # systems of one posterior

_SPREAD = 0.3  # half the height that the systems of one row take


def plot_evidence(
    posteriors: Mapping[str, Posterior], *, truth: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """log Z of several posteriors, one row each.

    Points are the first eight systems, with bars of one standard error where it is known. Where the
    systems are replicates a square above them is log mean Z of all, with its standard error.

    Arguments:
        posteriors: name -> posterior.
        truth: the true log Z, a dashed line.
        ax: where to draw; default a new figure.

    Raises:
        InvalidInput: for anything but a dictionary of posteriors, or an empty one.
        MissingExtra: without matplotlib.
    """
    if not isinstance(posteriors, Mapping) or not posteriors:
        given = "an empty one" if isinstance(posteriors, Mapping) else type(posteriors).__name__
        raise InvalidInput(
            f"plot_evidence: expected a dictionary name -> Posterior, got {given}; name one at least."
        )
    for name, posterior in posteriors.items():
        require_posterior(f"plot_evidence: {name!r}", posterior)
    ax = panels.one(ax, 5.4, 0.9 + 0.55 * len(posteriors))
    labels = [_row(ax, y, name, post) for y, (name, post) in enumerate(posteriors.items())]
    if truth is not None:
        ax.axvline(truth, color=panels.TRUTH, lw=1, ls="--", zorder=0, label=f"truth {truth:.4g}")
    for y in range(0, len(labels), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=-1)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    panels.plain(ax, "", "log Z, one standard error")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _key(ax)
    return ax


def _row(ax: "Axes", y: int, name: str, posterior: Posterior) -> str:
    """Draw the systems of one posterior; returns the label of its row."""
    log_z, se = (panels.numbers(a) for a in (posterior.log_z, posterior.standard_error()[0]))
    if not np.isfinite(log_z).any():
        return f"{name}\nno log Z"
    S, shown = len(log_z), min(len(log_z), MOST_POINTS)
    several = S > 1 and posterior.are_replicates
    places = y + np.linspace(-_SPREAD / 2, _SPREAD, shown) if shown > 1 else np.array([float(y)])
    for place, z, error in zip(places, log_z, se, strict=False):
        _point(ax, z, error, place, "o", panels.COLOURS[0], "a system")
    if several:
        pool, error = (float(a) for a in islands(posterior.log_z))
        _point(ax, pool, error, y - _SPREAD, "s", panels.COLOURS[1], "all replicates")
    return f"{name}\n{panels.first_of(shown, S)}".strip()


def _point(
    ax: "Axes", z: float, error: float, y: float, marker: str, colour: str, name: str
) -> None:
    known = bool(np.isfinite(error))
    ax.errorbar(z, y, xerr=error if known else None, fmt=marker, ms=4, lw=1.3, capsize=2.5,
                color=colour, label=name)  # fmt: skip


def _key(ax: "Axes") -> None:
    """A legend above the axes with one entry for each kind of mark."""
    handles, names = ax.get_legend_handles_labels()
    first = dict(zip(reversed(names), reversed(handles), strict=True))
    if len(first) > 1:
        ax.legend(
            list(first.values())[::-1], list(first)[::-1], loc="lower left",
            bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=panels.TEXT - 1, frameon=False,
        )  # fmt: skip
