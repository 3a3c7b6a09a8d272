"""Where results go: files, ArviZ, pictures, a verdict, a report. Each imports what it needs late."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from smcguide.posterior import Posterior


class Exports:
    """Ways out of a `Posterior`."""

    def to_arviz(self, num_draws: int | None = None) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x); needs the extra `arviz`."""
        from smcguide.bridges.arviz import to_arviz

        return to_arviz(_posterior(self), num_draws)

    def save(self, path: str | Path) -> None:
        """Write a netCDF file that `Posterior.load`, xarray and ArviZ open; needs the extra `arviz`."""
        from smcguide.bridges.netcdf import save

        save(_posterior(self), Path(path))

    @staticmethod
    def load(path: str | Path) -> "Posterior":
        """Read a file written by `save`, onto the CPU."""
        from smcguide.bridges.netcdf import load

        return load(Path(path))

    def verdict(self) -> Any:
        """What speaks against trusting this run, worst first, and what to do about it; see
        `smcguide.diagnostics.verdict`."""
        from smcguide.diagnostics import verdict

        return verdict(_posterior(self))

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML page about this run; needs the extra `plots`."""
        from smcguide.report import write_report

        write_report(_posterior(self), Path(path))

    def plot(self) -> Any:
        """A figure of the posterior and of the run; needs the extra `plots`."""
        from smcguide.plots import plot_posterior

        return plot_posterior(_posterior(self))


def _posterior(result: Exports) -> "Posterior":
    return cast("Posterior", result)
