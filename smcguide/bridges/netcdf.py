"""A posterior as one netCDF file, and back without the loss of a bit.

Groups, each readable on its own (`xarray.open_dataset(path, group="smc")`):

    posterior           x0 and parameters (chain, draw, ...)   equal-weight draws
    sample_stats        particle (chain, draw)                 which particle each draw is
    weighted_posterior  x0 and parameters (chain, particle, ...); log_weight and eve (chain, particle)
    smc                 log_evidence, log_evidence_se, dtm_bound (chain); time (step);
                        trace and recorded arrays (chain, step, ...)

A chain is a system. Of parameters, and in `smc`, the attributes `role` and `name` of a variable say what
it is; where a name is taken, as that of a final number is to a trace, the variable is called
<name>_<role>. The file's own attributes hold the format, the version, and evaluations, settings and
flags as JSON.
"""

import json
import os
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from smcguide.bridges.variables import groups
from smcguide.errors import InvalidInput, MissingExtra
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from xarray import Dataset

FORMAT = "smcguide posterior 1"
MOST_DRAWS = 1000
ENGINE = ("h5netcdf", "h5py")

_FLAGS = ("has_systems", "are_replicates")


def library_version() -> str:
    """The version of smcguide."""
    from smcguide import __version__

    return __version__


def to_numpy(a: Tensor) -> np.ndarray:
    """A tensor of any device, with or without gradient, as an array of the same dtype."""
    return a.detach().cpu().numpy()


def datasets(posterior: Posterior, num_draws: int | None = None) -> "dict[str, Dataset]":
    """A posterior as xarray datasets, group name -> dataset; "/" holds the attributes.

    Arguments:
        posterior: what to describe.
        num_draws: equal-weight draws per system; default as many as particles, at most 1000.

    Raises:
        InvalidInput: for num_draws below 1.
        MissingExtra: without xarray.
    """
    xr = require("xarray")
    N = posterior.log_w.shape[1]
    num_draws = min(N, MOST_DRAWS) if num_draws is None else num_draws
    if num_draws < 1:
        raise InvalidInput(f"num_draws must be at least 1, got {num_draws}.")
    about = {"inference_library": "smcguide", "inference_library_version": library_version()}
    out = {"/": xr.Dataset(attrs={"format": FORMAT, **about, **_as_json(posterior)})}
    for group, variables in groups(posterior, num_draws).items():
        arrays = {key: (axes, to_numpy(a), attrs) for key, (axes, a, attrs) in variables.items()}
        dataset = xr.Dataset(arrays, attrs=about)
        out[group] = dataset.assign_coords({d: np.arange(n) for d, n in dataset.sizes.items()})
    return out


def save(posterior: Posterior, path: Path) -> None:
    """Write a posterior to `path`; a file that is there is replaced once the new one is complete.

    Raises:
        MissingExtra: without xarray, h5netcdf or h5py.
    """
    parts = datasets(posterior)
    for package in ENGINE:
        require(package)
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        for group, dataset in parts.items():
            dataset.to_netcdf(
                unfinished,
                mode="w" if group == "/" else "a",
                group=group,
                engine="h5netcdf",
                encoding={name: {"_FillValue": None} for name in dataset.variables},
            )
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> Posterior:
    """The posterior that `save` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        InvalidInput: for a file that `save` did not write.
        MissingExtra: without xarray, h5netcdf or h5py.
    """
    xr = require("xarray")
    for package in ENGINE:
        require(package)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")

    def read(group: str) -> "Dataset":
        with xr.open_dataset(path, group=group, engine="h5netcdf") as dataset:
            return dataset.load()

    try:
        about = read("/").attrs
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} is not a netCDF 4 file: {error}") from error
    if about.get("format") != FORMAT:
        raise InvalidInput(
            f"{str(path)!r} was not written by Posterior.save: its attribute 'format' should be "
            f"{FORMAT!r} and is {about.get('format')!r}. Attributes found: {sorted(about)}."
        )
    weighted, smc = read("weighted_posterior"), read("smc")

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


def _as_json(posterior: Posterior) -> dict[str, str]:
    """Everything that is not an array, as text; settings that JSON does not know as their repr."""
    flags = {name: getattr(posterior, name) for name in _FLAGS}
    fields = {"evaluations": posterior.evaluations, "settings": posterior.settings, "flags": flags}
    return {name: json.dumps(dict(value), default=repr) for name, value in fields.items()}


def _tensor(variable: Any) -> Tensor:
    return torch.from_numpy(np.array(variable.values))


def require(package: str) -> Any:
    """The package of the extra `arviz`, imported now.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtra(package, "arviz", "Saving, loading or exporting a posterior") from error
