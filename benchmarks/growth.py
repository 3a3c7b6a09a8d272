"""How a value grows with a size: slopes of lines through the logarithms, their table and figure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from page import spread

from smcguide.plots.panels import COLOURS, MARKERS, STYLES, TEXT, legend, new_figure, plain


@dataclass(frozen=True)
class Growth:
    """Values at some sizes, measured several times.

    Attributes:
        what, unit: is measured.
        axis: the name of the sizes.
        sizes: as many as each of `turns` has values.
    """

    what: str
    unit: str
    axis: str
    sizes: Sequence[int]
    turns: Sequence[Sequence[float]]

    @property
    def slopes(self) -> list[float]:
        """Of the line of least squares through the logarithms, turn by turn."""
        x = [math.log(n) for n in self.sizes]
        fits = [statistics.linear_regression(x, [math.log(v) for v in t]) for t in self.turns]
        return [fit.slope for fit in fits]

    @property
    def medians(self) -> list[float]:
        """Of each size."""
        return [statistics.median(column) for column in zip(*self.turns, strict=True)]

    def row(self) -> list[str]:
        """In a table: what, against what, slope, values."""
        values = ", ".join(f"{n}: {v:.3g}" for n, v in zip(self.sizes, self.medians, strict=True))
        return [f"{self.what}, {self.unit}", self.axis, spread(self.slopes), values]


def figure(found: Sequence[Growth], path: Path) -> None:
    """Values against sizes with their slopes: a row for each unit, a column for each axis."""
    units, sizes = (list(dict.fromkeys(getattr(g, a) for g in found)) for a in ("unit", "axis"))
    fig = new_figure(2.7 * len(sizes), 2.5 * len(units))
    for row, unit in zip(fig.subplots(len(units), len(sizes), squeeze=False), units, strict=True):
        for ax, axis in zip(row, sizes, strict=True):
            lines = [g for g in found if (g.unit, g.axis) == (unit, axis)]
            for g, colour, marker, style in zip(lines, COLOURS, MARKERS, STYLES, strict=False):
                label = f"{g.what}: {statistics.median(g.slopes):.2f}"
                look = {"color": colour, "marker": marker, "ms": 4, "lw": 1.2, "ls": style}
                ax.loglog(g.sizes, g.medians, label=label, **look)
            plain(ax, "", axis, unit if ax is row[0] else "")
            ax.tick_params(which="minor", labelsize=TEXT - 2)
            if lines and lines[0].sizes[-1] < 100 * lines[0].sizes[0]:  # few enough to be read
                ax.set_xticks([], minor=True)
                ax.set_xticks(lines[0].sizes, lines[0].sizes)
            legend(ax)
    fig.savefig(path)
