"""A posterior for ArviZ: `InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x.

ArviZ summarises equal-weight draws, so the group `posterior` holds a resample; the weighted
particles are in `weighted_posterior`, the history of the run in `smc` (see `bridges.netcdf`).
"""

from collections.abc import Mapping
from typing import Any

from smcguide.bridges.netcdf import datasets
from smcguide.errors import MissingExtra
from smcguide.posterior import Posterior


def to_arviz(posterior: Posterior, num_draws: int | None = None) -> Any:
    """A posterior as ArviZ's own container.

    A chain is a system: R-hat compares replicates of one problem (num_systems=4) and means nothing
    for systems with different observations. ArviZ's effective sample size looks for
    autocorrelation, of which equal-weight draws have none; of the weights speaks `posterior.ess`.

    Arguments:
        posterior: what to export.
        num_draws: equal-weight draws per system; default as many as particles, at most 1000.

    Raises:
        InvalidInput: for num_draws below 1.
        MissingExtra: without ArviZ.
    """
    return container(datasets(posterior, num_draws))


def container(groups: Mapping[str, Any]) -> Any:
    """ArviZ's container of xarray datasets, group name -> dataset; "/" holds the attributes.

    Raises:
        MissingExtra: without ArviZ.
    """
    try:
        import arviz
    except ImportError as error:
        raise MissingExtra("arviz", "arviz", "to_arviz") from error
    if int(arviz.__version__.split(".")[0]) >= 1:
        from xarray import DataTree

        return DataTree.from_dict(dict(groups))
    members = {name: group for name, group in groups.items() if name != "/"}
    return arviz.InferenceData(attrs=groups["/"].attrs, **members)
