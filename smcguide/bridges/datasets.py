"""Results as xarray datasets."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smcguide.bridges.netcdf import require, to_numpy
from smcguide.bridges.variables import groups
from smcguide.errors import check_counts
from smcguide.posterior import Posterior

if TYPE_CHECKING:
    from xarray import Dataset

FLAGS = ("has_systems", "are_replicates")

_MOST_DRAWS = 1000
_SAMPLE_DIMS = (["chain", "draw"], ["chain", "particle"])


def how_many_draws(num_particles: int, num_draws: int | None) -> int:
    """Equal-weight draws per system; by default as many as particles, at most 1000.

    Raises:
        InvalidInput: for num_draws that is no whole number of at least 1.
    """
    if num_draws is None:
        return min(num_particles, _MOST_DRAWS)
    check_counts({"num_draws": (num_draws, 1)})
    return num_draws


def datasets(
    posterior: Posterior, num_draws: int | None = None, seed: int = 0
) -> "dict[str, Dataset]":
    """A posterior as xarray datasets, group name -> dataset; "/" holds the attributes.

    Arguments:
        posterior: what to describe.
        num_draws: equal-weight draws per system; default as many as particles, at most 1000.
        seed: of the draws.

    Raises:
        InvalidInput: for num_draws that is no whole number of at least 1.
        MissingExtra: without xarray.
    """
    num = how_many_draws(posterior.log_w.shape[1], num_draws)
    flags = {name: getattr(posterior, name) for name in FLAGS}
    about = {
        "evaluations": posterior.evaluations, "settings": posterior.settings, "flags": flags,
        "draws": {"num": num, "seed": seed},
    }  # fmt: skip
    out = {"/": attributes(about)}
    for group, variables in groups(posterior, num, seed).items():
        arrays = {key: (axes, to_numpy(a), attrs) for key, (axes, a, attrs) in variables.items()}
        out[group] = labelled(arrays)
    return out


def attributes(about: Mapping[str, Mapping[str, Any]]) -> "Dataset":
    """A dataset without arrays; attributes are JSON, what JSON does not know is its repr."""
    texts = {name: json.dumps(dict(value), default=repr) for name, value in about.items()}
    return require("xarray").Dataset(attrs={**_library(), **texts})


def dataset(variables: Mapping[str, Tensor], lead: tuple[str, ...] = ("chain", "draw")) -> Any:
    """Arrays with these leading axes as an xarray dataset; their own axes are called <name>_dim_<i>.

    Raises:
        MissingExtra: without xarray.
    """
    own = {name: range(a.ndim - len(lead)) for name, a in variables.items()}
    return labelled({
        name: ((*lead, *(f"{name}_dim_{i}" for i in own[name])), to_numpy(a), {})
        for name, a in variables.items()
    })  # fmt: skip


def labelled(arrays: Mapping[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]) -> "Dataset":
    """Arrays, their axes and attributes as a dataset whose axes count from 0; ArviZ 1.x is told which
    axes are draws."""
    out = require("xarray").Dataset(dict(arrays), attrs=_library())
    drawn = [dims for dims in _SAMPLE_DIMS if set(dims) <= set(map(str, out.sizes))]
    if len(drawn) == 1 and "step" not in out.sizes:
        out.attrs["sample_dims"] = drawn[0]
    return out.assign_coords({d: np.arange(n) for d, n in out.sizes.items()})


def _library() -> dict[str, str]:
    from smcguide import __version__

    return {"inference_library": "smcguide", "inference_library_version": __version__}
