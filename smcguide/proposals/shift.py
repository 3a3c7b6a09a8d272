"""How a move of the clean estimate moves the mean of the base kernel."""

from typing import Any, Literal

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.proposals.base import Step
from smcguide.records import Look

Noise = Literal["kept", "recomputed"]


def check_noise(proposal: Any) -> None:
    """Raise InvalidInput unless `noise` and `trust` of a proposal have meaning."""
    if proposal.noise not in ("kept", "recomputed") or not proposal.trust > 0:
        raise InvalidInput(
            f"{proposal!r}: noise must be 'kept' or 'recomputed', trust positive (inf for none)."
        )


def shift_of(u: Tensor, look: Look, step: Step, noise: Noise) -> Tensor:
    """How far the mean of the base kernel moves when the clean estimate moves by u (S, N, *E)."""
    if noise == "kept":
        return step.s.alpha * u
    there = step.base_of(look.x, look.x0_hat + u).mean
    return there - step.base_of(look.x, look.x0_hat).mean
