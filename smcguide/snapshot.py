"""A run between two steps as named tensors and plain text, and back, bit for bit.

The memory layout of the particles is kept as well: the same numbers summed in another order are rounded
otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from smcguide.genealogy import Genealogy
from smcguide.loop import Plan, State
from smcguide.records import Particles, StepInfo

_TEXT = ("step", "time")  # of a StepInfo
_NAMED = ("report", "recorded")
_ROWS = tuple(f.name for f in fields(StepInfo) if f.name not in (*_TEXT, *_NAMED))


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a run and its result depend on.

    Attributes:
        state: the population, the evidence and the random streams.
        trace: the steps so far.
        lineage: the tree of the paths, where they are wanted.
        evaluations, settings: the result's, so far.
    """

    state: State
    trace: list[StepInfo]
    lineage: Genealogy | None
    evaluations: dict[str, int]
    settings: dict[str, Any]


def pack(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU, each with memory of its own, and what else there is to say, fit for JSON."""
    state, trace = snapshot.state, snapshot.trace
    here = {"x": state.particles.x, "log_w": state.particles.log_w, "eve": state.particles.eve}
    here |= {f"carry/{name}": a for name, a in state.particles.carry.items()}
    here |= {"log_z": state.log_z}
    layouts = {name: [list(a.shape), _strides(a)] for name, a in here.items()}
    rows = {name: [getattr(i, name) for i in trace] for name in _ROWS}
    for kind in _NAMED:
        names = set.intersection(*[set(getattr(i, kind)) for i in trace])
        rows |= {f"{kind}/{n}": [getattr(i, kind)[n] for i in trace] for n in sorted(names)}
    tensors = {name: _once(a, layouts[name][1]) for name, a in here.items()}
    tensors |= {f"trace/{name}": torch.stack(a).detach().cpu() for name, a in rows.items()}
    tensors |= {"noise": state.noise.get_state(), "selection": state.selection.get_state()}
    tree, numbers = _unfold(snapshot.lineage)
    about = {
        "step": state.k, "layouts": layouts, "tree": numbers,
        "steps": [[getattr(i, name) for name in _TEXT] for i in trace],
        "evaluations": snapshot.evaluations, "settings": snapshot.settings,
    }  # fmt: skip
    return {n: a.contiguous() for n, a in (tensors | tree).items()}, about


def unpack(
    tensors: Mapping[str, Tensor], about: Mapping[str, Any], plan: Plan, device: torch.device
) -> Snapshot:
    """The snapshot that `pack` was given, on `device`; the tree of the paths grows in the plan's own."""
    here = {
        name: _laid_out(tensors[name], shape, strides, device)
        for name, (shape, strides) in about["layouts"].items()
    }
    carry = _within(here, "carry/")
    particles = Particles(here["x"], here["log_w"], here["eve"], carry)
    noise, selection = plan.population.generators(plan.seed, device)
    noise.set_state(tensors["noise"].clone())
    selection.set_state(tensors["selection"].clone())
    rows = {n: a.to(device, copy=True) for n, a in _within(tensors, "trace/").items()}
    trace = [_row(i, text, rows) for i, text in enumerate(about["steps"])]
    state = State(about["step"], particles, here["log_z"], noise, selection, trace[-1])
    if plan.lineage is not None:
        _fold(plan.lineage, _within(tensors, "tree/"), about["tree"], device)
    return Snapshot(state, trace, plan.lineage, about["evaluations"], about["settings"])


def _row(i: int, text: list[Any], rows: Mapping[str, Tensor]) -> StepInfo:
    """The record of one step, out of those of all."""
    found: dict[str, Any] = dict(zip(_TEXT, text, strict=True))
    found |= {name: rows[name][i] for name in _ROWS}
    found |= {kind: {n: a[i] for n, a in _within(rows, f"{kind}/").items()} for kind in _NAMED}
    return StepInfo(**found)


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}


def _strides(a: Tensor) -> list[int]:
    """The strides of a tensor; of a copy where places in memory are shared other than by expansion."""
    strides, end = list(a.stride()), 0
    for size, stride in sorted(zip(a.shape, strides, strict=True), key=lambda pair: pair[1]):
        if size > 1 and 0 < stride <= end:
            return list(a.contiguous().stride())
        end += (size - 1) * stride
    return strides


def _once(a: Tensor, strides: list[int]) -> Tensor:
    """A copy on the CPU without the repetitions of an expanded tensor."""
    for axis, stride in enumerate(strides):
        a = a[(slice(None),) * axis + (slice(0, 1),)] if stride == 0 else a
    return a.detach().cpu().clone(memory_format=torch.contiguous_format)


def _laid_out(a: Tensor, shape: list[int], strides: list[int], device: torch.device) -> Tensor:
    """Numbers that `_once` kept, in fresh memory with the layout they had."""
    out = torch.empty_strided(a.shape, strides, dtype=a.dtype, device=device)
    return out.copy_(a).expand(shape)


def _unfold(lineage: Genealogy | None) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors and the numbers of a tree."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, int] = {}
    for name, value in (vars(lineage) if lineage is not None else {}).items():
        if isinstance(value, Tensor):
            tensors[f"tree/{name}"] = value.detach().cpu()
        elif isinstance(value, dict):
            tensors |= {f"tree/{name}/{n}": a.detach().cpu() for n, a in value.items()}
        else:
            numbers[name] = value
    return tensors, numbers


def _fold(
    lineage: Genealogy, tensors: Mapping[str, Tensor], numbers: dict[str, int], device: torch.device
) -> None:
    """Make a new tree the one that was unfolded."""
    found: dict[str, Any] = dict(numbers)
    for name, a in tensors.items():
        attribute, _, field = name.partition("/")
        a = a.to(device, copy=True)
        if field:
            found.setdefault(attribute, {})[field] = a
        else:
            found[attribute] = a
    vars(lineage).update(found)
