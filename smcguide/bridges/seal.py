"""The seal of a posterior's file: a checksum by which damage is seen before a number is used.

SHA-256 over the attributes that describe the run and over every variable of the posterior's own groups:
group, name, role, axes, dtype, shape and bytes, in alphabetical order. It does not depend on how a
library stores them, so a container that ArviZ writes loads as well. Other groups are not part of it.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from smcguide.errors import InvalidInput

if TYPE_CHECKING:
    from xarray import Dataset

FORMAT = "smcguide posterior 2"
GROUPS = ("posterior", "sample_stats", "weighted_posterior", "smc")
ABOUT = ("format", "inference_library_version", "evaluations", "settings", "flags", "draws")

_MARKS = ("role", "name")  # attributes of a variable
_NEEDED = {
    "weighted_posterior": ("x0", "log_weight", "eve"),
    "smc": ("log_evidence", "dtm_bound", "time"),
}


def sealed(groups: "Mapping[str, Dataset]") -> "dict[str, Dataset]":
    """The same datasets; the attributes "/" then say the format and the checksum."""
    root = groups["/"].assign_attrs(format=FORMAT)
    out = {**groups, "/": root}
    return {**out, "/": root.assign_attrs(sha256=checksum(out))}


def checksum(groups: "Mapping[str, Dataset]") -> str:
    """Of datasets, group name -> dataset, with all of `GROUPS` and "/" among them."""
    total = sha256()

    def add(text: object) -> None:
        total.update(json.dumps(text).encode() + b"\n")

    add([[key, str(groups["/"].attrs.get(key))] for key in ABOUT])
    for group in sorted(GROUPS):
        for key, variable in sorted(groups[group].data_vars.items()):
            a = np.asarray(variable.values)
            a = a.astype(a.dtype.newbyteorder("<"), order="C", copy=False)
            marks = [str(variable.attrs.get(mark)) for mark in _MARKS]
            add([group, str(key), marks, list(map(str, variable.dims)), a.dtype.str, a.shape])
            total.update(a.tobytes())
    return total.hexdigest()


def check_seal(groups: "Mapping[str, Dataset | None]", where: str) -> "dict[str, Dataset]":
    """The datasets, if they are what was written.

    Raises:
        InvalidInput: for another format, missing parts, and a checksum that does not match.
    """
    whole = {name: dataset for name, dataset in groups.items() if dataset is not None}
    about = whole["/"].attrs
    if about.get("format") != FORMAT:
        raise InvalidInput(
            f"{where} was not written by this version's Posterior.save: its attribute 'format' should "
            f"be {FORMAT!r} and is {about.get('format')!r}. Attributes found: {sorted(about)}."
        )
    needed = {group: _NEEDED.get(group, ()) for group in GROUPS}
    missing = [group for group in needed if group not in whole]
    for group in needed.keys() - missing:
        missing += [f"{group}/{key}" for key in needed[group] if key not in whole[group]]
    missing += [f"attribute {key}" for key in (*ABOUT, "sha256") if key not in about]
    if missing:
        raise InvalidInput(f"{where} is damaged: it lacks {', '.join(sorted(missing))}. {_REMEDY}")
    if about["sha256"] != checksum(whole):
        raise InvalidInput(
            f"{where} is damaged or was changed: its numbers do not match their checksum. {_REMEDY}"
        )
    return whole


_REMEDY = "Nothing was loaded; take a copy, or run again with the seed that the run had."
