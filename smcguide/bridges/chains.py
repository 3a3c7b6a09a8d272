"""Chains for ArviZ: `InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x.

Chains and draws are ArviZ's own: R-hat and effective sample size mean what they say, R-hat where the
chains have the same target. The container writes itself to a file, `to_arviz().to_netcdf(path)`.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from smcguide.bridges.arviz import container
from smcguide.bridges.netcdf import library_version, require, to_numpy
from smcguide.chains import Chains, ParameterChains


def chains_to_arviz(chains: Chains) -> Any:
    """Groups `posterior` (x0) and `sample_stats` (log_evidence, changed by step).

    Raises:
        MissingExtra: without xarray or ArviZ.
    """
    return container({**chain_stats(chains), "posterior": dataset({"x0": chains.x})})


def parameters_to_arviz(chains: ParameterChains) -> Any:
    """Groups `posterior` (theta, x0) and `sample_stats` (log_evidence, log_prior, accepted).

    Raises:
        MissingExtra: without xarray or ArviZ.
    """
    draws = {"theta": chains.theta, "x0": chains.x}
    return container({**chain_stats(chains), "posterior": dataset(draws)})


def chain_stats(chains: Chains | ParameterChains) -> dict[str, Any]:
    """The group `sample_stats`, and the attributes "/"."""
    if isinstance(chains, Chains):
        stats = dataset({"log_evidence": chains.log_z, "changed": chains.changed})
        stats = stats.rename(changed_dim_0="step")
    else:
        stats = dataset({
            "log_evidence": chains.log_z, "log_prior": chains.log_prior, "accepted": chains.accepted,
        })  # fmt: skip
    about = {
        **stats.attrs,
        "evaluations": json.dumps(dict(chains.evaluations)),
        "settings": json.dumps(dict(chains.settings), default=repr),
    }
    return {"/": require("xarray").Dataset(attrs=about), "sample_stats": stats}


def dataset(variables: Mapping[str, Tensor], lead: tuple[str, ...] = ("chain", "draw")) -> Any:
    """Arrays with these leading axes as an xarray dataset; their own axes are called <name>_dim_<i>.

    Raises:
        MissingExtra: without xarray.
    """
    xr = require("xarray")
    arrays = {
        name: ((*lead, *(f"{name}_dim_{i}" for i in range(a.ndim - len(lead)))), to_numpy(a))
        for name, a in variables.items()
    }
    about = {"inference_library": "smcguide", "inference_library_version": library_version()}
    out = xr.Dataset(arrays, attrs=about)
    return out.assign_coords({d: np.arange(n) for d, n in out.sizes.items()})
