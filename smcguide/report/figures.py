"""The pictures of a report, each as one data address with a text that says in numbers what it shows.

A picture is embedded as SVG or as PNG, whichever is smaller: lines are sharp and small as SVG, clouds of
points and families of many lines are smaller as PNG. Wide figures are drawn narrower than they are by
default, so that their text can be read on a phone.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smcguide import plots
from smcguide.posterior import Posterior
from smcguide.report import alternatives

MOST_PAIRED = 12  # coordinates of an event whose first pairs are shown
NARROW = 4.8  # inches

_DPI = 130


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        source: data address of an SVG or a PNG.
        alt: what it shows, in sentences with numbers.
        caption: how to read it.
        width, height: in CSS pixels.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int


def pictures(posterior: Posterior) -> Iterator[Picture]:
    """The figures of one run: posterior, pairs of coordinates, the run, weights, genealogy."""
    yield _picture(
        plots.plot_posterior(posterior).subfigs[0], alternatives.of_posterior(posterior),
        "What the particles look like, counted by their weights."
        + (" Grey images share one scale." if posterior.x.ndim >= 4 else ""),
    )  # fmt: skip
    vector = posterior.x.ndim == 3 and 2 <= posterior.x.shape[2] <= MOST_PAIRED
    if vector or posterior.parameters:
        axes = plots.plot_pairs(posterior)
        yield _picture(
            axes[0, 0].figure, alternatives.of_pairs(posterior, axes),
            "Histograms and pairs of the first unknowns; the area of a point is its weight.",
        )  # fmt: skip
    yield _picture(
        _narrow(plots.plot_run(posterior)[0]), alternatives.of_run(posterior),
        "The run, step by step, from noise (left) to data (right). What spoils a result: an effective "
        "sample size (ESS) that falls to 1, a log evidence that leaps in the last steps, one "
        "initial ancestor left.",
    )  # fmt: skip
    yield _picture(
        plots.plot_weights(posterior).figure, alternatives.of_weights(posterior),
        "The share of the weight that the heaviest particles hold: the nearer to the line of equal "
        "weights, the more particles carry the answer.",
    )  # fmt: skip
    if "ancestors" in posterior.recorded:
        yield _picture(
            _narrow(plots.plot_genealogy(posterior)), alternatives.of_genealogy(posterior),
            "Lines of descent; dark ones lead to a final particle. Before the step where dark lines "
            "meet, the answer rests on one particle's history.",
        )  # fmt: skip


def evidence_picture(posteriors: Mapping[str, Posterior]) -> Picture | None:
    """Log evidence of several runs side by side; None where no run has any."""
    told = {name: post for name, post in posteriors.items() if bool(post.log_z.isfinite().any())}
    if not told:
        return None
    plain = {
        name.replace("$", r"\$"): post for name, post in told.items()
    }  # a dollar is no formula
    return _picture(
        _narrow(plots.plot_evidence(plain)), alternatives.of_evidence(told),
        "Log evidence with standard errors. Runs of the same prior and cost should agree within them.",
    )  # fmt: skip


def _narrow(axes: Any) -> Any:
    """The figure of these axes, made narrow."""
    figure = axes.figure
    figure.set_figwidth(NARROW)
    return figure


def _picture(figure: Any, alt: str, caption: str) -> Picture:
    """A picture of a figure, or of a part of one."""
    from matplotlib import rc_context

    whole = figure.get_figure(root=True)
    whole.draw_without_rendering()
    whole.set_layout_engine("none")  # it is laid out; once is enough for both files
    box = figure.bbox.transformed(whole.dpi_scale_trans.inverted())
    files = {"svg+xml": io.BytesIO(), "png": io.BytesIO()}
    with rc_context({"svg.hashsalt": "smcguide"}):  # the same picture is the same text
        whole.savefig(
            files["svg+xml"], format="svg", bbox_inches=box, metadata={"Date": None}
        )  # fmt: skip
    whole.savefig(files["png"], format="png", bbox_inches=box, dpi=_DPI)
    kind, content = min(((k, f.getvalue()) for k, f in files.items()), key=lambda kf: len(kf[1]))
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(source, alt, caption, round(96 * box.width), round(96 * box.height))
