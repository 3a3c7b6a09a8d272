"""Groups of arrays as one netCDF file, and what every file and export needs.

After the end of the netCDF, where readers do not look, stands the checksum of the bytes before it: one
wrong bit can keep the HDF5 library busy for minutes, so a file is looked at before it is parsed. A
file that another program wrote or added to has lost this mark; it has the seal of its numbers only (see
`bridges.seal`).
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smcguide.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from xarray import Dataset

ENGINE = ("h5netcdf", "h5py")

_MARK = b"smcguide sha256 "
_BLOCK = 2**20


def to_numpy(a: Tensor) -> np.ndarray:
    """A tensor of any device, with or without gradient, as an array of the same dtype."""
    return a.detach().cpu().numpy()


def require(package: str) -> Any:
    """The package of the extra `arviz`, imported now.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtra(package, "arviz", "Saving, loading or exporting a posterior") from error


def write(parts: "Mapping[str, Dataset]", path: Path) -> None:
    """Write xarray datasets, group name -> dataset with "/" first, to a new file."""
    for group, dataset in parts.items():
        dataset.to_netcdf(
            path,
            mode="w" if group == "/" else "a",
            group=group,
            engine="h5netcdf",
            encoding={name: {"_FillValue": None} for name in dataset.variables},
        )
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(_MARK + digest)


def read(path: Path, groups: Iterable[str]) -> "dict[str, Dataset | None]":
    """These groups of a file, in memory; None for a group that is not there. The attributes "/" come
    always. HDF5 is read as such: five times as fast as by way of xarray.

    Raises:
        InvalidInput: where the bytes are not those that were written.
    """
    xr, h5py = require("xarray"), require("h5py")
    _check_bytes(path)
    with h5py.File(path) as file:
        out: dict[str, Dataset | None] = {"/": xr.Dataset(attrs=_attributes(file))}
        for group in groups:
            members = file[group].items() if group in file else ()
            arrays = {key: _variable(a) for key, a in members if not a.is_scale}
            out[group] = xr.Dataset(arrays) if group in file else None
    return out


def _variable(a: Any) -> tuple[tuple[str, ...], np.ndarray, dict[str, Any]]:
    """Axes, values and attributes of an HDF5 dataset; netCDF has no type for truth values."""
    axes = tuple(PurePosixPath(scale[0].name).name for scale in a.dims)
    attrs, values = _attributes(a), a[()]
    return axes, values.astype(bool) if attrs.get("dtype") == "bool" else values, attrs


def _attributes(a: Any) -> dict[str, Any]:
    """Without those of netCDF itself; the C library writes text as bytes."""
    own = {key: value for key, value in a.attrs.items() if not key.startswith("_")}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in own.items()}


def _check_bytes(path: Path) -> None:
    size = path.stat().st_size - len(_MARK) - sha256().digest_size
    with path.open("rb") as file:
        file.seek(max(size, 0))
        mark, digest = file.read(len(_MARK)), file.read()
    if mark == _MARK and digest != _digest(path, size):
        raise InvalidInput("its bytes do not match their checksum")


def _digest(path: Path, size: int) -> bytes:
    """Of the first `size` bytes."""
    total = sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            total.update(block)
            size -= len(block)
    return total.digest()
