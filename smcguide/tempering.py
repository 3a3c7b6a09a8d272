r"""Adaptive strengths: the largest l in [0, 1] for which the step's conditional ESS stays at rho N.

    log v(l) = log g + (l - 1) log psi_s,     CESS(l) = N (sum W v)^2 / sum W v^2 = rho N

one l per system. CESS rises and then falls: at l = 0 a step takes back what the last strength gave,
near that strength it changes least. Its top is where the means of log psi_s under W v and under W v^2
agree; the l looked for lies above it, and is the top itself where CESS stays below rho N. The choice
looks at the whole population: the evidence is consistent but not unbiased. `freeze` replays the recorded
strengths, and is exact again.

References: Jasra et al. (2011); Zhou, Johansen, Aston (arXiv 1303.3123).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.feynman_kac import Propagated

_HALVINGS = 30


def temper(model: Any, k: int, log_w: Tensor, moved: Propagated) -> Propagated:
    """The transition to level k with its strength chosen, for a potential that leaves it open.

    Arguments:
        model: a `GuidedDiffusion`.
        k: transitions made, this one included.
        log_w: (S, N) weights before this transition.
        moved: the transition with strength 1.
    """
    rho = model.potential.adaptive_cess
    if rho is None:
        return moved
    value = moved.carry["log_psi"]
    if k == model.num_steps:  # the cost itself, all of it
        return replace(moved, carry={**moved.carry, "strength": torch.ones_like(value)})

    def log_v(strength: Tensor) -> Tensor:
        return moved.log_g + (strength[:, None] - 1) * value

    def enough(strength: Tensor) -> Tensor:
        return weights.cess(log_w, log_v(strength)) >= rho * log_w.shape[1]

    def rising(strength: Tensor) -> Tensor:
        tilted = log_w + log_v(strength)
        twice = tilted + log_v(strength)
        return weights.mean(value, tilted) > weights.mean(value, twice)

    one = torch.ones_like(log_w[:, 0])
    top = _last(rising, torch.zeros_like(one), one)
    strength = torch.where(enough(one), one, _last(enough, top, one))
    carry = dict(moved.carry)
    carry["strength"] = strength[:, None].expand_as(value).contiguous()
    carry["log_psi"] = carry["strength"] * value
    if "grad" in carry:
        wide = carry["strength"].reshape(*value.shape, *[1] * (carry["grad"].ndim - 2))
        carry["grad"] = (wide * carry["grad"]).to(carry["grad"].dtype)
    return replace(moved, log_g=log_v(strength), carry=carry)


def _last(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a condition ends that holds from `low` on, if it does, and not at `high`; (S,) each."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        good = holds(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return low
