"""Where results go: files, ArviZ, pictures, a verdict, a report. Each imports what it needs late."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from smcguide.costs.base import TerminalCost
    from smcguide.diagnostics.verdict import Verdict
    from smcguide.posterior import Posterior
    from smcguide.priors.base import Prior


class Exports:
    """Ways out of a `Posterior`."""

    def to_arviz(
        self,
        num_draws: int | None = None,
        *,
        prior: "Prior | None" = None,
        cost: "TerminalCost | None" = None,
        seed: int = 0,
    ) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x); needs the extra `arviz`.

        A chain is a system: R-hat compares replicates of one problem (num_systems=4) and means nothing
        for systems with different observations; of those, take one: data.isel(chain=[0]). ArviZ's
        effective sample size looks for autocorrelation, of which equal-weight draws have none; of the
        weights speaks `ess`.

        Groups: posterior, sample_stats, weighted_posterior and smc, see `smcguide.bridges.files`.

        Arguments:
            num_draws: equal-weight draws per system; default as many as particles, at most 1000.
            prior: the `Prior` of the run, for the group prior: as many draws, by its chain, which costs K
                evaluations of the network each.
            cost: the `TerminalCost` of the run, a likelihood such as `LinearGaussian`, for the groups
                observed_data, constant_data, log_likelihood (pointwise, for `arviz.loo`) and
                posterior_predictive; with a prior also prior_predictive. Of a sum, the likelihoods count.
            seed: of draws and new data.

        Raises:
            InvalidInput: for num_draws that is no whole number of at least 1, a cost without data, e.g. a
                plain function, and a prior or cost that is none or does not fit the run.
            MissingExtra: without xarray or ArviZ.
        """
        from smcguide.bridges.arviz import to_arviz

        return to_arviz(_posterior(self), num_draws, prior=prior, cost=cost, seed=seed)

    def save(self, path: str | Path) -> None:
        """Write a netCDF file (.nc) or a zarr store (.zarr) that `Posterior.load`, xarray and ArviZ open;
        what is there is replaced. Needs the extra `arviz`.

        Raises:
            InvalidInput: for another suffix, a missing folder, and a path that holds something else.
            MissingExtra: without the packages.
        """
        from smcguide.bridges.files import save

        save(_posterior(self), Path(path))

    @staticmethod
    def load(path: str | Path) -> "Posterior":
        """What `save` wrote, bit by bit, onto the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            InvalidInput: for a file of another program, and for a damaged one.
            MissingExtra: without the packages.
        """
        from smcguide.bridges.files import load

        return load(Path(path))

    def verdict(self) -> "Verdict":
        """What speaks against trusting this run, worst first, and what to do about it; see
        `smcguide.diagnostics.verdict`."""
        from smcguide.diagnostics import verdict

        return verdict(_posterior(self))

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML page about this run; needs the extra `plots`.

        Raises:
            InvalidInput: for a folder that does not exist.
            MissingExtra: without matplotlib or jinja2.
        """
        from smcguide.report import write_report

        write_report(_posterior(self), Path(path))

    def plot(self) -> Any:
        """A figure of the posterior and of the run; needs the extra `plots`."""
        from smcguide.plots import plot_posterior

        return plot_posterior(_posterior(self))


def _posterior(result: Exports) -> "Posterior":
    return cast("Posterior", result)
