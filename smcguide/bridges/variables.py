"""A posterior as named arrays with axes, group by group (see `bridges.netcdf`).

Names of parameters, traces and records are the users' own: where a name is taken, or netCDF would mind
it, the variable gets another one, and its attributes `role` and `name` say what it is.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from smcguide.posterior import Posterior

Variable = tuple[tuple[str, ...], Tensor, dict[str, str]]  # axes, values, attributes
Group = dict[str, Variable]


def groups(posterior: Posterior, num_draws: int) -> dict[str, Group]:
    """All variables of a file; `num_draws` equal-weight draws per system are made."""
    index = posterior.ancestors_of_draws(num_draws)
    place = torch.arange(len(index), device=index.device)[:, None], index
    pair = ("chain", "particle")
    weighted: Group = {}
    draws: Group = {}
    for key, (axes, a, attrs) in _latents(posterior).items():
        weighted[key] = (*pair, *axes), a, attrs
        draws[key] = ("chain", "draw", *axes), a[place], attrs
    weighted["log_weight"] = pair, posterior.log_w, {}
    weighted["eve"] = pair, posterior.eves, {}
    return {
        "posterior": draws,
        "sample_stats": {"particle": (("chain", "draw"), index, {})},
        "weighted_posterior": weighted,
        "smc": _history(posterior),
    }


def _latents(posterior: Posterior) -> Group:
    """Events and parameters, with the axes of one particle."""
    used = {"log_weight", "eve", "chain", "draw", "particle"}
    out: Group = {"x0": (_axes("x0", posterior.x), posterior.x, {})}
    for name, a in posterior.parameters.items():
        axes = {axis for own, _, _ in out.values() for axis in own}
        key = _free(name, "parameter", used | axes | out.keys())
        out[key] = _axes(key, a), a, {"role": "parameter", "name": name}
    return out


def _history(posterior: Posterior) -> Group:
    """Evidence, trace and records."""
    axes = ("chain", "step", "particle", *_axes("x0", posterior.x))
    se = posterior.log_evidence_se.reshape(-1)
    final = {"log_evidence": posterior.log_z, "log_evidence_se": se, "dtm_bound": posterior.bound}
    out: Group = {"time": (("step",), posterior.times, {"role": "final"})}
    out |= {name: (("chain",), a, {"role": "final"}) for name, a in final.items()}
    for role, arrays in (("trace", posterior.trace), ("recorded", posterior.recorded)):
        for name, a in arrays.items():
            key = _free(name, role, out.keys() | set(axes))
            out[key] = axes[: a.ndim], a, {"role": role, "name": name}
    return out


def _axes(key: str, a: Tensor) -> tuple[str, ...]:
    return tuple(f"{key}_dim_{i}" for i in range(a.ndim - 2))


def _free(name: str, role: str, taken: Iterable[str]) -> str:
    """A name which no other variable and no axis has, nor any axis called after it."""
    key, used = name.replace("/", "_"), set(taken)
    while any(other == key or other.startswith(f"{key}_dim_") for other in used):
        key = f"{key}_{role}"
    return key
