"""The parts of a result brought together in the first process."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from smcguide.distributed.world import World
from smcguide.posterior import Posterior
from smcguide.records import Particles, StepInfo
from smcguide.results import collect

_SHARED = ("log_psi", "path_kl", "acceptance")  # of the carry, what `collect` looks at
_CUT = ("particles", "x0_hat")  # records that each process has its part of


def posterior(
    world: World, particles: Particles, trace: Sequence[StepInfo], about: Mapping[str, Any]
) -> Posterior | None:
    """The whole result in the first process, None elsewhere; `particles` are those here."""
    traffic = summed(world, {name: world.traffic[name] for name in ("gathered", "moved")})
    evaluations = summed(world, about["evaluations"])
    carry = {name: particles.carry[name] for name in _SHARED if name in particles.carry}
    parts = {"x": particles.x, "log_w": particles.log_w, "eve": particles.eve}
    whole = to_first(world, parts | {f"carry {n}": a for n, a in carry.items()}, 1)
    parameters = to_first(world, about["parameters"], 1)
    trace = [_whole(world, info) for info in trace]
    if whole is None or parameters is None:
        return None
    settings = about["settings"] | {f"bytes_{name}": number for name, number in traffic.items()}
    about = {**about, "evaluations": evaluations, "settings": settings, "parameters": parameters}
    carry = {name: whole[f"carry {name}"] for name in carry}
    return collect(Particles(whole["x"], whole["log_w"], whole["eve"], carry), trace, about)


def joined(world: World, post: Posterior) -> Posterior | None:
    """Systems of several processes one after the other, in the first; None elsewhere."""
    names = ("x", "log_w", "eves", "log_z", "bound")
    single = to_first(world, {name: getattr(post, name) for name in names}, 0)
    maps = [to_first(world, a, 0) for a in (post.trace, post.recorded, post.parameters)]
    evaluations = summed(world, post.evaluations)
    if single is None:
        return None
    trace, recorded, parameters = (a or {} for a in maps)
    return replace(
        post, x=single["x"], log_w=single["log_w"], eves=single["eves"], log_z=single["log_z"],
        bound=single["bound"], times=post.times.cpu(), trace=trace, recorded=recorded,
        parameters=parameters, evaluations=evaluations,
    )  # fmt: skip


def to_first(world: World, named: Mapping[str, Tensor], dim: int) -> dict[str, Tensor] | None:
    """`World.to_first` of each."""
    whole = {name: world.to_first(a, dim) for name, a in named.items()}
    return {n: a for n, a in whole.items() if a is not None} if world.rank == 0 else None


def summed(world: World, counts: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers added up over all processes."""
    if not counts:
        return {}
    names = sorted(counts)
    total = sum(world.gather(torch.tensor([counts[name] for name in names], dtype=torch.int64)))
    return dict(zip(names, torch.as_tensor(total).tolist(), strict=True))


def _whole(world: World, info: StepInfo) -> StepInfo:
    """The record of a step on the CPU; records of particles whole in the first process."""
    kept = dict(info.recorded)
    kept |= to_first(world, {n: a for n, a in kept.items() if n in _CUT}, 1) or {}
    values = {f.name: getattr(info, f.name) for f in fields(info)} | {"recorded": kept}
    values = {name: _on_cpu(value) for name, value in values.items()}
    return StepInfo(**values)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _on_cpu(a) for name, a in value.items()}
    return value.cpu() if isinstance(value, Tensor) else value
