"""How a run went: panels over its steps.

ESS falls as the weights part, and comes back where a system resamples; log Z runs towards its final
value, which has an error bar; resampling merges families, and a run in which few initial particles
still have descendants has explored little, whatever its final ESS says.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from smcguide.diagnostics.inputs import require_posterior
from smcguide.plots import panels
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = {  # further numbers of a run, each between 0 and 1
    "strength": "temperature: strength of the potential",
    "acceptance": "accepted moves",
    "parameter_acceptance": "accepted moves of parameters",
}


def plot_run(posterior: Posterior, *, axes: Any = None) -> "np.ndarray":
    """ESS, running log Z, resampling times, ancestors and temperature against the step.

    Lines are those of the first four systems; the resampling times are those of all. In the panel of
    ancestors, lines are initial particles that still have descendants, open marks the distinct parents
    that a resampling chose. Strengths of a tempered potential and acceptance rates have a panel each,
    where the run reports them.

    Arguments:
        posterior: the run.
        axes: as many axes as there are panels, 4 or more; default a new figure.

    Returns:
        The axes (4 or more,), from top to bottom.

    Raises:
        InvalidInput: for a wrong number of axes.
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_run", posterior)
    S, N = posterior.log_w.shape
    levels = [n for n in _LEVELS if n in posterior.trace and _is_told(posterior, n)]
    rows = 4 + len(levels)
    if axes is None:
        figure = panels.new_figure(6.4, 0.5 + 1.2 * rows)
        axes = figure.subplots(rows, 1, sharex=True)
    axes = panels.given(axes, (rows,), "plot_run")
    ess, evidence, times, ancestors, *others = axes
    ess_panel(ess, posterior)
    panels.plain(ess, f"ESS of {N} particles (dots: resampled)")
    evidence_panel(evidence, posterior)
    resampling_panel(times, posterior)
    eves_panel(ancestors, posterior)
    _parents(ancestors, posterior)
    panels.plain(ancestors, "initial ancestors alive (marks: parents chosen)")
    for ax, name in zip(others, levels, strict=True):
        _level(ax, posterior, name)
    panels.whole_steps(axes[-1])
    axes[-1].set_xlabel("step", fontsize=panels.TEXT)
    if S > 1:
        shown = panels.first_of(min(S, panels.MOST_SYSTEMS), S)
        evidence.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0, fontsize=panels.TEXT - 1,
            frameon=False, title=shown.replace(" of", "\nof") or None,
            title_fontsize=panels.TEXT - 1,
        )  # fmt: skip
    return axes


def ess_panel(ax: "Axes", posterior: Posterior) -> None:
    """ESS per step, dots where a system resampled."""
    resampled, ess = (panels.numbers(posterior.trace[name]) for name in ("resampled", "ess"))
    for s, look in _first_systems(posterior):
        again = np.flatnonzero(resampled[s]).tolist()
        ax.plot(ess[s], lw=1.2, marker=panels.MARKERS[s], ms=3, markevery=again, **look)
    ax.set_ylim(0, 1.05 * posterior.log_w.shape[1])
    panels.plain(ax, "ESS (dots: resampled)")


def evidence_panel(ax: "Axes", posterior: Posterior) -> None:
    """Running log Z, with the standard error of the last."""
    log_z = panels.numbers(posterior.trace["log_evidence"])
    se = panels.numbers(posterior.log_evidence_se.reshape(-1))
    for s, look in _first_systems(posterior):
        ax.plot(log_z[s], lw=1.2, label=f"system {s}", **look)
        if np.isfinite(se[s]) and np.isfinite(log_z[s, -1]):
            ax.errorbar(len(log_z[s]) - 1, log_z[s, -1], se[s], color=look["color"], capsize=2)
    if not np.isfinite(log_z).any():
        panels.say(ax, f"no log Z: {posterior.exactness}")
        ax.set_yticks([])
    panels.plain(ax, "running log evidence")


def resampling_panel(ax: "Axes", posterior: Posterior) -> None:
    """One row per system, a tick at each step that began with a resampling."""
    resampled = panels.numbers(posterior.trace["resampled"]) > 0
    S, steps = resampled.shape
    rows = [np.flatnonzero(row) for row in resampled]
    colours = [panels.COLOURS[s] if s < panels.MOST_SYSTEMS else "0.4" for s in range(S)]
    ax.eventplot(
        rows, lineoffsets=range(S), linelengths=0.8 if S < 20 else 1, linewidths=1.5, colors=colours
    )
    ax.set(xlim=(-0.03 * steps, 1.03 * steps - 1), ylim=(S - 0.4, -0.6))
    ax.set_yticks(range(S) if S <= panels.MOST_SYSTEMS else [0, S - 1])
    panels.plain(ax, "resampled", y="system")


def eves_panel(ax: "Axes", posterior: Posterior) -> None:
    """Initial particles with descendants, on a logarithmic scale."""
    eves = panels.numbers(posterior.trace["unique_eves"])
    for s, look in _first_systems(posterior):
        ax.plot(eves[s], lw=1.2, **look)
    ax.set_yscale("log")
    ax.set_ylim(0.8, 1.3 * posterior.log_w.shape[1])
    ax.yaxis.set_major_formatter("{x:g}")
    panels.plain(ax, "initial ancestors alive")


def _parents(ax: "Axes", posterior: Posterior) -> None:
    """Distinct parents at the steps that resampled."""
    resampled = panels.numbers(posterior.trace["resampled"]) > 0
    parents = panels.numbers(posterior.trace["unique_ancestors"])
    for s, look in _first_systems(posterior):
        at = np.flatnonzero(resampled[s])
        ax.plot(at, parents[s, at], ls="", marker=panels.MARKERS[s], ms=4, mfc="none",
                color=look["color"])  # fmt: skip


def _level(ax: "Axes", posterior: Posterior, name: str) -> None:
    values = panels.numbers(posterior.trace[name])
    for s, look in _first_systems(posterior):
        ax.plot(values[s], lw=1.2, marker=".", ms=3, **look)
    ax.set_ylim(-0.03, 1.05)
    panels.plain(ax, _LEVELS[name])


def _is_told(posterior: Posterior, name: str) -> bool:
    return bool(posterior.trace[name].isfinite().any())


def _first_systems(posterior: Posterior) -> list[tuple[int, dict[str, Any]]]:
    """Indices of the systems shown, and how their lines look."""
    shown = range(min(len(posterior.log_w), panels.MOST_SYSTEMS))
    return [(s, {"color": panels.COLOURS[s], "ls": panels.STYLES[s]}) for s in shown]
