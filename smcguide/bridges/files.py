"""A posterior as a file, and back without the loss of a bit: netCDF (.nc) or zarr (.zarr).

Groups, each readable on its own (`xarray.open_dataset(path, group="smc")`):

    posterior           x0 and parameters (chain, draw, ...)   equal-weight draws
    sample_stats        particle, log_weight, eve (chain, draw)   of the particle that each draw is
    weighted_posterior  x0 and parameters (chain, particle, ...); log_weight and eve (chain, particle)
    smc                 log_evidence, log_evidence_se, dtm_bound (chain); time (step);
                        trace and recorded arrays (chain, step, ...); log_evidence_increment

A chain is a system. Of parameters, and in `smc`, the attributes `role` and `name` of a variable say what
it is; where a name is taken, as that of a final number is to a trace, the variable is called
<name>_<role>. The file's own attributes hold the format, the version, a checksum (see `bridges.seal`),
and evaluations, settings and flags as JSON. A damaged file raises and yields no number. Groups that
others add stay unread.

ArviZ opens both with `from_netcdf` and `from_zarr`; ArviZ 0.23, which refuses zarr 3, by
`InferenceData.from_datatree(xarray.open_datatree(path, engine="zarr"))`.
"""

import json
import os
import shutil
from pathlib import Path
from secrets import token_hex
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from smcguide.bridges import netcdf, zarr
from smcguide.bridges.datasets import datasets
from smcguide.bridges.netcdf import require
from smcguide.bridges.places import check_place
from smcguide.bridges.seal import GROUPS, check_seal, sealed
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from xarray import Dataset

_FORMATS: dict[str, ModuleType] = {".nc": netcdf, ".nc4": netcdf, ".netcdf": netcdf, ".zarr": zarr}


def save(posterior: Posterior, path: Path) -> None:
    """Write a posterior to `path`; what is there is replaced once the new one is complete.

    Raises:
        InvalidInput: for another suffix, arrays that do not fit each other, a folder that is not there,
            and a path that holds something else.
        MissingExtra: without xarray, h5netcdf, h5py or, for .zarr, zarr.
    """
    kind = _format(path)
    check_place("save", path, may_be_folder=True)  # a zarr store is one
    can_go = _is_store(path) if kind is zarr else path.is_file()
    if path.exists() and not can_go:
        kind_there = "folder" if path.is_dir() else "file"
        raise InvalidInput(
            f"save: {str(path)!r} is a {kind_there} of another kind, which is not overwritten."
        )
    check_shapes(posterior, "This posterior")
    for package in ("xarray", *kind.ENGINE):
        require(package)
    parts = sealed(datasets(posterior))
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        kind.write(parts, unfinished)
        _replace(unfinished, path)
    finally:
        _remove(unfinished)


def load(path: Path) -> Posterior:
    """The posterior that `save` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        InvalidInput: for a file that `save` did not write, and for a damaged one.
        MissingExtra: without xarray, h5netcdf, h5py or, for .zarr, zarr.
    """
    kind, where = _format(path), repr(str(path))
    for package in ("xarray", *kind.ENGINE):
        require(package)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {where}.")
    wanted = "a netCDF 4 file" if kind is netcdf else "a zarr store"
    try:
        found = kind.read(path, GROUPS)
    except Exception as error:  # a damaged file brings every kind
        raise InvalidInput(f"{where} is not {wanted}, or is damaged: {error}") from error
    posterior = _posterior(check_seal(found, where))
    check_shapes(posterior, where)
    return posterior


def check_shapes(posterior: Posterior, where: str) -> None:
    """Raise InvalidInput unless all arrays speak of the same systems, particles and steps."""
    if posterior.log_w.ndim != 2 or posterior.times.ndim != 1:
        raise InvalidInput(f"{where}: log-weights must be (S, N) and times (K + 1,).")
    (S, N), steps = posterior.log_w.shape, len(posterior.times)
    expected = {
        "x": (posterior.x, (S, N)), "eves": (posterior.eves, (S, N)),
        "log_z": (posterior.log_z, (S,)), "bound": (posterior.bound, (S,)),
        **{f"trace[{n!r}]": (a, (S, steps)) for n, a in posterior.trace.items()},
        **{f"recorded[{n!r}]": (a, (S, steps)) for n, a in posterior.recorded.items()},
        **{f"parameters[{n!r}]": (a, (S, N)) for n, a in posterior.parameters.items()},
    }  # fmt: skip
    wrong = [
        f"{name} {tuple(a.shape)}, expected {shape} first"
        for name, (a, shape) in expected.items()
        if tuple(a.shape[: len(shape)]) != shape
    ]
    if wrong:
        raise InvalidInput(
            f"{where} holds arrays that do not fit each other: for {S} systems of {N} particles and "
            f"{steps} times, " + "; ".join(wrong)
        )


def _posterior(groups: "dict[str, Dataset]") -> Posterior:
    about, weighted, smc = groups["/"].attrs, groups["weighted_posterior"], groups["smc"]

    def role(wanted: str, group: "Dataset" = smc) -> dict[str, Tensor]:
        chosen = [v for v in group.data_vars.values() if v.attrs.get("role") == wanted]
        return {v.attrs["name"]: _tensor(v) for v in chosen}

    return Posterior(
        x=_tensor(weighted["x0"]),
        log_w=_tensor(weighted["log_weight"]),
        eves=_tensor(weighted["eve"]),
        log_z=_tensor(smc["log_evidence"]),
        bound=_tensor(smc["dtm_bound"]),
        trace=role("trace"),
        times=_tensor(smc["time"]),
        recorded=role("recorded"),
        evaluations=json.loads(about["evaluations"]),
        settings=json.loads(about["settings"]),
        parameters=role("parameter", weighted),
        **json.loads(about["flags"]),
    )


def _tensor(variable: Any) -> Tensor:
    return torch.from_numpy(np.array(variable.values))


def _format(path: Path) -> ModuleType:
    if path.suffix not in _FORMATS:
        raise InvalidInput(
            f"{str(path)!r}: the suffix says the format; expected one of {', '.join(_FORMATS)}."
        )
    return _FORMATS[path.suffix]


def _is_store(path: Path) -> bool:
    return any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def _replace(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`; folders cannot be replaced in one step."""
    if old.is_dir():
        aside = old.with_name(f".{old.name}.{token_hex(4)}")
        os.replace(old, aside)
        os.replace(new, old)
        _remove(aside)
    else:
        os.replace(new, old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
