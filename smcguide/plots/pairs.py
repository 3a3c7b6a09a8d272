"""A matrix of weighted marginals: histograms on the diagonal, points sized by weight below it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput
from smcguide.plots import panels
from smcguide.posterior import Posterior

MOST_DEFAULT = 4

_AREA = 8.0  # square points of a particle with weight 1 / N
_LARGEST = 120.0


def plot_pairs(
    posterior: Posterior,
    *,
    coordinates: Sequence[int | str] | None = None,
    system: int = 0,
    axes: Any = None,
) -> np.ndarray:
    """Weighted histograms and scatter plots of D chosen coordinates of one system.

    The area of a point is in proportion to its weight, up to 15 times that of weight 1 / N; particles
    without weight are left out. For replicates as one population pass `posterior.pooled()`.

    Arguments:
        posterior: what to show.
        coordinates: indices into the flattened event, and names of parameters, which stand for all their
            entries; default the parameters and the first coordinates, four in all.
        system: which of the S systems.
        axes: (D, D) axes; default a new figure.

    Returns:
        The axes (D, D); those above the diagonal are empty and hidden.

    Raises:
        InvalidInput: for coordinates, a system or axes that do not fit.
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_pairs", posterior)
    panels.check_system(system, len(posterior.log_w), "plot_pairs")
    names, columns = _choose(posterior, coordinates, system)
    D = len(names)
    if axes is None:
        axes = panels.new_figure(1.0 + 1.3 * D, 0.8 + 1.3 * D).subplots(D, D, squeeze=False)
    axes = panels.given(axes, (D, D), "plot_pairs")
    W = panels.numbers(weights.normalise(posterior.log_w[system]))
    x, alive = panels.numbers(columns), W > 0
    area = (_AREA * len(W) * W[alive]).clip(max=_LARGEST)
    for i in range(D):
        for j in range(D):
            ax = axes[i, j]
            if j > i:
                ax.set_visible(False)
                continue
            if i == j:
                panels.histogram(ax, x[None, :, i], W[None])
            else:
                ax.scatter(
                    x[alive, j], x[alive, i], s=area, color=panels.COLOURS[0], alpha=0.45, lw=0
                )
            last, first = i == D - 1, j == 0 and i > 0
            panels.plain(ax, "", names[j] if last else "", names[i] if first else "")
            ax.locator_params(nbins=4) if i != j else ax.locator_params(axis="x", nbins=4)
            ax.tick_params(labelbottom=last, labelleft=first)
    _align(axes)
    return axes


def _align(axes: np.ndarray) -> None:
    """The same limits for a coordinate wherever it appears: those of its points and its histogram."""
    D = len(axes)
    for j in range(D):
        seen = [axes[i, j].get_xlim() for i in range(j, D)]
        seen += [axes[j, i].get_ylim() for i in range(j)]
        limits = min(low for low, _ in seen), max(high for _, high in seen)
        for i in range(j, D):
            axes[i, j].set_xlim(*limits)
        for i in range(j):
            axes[j, i].set_ylim(*limits)


def _choose(
    posterior: Posterior, coordinates: Sequence[int | str] | None, system: int
) -> tuple[list[str], Tensor]:
    """Names of the D columns, and the columns (N, D)."""
    x = posterior.x[system]
    flat, event = x.reshape(len(x), -1), tuple(x.shape[1:])
    d = flat.shape[1]
    chosen = coordinates
    if chosen is None:
        chosen = [*posterior.parameters, *range(min(d, MOST_DEFAULT))]
    names: list[str] = []
    columns: list[Tensor] = []
    for c in chosen:
        if isinstance(c, str) and c in posterior.parameters:
            value = posterior.parameters[c][system]
            values = value.reshape(len(value), -1).double()
            names += _entries(c, tuple(value.shape[1:]))
            columns += values.unbind(1)
        elif not isinstance(c, str) and 0 <= c < d:
            names.append(_entries("x", event)[c])
            columns.append(flat[:, c].double())
        else:
            raise InvalidInput(
                f"plot_pairs: there is no coordinate {c!r}; there are 0 to {d - 1} and the parameters "
                f"{sorted(posterior.parameters)}."
            )
    if not columns:
        raise InvalidInput("plot_pairs: coordinates is empty; name one at least.")
    most = MOST_DEFAULT if coordinates is None else len(columns)
    return names[:most], torch.stack(columns[:most], -1)


def _entries(name: str, shape: tuple[int, ...]) -> list[str]:
    """Names of the entries of an array, "x[0, 3]"; a number is called by its own name."""
    return [f"{name}[{', '.join(map(str, i))}]" if i else name for i in np.ndindex(*shape)]
