"""Pictures of results; matplotlib is imported when one is drawn."""

from smcguide.plots.posterior import plot_inverse_problem, plot_posterior

__all__ = ["plot_inverse_problem", "plot_posterior"]
