"""Groups of arrays as a zarr store, a folder of many small files.

Format 2 with consolidated metadata: the one that every zarr reads, and that nobody warns of.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from smcguide.bridges.netcdf import require

if TYPE_CHECKING:
    from xarray import Dataset

ENGINE = ("zarr",)


def write(parts: "Mapping[str, Dataset]", path: Path) -> None:
    """Write xarray datasets, group name -> dataset, to a new folder."""
    for group, dataset in parts.items():
        dataset.to_zarr(
            path,
            group=group,
            mode="a",
            zarr_format=2,
            consolidated=False,
            encoding={name: {"_FillValue": None} for name in dataset.variables},
        )
    require("zarr").consolidate_metadata(path, zarr_format=2)


def read(path: Path, groups: Iterable[str]) -> "dict[str, Dataset | None]":
    """These groups of a store, in memory; None for a group that is not there. The attributes "/" come
    always."""
    xr, zarr = require("xarray"), require("zarr")
    there = set(zarr.open_group(path, mode="r").group_keys())
    out: dict[str, Dataset | None] = {}
    for group in ("/", *groups):
        if group != "/" and group not in there:
            out[group] = None
            continue
        with xr.open_dataset(path, group=group, engine="zarr", chunks=None) as dataset:
            out[group] = dataset.load()
    return out
