"""The genealogy of a run: who descends from whom, drawn without crossings.

A generation stands above the step it belongs to. Particles are ordered by their parent's place, so that
lines never cross; a resampler that returns ancestors in order, as the systematic one does, keeps
every particle in its own place. Lines that lead to a final particle with positive weight are dark, those
that died out are pale.
"""

from typing import TYPE_CHECKING

import numpy as np

from smcguide import weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput
from smcguide.plots import panels
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 100  # per generation
ALIVE, DEAD = "#004C78", "#CDB4A3"


def plot_genealogy(posterior: Posterior, *, system: int = 0, ax: "Axes | None" = None) -> "Axes":
    """Lines from parents to children of one system; of many particles, every second, third, ...

    Arguments:
        posterior: of a run with record=("ancestors",).
        system: which of the S systems.
        ax: where to draw; default a new figure.

    Returns:
        The axes, with two collections of segments: the dead lines and, above them, the surviving ones.

    Raises:
        InvalidInput: if the ancestors were not recorded, or there is no such system.
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_genealogy", posterior)
    if "ancestors" not in posterior.recorded:
        raise InvalidInput(
            "plot_genealogy: the run did not record its ancestors; "
            'run it with record=("ancestors",).'
        )
    S, N = posterior.log_w.shape
    panels.check_system(system, S, "plot_genealogy")
    ax = panels.one(ax, 6.4, 3.2)
    parents = posterior.recorded["ancestors"][system].cpu().numpy()
    final = panels.numbers(weights.normalise(posterior.log_w[system])) > 0
    every = -(-N // MOST_LINES)
    alive, dead = chosen_lines(parents, final, every)
    place = places(parents)
    _draw(ax, segments(parents, place, dead), DEAD, 0.6)
    _draw(ax, segments(parents, place, alive), ALIVE, 0.9)
    last = posterior.trace["unique_eves"].shape[1] - 1
    ax.set(xlim=(-0.02 * last, 1.02 * last), ylim=(-0.03 * N, 1.03 * N - 1))
    panels.whole_steps(ax)
    eves = len(np.unique(panels.numbers(posterior.eves[system])[final]))
    which = f"System {system}: " if posterior.has_systems else ""
    thinned = f"; 1 of {every} lines" if every > 1 else ""
    title = f"{which}{eves} of {N} initial particles survive{thinned}"
    panels.plain(ax, title, "step", "particle, by its ancestors")
    return ax


def places(parents: np.ndarray) -> np.ndarray:
    """Where each particle (K + 1, N) stands in its generation: ordered by its parent's place."""
    own = np.arange(parents.shape[1])
    rows = [own]
    for generation in parents[1:]:
        order = np.argsort(rows[-1][generation], kind="stable")
        rows.append(np.empty_like(own))
        rows[-1][order] = own
    return np.stack(rows)


def chosen_lines(
    parents: np.ndarray, final: np.ndarray, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Which particles (K + 1, N) lie on surviving lines, and on dead ones.

    Arguments:
        parents: (K + 1, N) indices into the generation before; the first row is not used.
        final: (N,) which final particles count as alive.
        every: take one of so many ends of lines, in order of their places.
    """
    place = places(parents)
    ends = np.flatnonzero(final)[np.argsort(place[-1][final])]
    alive, shown, dead = (np.zeros(parents.shape, dtype=bool) for _ in range(3))
    alive[-1], dead[-1] = final, ~final & (place[-1] % every == 0)
    shown[-1, ends[::every]] = True
    for k in range(len(parents) - 1, 0, -1):
        here, before = parents[k], k - 1
        childless = np.ones(parents.shape[1], dtype=bool)
        childless[here] = False
        alive[before, here[alive[k]]] = True
        shown[before, here[shown[k]]] = True
        dead[before, here[dead[k]]] = True
        dead[before] |= childless & (place[before] % every == 0)
        dead[before] &= ~alive[before]
    return shown, dead


def segments(parents: np.ndarray, place: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Lines (M, 2, 2) from the parent of each marked particle (K + 1, N) to itself, as (step, place)."""
    k, child = np.nonzero(which[1:])
    start = np.stack([k, place[k, parents[k + 1, child]]], -1)
    return np.stack([start, np.stack([k + 1, place[k + 1, child]], -1)], 1)


def _draw(ax: "Axes", lines: np.ndarray, colour: str, width: float) -> None:
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(lines, colors=colour, linewidths=width))  # type: ignore[arg-type]
