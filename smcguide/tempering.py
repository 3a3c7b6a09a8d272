r"""Adaptive strengths: the largest l in [0, 1] for which the step's conditional ESS stays at rho N.

    log v(l) = log g + (l - 1) log psi_s,     CESS(l) = N (sum W v)^2 / sum W v^2 = rho N

one l per system. CESS rises and falls: at l = 0 a step only takes back what the last strength gave, near
that strength it changes least. So a grid is searched from above, then a bisection; where no l will do,
the best one is taken. The choice looks at the whole population: the evidence is consistent but not
unbiased. `freeze` replays the recorded strengths, and is exact again.

References: Jasra et al. (2011); Zhou, Johansen, Aston (arXiv 1303.3123).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.feynman_kac import Propagated

_GRID, _HALVINGS = 32, 30


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

    strength = _largest(lambda a: weights.cess(log_w, log_v(a)) / log_w.shape[1] - rho, log_w[:, 0])
    carry = dict(moved.carry)
    carry["strength"] = strength[:, None].expand_as(value).contiguous()
    carry["log_psi"] = carry["strength"] * value
    if "grad" in carry:
        wide = carry["strength"].reshape(*value.shape, *[1] * (carry["grad"].ndim - 2))
        carry["grad"] = (wide * carry["grad"]).to(carry["grad"].dtype)
    return replace(moved, log_g=log_v(strength), carry=carry)


def _largest(excess: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The largest l in [0, 1] with excess(l) >= 0, or the l of the largest excess, (S,) each."""
    grid = torch.linspace(1, 0, _GRID + 1, dtype=like.dtype, device=like.device)
    found = torch.stack([excess(strength.expand_as(like)) for strength in grid])
    good = found >= 0
    first = torch.where(good.any(0), good.int().argmax(0), found.argmax(0))
    low, high = grid[first], grid[(first - 1).clamp(min=0)]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fine = excess(middle) >= 0
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    return low
