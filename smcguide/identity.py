"""What makes a run this run and no other, in words and numbers that a file can hold.

Whoever goes on with a run must have the same model and the same plan. Functions and networks cannot be
compared, but what they answer can: the prior's denoiser and the cost at a few fixed events.
"""

import json
import re
from hashlib import sha256
from operator import index
from typing import Any

import numpy as np
import torch

from smcguide.boundary import typical
from smcguide.costs.base import TerminalCost
from smcguide.feynman_kac import FeynmanKac
from smcguide.loop import Plan
from smcguide.priors.base import Prior
from smcguide.sealed import checksum

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function's repr, another one in every process
_CHANGING = ("rehearsal_forward",)  # settings that say what this process had to do
_CLOSE = 1e-4  # answers of one network on one device differ less, e.g. with the number of threads
_SHOWN, _ASKED = 60, 16  # characters of a difference, numbers of an answer


def identity(model: FeynmanKac, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Name -> text, number or list, of all that a continuation must have in common with its beginning.

    Arguments:
        model, plan: what is run, and how.
        settings: the result's.
    """
    from smcguide import __version__

    times = [model.time(k) for k in range(model.num_steps + 1)]
    found: dict[str, Any] = {
        "smcguide": __version__,
        "model": _ADDRESS.sub("", repr(model)),
        "num_systems": plan.shape[0],
        "num_steps": model.num_steps,
        "event_shape": str(tuple(model.event_shape)),
        "device": torch.device(model.device).type,
        "levels": sha256(json.dumps(times).encode()).hexdigest()[:12],
        "record": sorted([*plan.record, *["paths"] * (plan.lineage is not None)]),
    }
    found |= {n: _ADDRESS.sub("", str(v)) for n, v in settings.items() if n not in _CHANGING}
    found |= _answers(model)
    return dict(json.loads(json.dumps(found, default=index)))  # as a file gives it back


@torch.no_grad()
def _answers(model: FeynmanKac) -> dict[str, Any]:
    """What prior and cost answer, where the model has them; not counted as evaluations."""
    inner: Any = getattr(model, "model", model)  # e.g. that of `Candidates`
    prior, cost = getattr(inner, "prior", None), getattr(inner, "cost", None)
    if not (isinstance(prior, Prior) and isinstance(cost, TerminalCost)):
        return {"the model's own numbers": _own_numbers(model)}
    shape = (cost.num_systems or 1, 2, *prior.event_shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=prior.dtype)
    x = x.to(prior.device)
    middle = inner.levels[len(inner.levels) // 2].time
    answer = prior.denoise(x[0], middle).double().flatten()
    return {
        "dtype": str(prior.dtype),
        "the prior's answers": answer[:: max(1, len(answer) // _ASKED)].tolist(),
        "the cost's values": typical(cost, x)(x).double().flatten().tolist(),
    }


def _own_numbers(model: FeynmanKac) -> str:
    """A checksum of what a model of another kind holds in plain attributes."""
    held = vars(model).items()
    tensors = {n: torch.as_tensor(a) for n, a in held if isinstance(a, torch.Tensor | np.ndarray)}
    plain = {n: a for n, a in held if isinstance(a, int | float | str | tuple)}
    text = _ADDRESS.sub("", repr(sorted(plain.items(), key=lambda pair: pair[0])))
    return checksum({n: a.detach().cpu().contiguous() for n, a in tensors.items()}, text)[:12]


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What two identities have not in common, in words."""
    names = [n for n in {**there, **here} if not _agree(there.get(n), here.get(n))]
    return [f"{n} ({_short(there.get(n))} there, {_short(here.get(n))} here)" for n in names]


def _agree(a: Any, b: Any) -> bool:
    if not (isinstance(a, list) and isinstance(b, list)):
        return bool(a == b)
    one, two = (torch.tensor(c, dtype=torch.float64) if _numbers(c) else None for c in (a, b))
    if one is None or two is None or one.shape != two.shape:
        return a == b
    scale = one[one.isfinite()].abs().amax() if bool(one.isfinite().any()) else 0.0
    return torch.allclose(one, two, _CLOSE, _CLOSE / 10 * float(scale), equal_nan=True)


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) for v in values)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."
