"""Pictures of results; matplotlib is imported when one is drawn."""

from smcguide.plots.animation import animate
from smcguide.plots.calibration import plot_coverage, plot_ranks
from smcguide.plots.evidence import plot_evidence
from smcguide.plots.genealogy import plot_genealogy
from smcguide.plots.inverse_problem import plot_inverse_problem
from smcguide.plots.pairs import plot_pairs
from smcguide.plots.posterior import plot_posterior
from smcguide.plots.run import plot_run
from smcguide.plots.trajectory import plot_trajectory
from smcguide.plots.weights import plot_weights

__all__ = [
    "animate",
    "plot_coverage",
    "plot_evidence",
    "plot_genealogy",
    "plot_inverse_problem",
    "plot_pairs",
    "plot_posterior",
    "plot_ranks",
    "plot_run",
    "plot_trajectory",
    "plot_weights",
]
