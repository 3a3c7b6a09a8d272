"""Chains for ArviZ: `InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x.

Chains and draws are ArviZ's own: R-hat and effective sample size mean what they say, R-hat where the
chains have the same target. The container writes itself to a file, `to_arviz().to_netcdf(path)`.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from smcguide.bridges.netcdf import library_version, require, to_numpy
from smcguide.chains import Chains, ParameterChains
from smcguide.errors import MissingExtra

Variables = Mapping[str, tuple[Tensor, tuple[str, ...]]]


def chains_to_arviz(chains: Chains) -> Any:
    """Groups `posterior` (x0) and `sample_stats` (log_evidence, changed by step).

    Raises:
        MissingExtra: without ArviZ.
    """
    stats = {"log_evidence": (chains.log_z, ()), "changed": (chains.changed, ("step",))}
    return _container({"x0": (chains.x, _dims("x0", chains.x))}, stats, chains)


def parameters_to_arviz(chains: ParameterChains) -> Any:
    """Groups `posterior` (theta, x0) and `sample_stats` (log_evidence, log_prior, accepted).

    Raises:
        MissingExtra: without ArviZ.
    """
    draws = {"theta": chains.theta, "x0": chains.x}
    stats: dict[str, tuple[Tensor, tuple[str, ...]]] = {
        "log_evidence": (chains.log_z, ()),
        "log_prior": (chains.log_prior, ()),
        "accepted": (chains.accepted, ()),
    }
    return _container({name: (a, _dims(name, a)) for name, a in draws.items()}, stats, chains)


def _dims(name: str, a: Tensor) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{i}" for i in range(a.ndim - 2))


def _container(posterior: Variables, stats: Variables, chains: Chains | ParameterChains) -> Any:
    xr = require("xarray")
    try:
        import arviz
    except ImportError as error:
        raise MissingExtra("arviz", "arviz", "to_arviz") from error
    about = {"inference_library": "smcguide", "inference_library_version": library_version()}
    groups = {}
    for name, variables in {"posterior": posterior, "sample_stats": stats}.items():
        arrays = {n: (("chain", "draw", *dims), to_numpy(a)) for n, (a, dims) in variables.items()}
        dataset = xr.Dataset(arrays, attrs=about)
        groups[name] = dataset.assign_coords({d: np.arange(n) for d, n in dataset.sizes.items()})
    about |= {
        "evaluations": json.dumps(dict(chains.evaluations)),
        "settings": json.dumps(dict(chains.settings), default=repr),
    }
    if int(arviz.__version__.split(".")[0]) >= 1:
        from xarray import DataTree

        return DataTree.from_dict({"/": xr.Dataset(attrs=about), **groups})
    members: dict[str, Any] = dict(groups)
    return arviz.InferenceData(attrs=about, **members)
