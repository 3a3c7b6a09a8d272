"""How the final weight is shared: a few particles with most of it make every answer a guess.

The curve is the share of the r heaviest particles, r from 1 to N on a logarithmic scale. Equal weights
give the grey line r / N. Two numbers stand for its shape: ESS, and the Pareto k of the largest weights
(Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", arXiv 1507.02646), above
0.7 of which averages converge too slowly to be believed.
"""

from typing import TYPE_CHECKING

import numpy as np

from smcguide import weights
from smcguide.diagnostics.inputs import require_posterior
from smcguide.plots import panels
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_weights(posterior: Posterior, *, ax: "Axes | None" = None) -> "Axes":
    """Share of the weight that the heaviest particles hold, of the first four systems.

    The title has ESS and Pareto k, of several systems the smallest and the largest over all of them.

    Arguments:
        posterior: whose final weights to show.
        ax: where to draw; default a new figure.

    Raises:
        MissingExtra: without matplotlib.
    """
    require_posterior("plot_weights", posterior)
    from smcguide.diagnostics.tails import pareto_k

    S, N = posterior.log_w.shape
    shown = min(S, panels.MOST_SYSTEMS)
    ess, k = panels.numbers(weights.ess(posterior.log_w)), panels.numbers(pareto_k(posterior.log_w))
    ax = panels.one(ax, 4.4, 3.0)
    rank = np.arange(1, N + 1)
    ax.plot(rank, rank / N, color="0.6", lw=0.8, label="equal weights")
    W = panels.numbers(weights.normalise(posterior.log_w[:shown]))
    for s, share in enumerate(np.cumsum(-np.sort(-W, -1), -1)):
        name = f"system {s}: ESS {ess[s]:.1f}, k {k[s]:.2f}" if S > 1 else "heaviest particles"
        ax.plot(rank, share, color=panels.COLOURS[s], ls=panels.STYLES[s], lw=1.4, label=name)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlim=(1, N) if N > 1 else (0.5, 2), ylim=(0, 1.03))
    title = f"ESS {_range(ess, '.1f')} of {N}, Pareto k {_range(k, '.2f')}"
    panels.plain(ax, title, "number of heaviest particles", "share of the weight")
    panels.legend(ax, panels.first_of(shown, S))
    return ax


def _range(values: np.ndarray, form: str) -> str:
    known = values[~np.isnan(values)]
    if not known.size:
        return "unknown"
    ends = [format(v, form) for v in (known.min(), known.max())]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
