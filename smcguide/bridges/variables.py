"""A posterior as named arrays with axes, group by group (see `bridges.files`).

Names of parameters, traces and records are the users' own: where a name is taken, or netCDF would mind
it, the variable gets another one, and its attributes `role` and `name` say what it is.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from smcguide.posterior import Posterior

Variable = tuple[tuple[str, ...], Tensor, dict[str, str]]  # axes, values, attributes
Group = dict[str, Variable]


def groups(posterior: Posterior, num_draws: int, seed: int) -> dict[str, Group]:
    """All variables of a file; `num_draws` equal-weight draws per system are made."""
    index = posterior.ancestors_of_draws(num_draws, seed)
    place = torch.arange(len(index), device=index.device)[:, None], index
    pair = ("chain", "particle")
    weighted: Group = {}
    draws: Group = {}
    for key, (axes, a, attrs) in _latents(posterior).items():
        weighted[key] = (*pair, *axes), a, attrs
        draws[key] = ("chain", "draw", *axes), a[place], attrs
    numbers = {"log_weight": posterior.log_w, "eve": posterior.eves}
    weighted |= {key: (pair, a, {}) for key, a in numbers.items()}
    of_draws = {"particle": index} | {key: a[place] for key, a in numbers.items()}
    return {
        "posterior": draws,
        "sample_stats": {key: (("chain", "draw"), a, {}) for key, a in of_draws.items()},
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
    """Evidence, trace and records: one row per system and step, NaN where a number does not exist."""
    se = posterior.log_evidence_se.reshape(-1)
    final = {"log_evidence": posterior.log_z, "log_evidence_se": se, "dtm_bound": posterior.bound}
    out: Group = {"time": (("step",), posterior.times, {"role": "final"})}
    out |= {name: (("chain",), a, {"role": "final"}) for name, a in final.items()}
    arrays = [(n, "trace", a) for n, a in posterior.trace.items()]
    arrays += [(n, "recorded", a) for n, a in posterior.recorded.items()]
    if "log_evidence" in posterior.trace:
        running = posterior.trace["log_evidence"]
        gained = running.diff(dim=1, prepend=torch.zeros_like(running[:, :1]))
        arrays.append(("log_evidence_increment", "derived", gained))
    shared = ("chain", "step", "particle", *_axes("x0", posterior.x))
    shape = (len(posterior.x), len(posterior.times), *posterior.x.shape[1:])
    used = set(shared)
    for name, role, a in arrays:
        key = _free(name, role, out.keys() | used)
        fits = a.shape == shape[: a.ndim]  # states of another shape have axes of their own
        axes = shared[: a.ndim] if fits else ("chain", "step", *_axes(key, a))
        used |= set(axes)
        out[key] = axes, a, {"role": role, "name": name}
    return out


def _axes(key: str, a: Tensor) -> tuple[str, ...]:
    return tuple(f"{key}_dim_{i}" for i in range(a.ndim - 2))


def _free(name: str, role: str, taken: Iterable[str]) -> str:
    """A name which no other variable and no axis has, nor any axis called after it."""
    key, used = name.replace("/", "_"), set(taken)
    while any(other == key or other.startswith(f"{key}_dim_") for other in used):
        key = f"{key}_{role}"
    return key
