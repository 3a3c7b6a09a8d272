"""A filmstrip: how one final particle came about, along its ancestral line."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput, check_counts
from smcguide.plots import panels
from smcguide.plots.ranges import finite_range
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_trajectory(
    posterior: Posterior,
    *,
    system: int = 0,
    particle: int | None = None,
    num: int = 8,
    signal: bool | None = None,
    axes: Any = None,
) -> np.ndarray:
    """States of one particle and its ancestors at evenly spaced steps, from noise to data.

    Images have a grey scale of their own in each frame, as noise and data may differ by orders of
    magnitude. Signals are curves over their index. Vectors leave a line behind them: in the plane of
    their first two coordinates, or against the step where they have one.

    Arguments:
        posterior: of a run with record=("paths",) or record=("particles", "ancestors").
        system: which of the S systems.
        particle: which of its N final particles; default the heaviest.
        num: number of frames; there are no more than states.
        signal: whether events (d,) are signals; default those with more than 12 coordinates.
        axes: as many axes as frames; default a new figure.

    Returns:
        The axes, one per frame.

    Raises:
        InvalidInput: if the states were not recorded, or for a system, particle or number that is not
            there.
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_trajectory", posterior)
    S, N = posterior.log_w.shape
    panels.check_system(system, S, "plot_trajectory")
    if particle is None:
        particle = int(posterior.log_w[system].argmax())
    check_counts({"plot_trajectory: num": (num, 1), "plot_trajectory: particle": (particle, 0)})
    if particle >= N:
        raise InvalidInput(
            f"plot_trajectory: particle must be one of 0 to {N - 1}, got {particle}."
        )
    path = ancestral_line(posterior, system, particle)
    steps = np.unique(np.linspace(0, len(path) - 1, num).round().astype(int))
    if num == 1:
        steps = np.array([len(path) - 1])
    if axes is None:
        wide, high = (1.0, 1.4) if panels.is_image(path.shape[1:]) else (1.5, 2.1)
        axes = panels.new_figure(wide * len(steps), high).subplots(1, len(steps))
    axes = panels.given(axes, (len(steps),), "plot_trajectory")
    for ax, k in zip(axes, steps, strict=True):
        _frame(ax, path, k, signal)
        t = float(posterior.times[k])
        ax.set_title(
            f"step {k}" + (f"\nt = {t:.4g}" if np.isfinite(t) else ""), fontsize=panels.TEXT
        )
    for ax in [] if panels.is_image(path.shape[1:]) else axes[1:]:
        ax.set_yticklabels([])  # all frames have the first one's scale
    return axes


def ancestral_line(posterior: Posterior, system: int, particle: int) -> Tensor:
    """States (K + 1, *E) of a final particle and its ancestors.

    Raises:
        InvalidInput: if neither "paths" nor "particles" and "ancestors" were recorded.
    """
    recorded = posterior.recorded
    if "paths" in recorded:
        return recorded["paths"][system, :, particle]
    if not {"particles", "ancestors"} <= recorded.keys():
        raise InvalidInput(
            f"plot_trajectory: the run recorded {sorted(recorded)}; it needs "
            'record=("paths",), or ("particles", "ancestors").'
        )
    states, parents = recorded["particles"][system], recorded["ancestors"][system]
    line = [states[-1, particle]]
    for k in range(len(states) - 1, 0, -1):
        particle = int(parents[k, particle])
        line.append(states[k - 1, particle])
    return torch.stack(line[::-1])


def _frame(ax: "Axes", path: Tensor, k: int, signal: bool | None) -> None:
    event = path.shape[1:]
    if panels.is_image(event):
        state = path[k]
        panels.image(ax, state, (float(state.min()), float(state.max())))
        return
    colour = panels.COLOURS[0]
    if panels.is_curve(event, signal):
        ax.plot(panels.numbers(path[k]), color=colour, lw=1)
        x, y = np.array([0, event[0] - 1]), panels.numbers(path)
    else:
        flat = panels.numbers(path.reshape(len(path), -1))
        x = flat[:, 0] if flat.shape[1] > 1 else np.arange(len(path))
        y = flat[:, 1] if flat.shape[1] > 1 else flat[:, 0]
        ax.plot(x[: k + 1], y[: k + 1], color="0.5", lw=0.8)
        ax.plot(x[k], y[k], color=colour, marker="o", ms=5)
    panels.plain(ax, "")
    ax.set_xlim(*_around(x))
    ax.set_ylim(*_around(y))
    ax.set_box_aspect(1)


def _around(values: np.ndarray) -> tuple[float, float]:
    """Limits a little wider than the values."""
    low, high = finite_range(values)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin
