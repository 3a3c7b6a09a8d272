"""The particle system in motion, as a GIF: one frame per step.

Memory: the frames of a GIF are kept until it is written, about 0.5 MB each; a long run is thinned to
`num_frames` of them. Of the recorded states only the step that is drawn is copied.
"""

from pathlib import Path

import numpy as np

from smcguide.bridges.places import check_place
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput, check_counts
from smcguide.plots import panels
from smcguide.plots.film import Film
from smcguide.posterior import Posterior

_DPI = 100


def animate(
    posterior: Posterior,
    path: str | Path,
    *,
    fps: float = 5.0,
    system: int = 0,
    num_frames: int = 60,
    signal: bool | None = None,
) -> Path:
    """Write a GIF of the particles of one system, from noise to data.

    Images are shown as a grid of the first 16 particles, each on a grey scale of its own; signals as
    the curves of the first 50; other vectors as points in the plane of their first two coordinates, at
    most 2000 of them, or as a weighted histogram where they have one. If log-weights were recorded too,
    the colour of a point or curve, and the number over an image, is N W: its weight in units of the
    average. The axes narrow as the noise goes, and never widen.

    Arguments:
        posterior: of a run with record=("particles",) or ("particles", "log_weights").
        path: of the file.
        fps: frames per second.
        system: which of the S systems.
        num_frames: at most so many, evenly spaced, the first and the last state always among them.
        signal: whether events (d,) are signals; default those with more than 12 coordinates.

    Returns:
        The path.

    Raises:
        InvalidInput: if the states were not recorded, for numbers out of range, a path not to a .gif, or
            a folder that is not there.
        MissingExtra: without matplotlib.
    """
    require_posterior("animate", posterior)
    if "particles" not in posterior.recorded:
        raise InvalidInput(
            'animate: the run did not record its states; run it with record=("particles",), or '
            '("particles", "log_weights") for colours.'
        )
    panels.check_system(system, len(posterior.log_w), "animate")
    path = Path(path)
    check_counts({"animate: num_frames": (num_frames, 2)})
    if fps <= 0 or path.suffix.lower() != ".gif":
        raise InvalidInput(
            f"animate: fps must be positive and path end in .gif; got {fps} and {path.name!r}."
        )
    check_place("animate", path)
    states = posterior.recorded["particles"][system]
    log_w = posterior.recorded.get("log_weights")
    steps = np.linspace(0, len(states) - 1, min(num_frames, len(states))).round().astype(int)
    film = Film(states, None if log_w is None else log_w[system], steps, signal)
    figure = panels.new_figure(4.2, 4.4)
    figure.set_layout_engine("none")  # whose axes would move from frame to frame
    from matplotlib.animation import PillowWriter

    writer = PillowWriter(fps=fps)  # type: ignore[arg-type]
    writer.setup(figure, str(path), _DPI)
    for i, k in enumerate(steps):
        figure.clear()
        film.draw(figure, i)
        t = float(posterior.times[k])
        time = f", t = {t:.4g}" if np.isfinite(t) else ""
        title = f"step {k} of {len(states) - 1}{time}{film.key}"
        figure.suptitle(title, fontsize=panels.TEXT + 1)
        writer.grab_frame()
    writer.finish()
    return path
