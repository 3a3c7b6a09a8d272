"""What the presets share: their type, and what makes a baseline of a proposal."""

from typing import Any, Literal

from smcguide.grids import uniform
from smcguide.kernels import Kernel
from smcguide.potentials import Terminal
from smcguide.proposals import Constant, PerResidual, Powers, Proposal, Scale
from smcguide.triggers import never

Preset = dict[str, Any]
Loss = Literal["distance", "cost"]


def baseline(proposal: Proposal, kernel: Kernel, num_steps: int) -> Preset:
    """A guided sampler as published: independent particles, no value before the end."""
    return {
        "proposal": proposal,
        "potential": Terminal(),
        "kernel": kernel,
        "times": uniform(num_steps),
        "trigger": never(),
    }


def along(loss: Loss, strength: float, weight: Powers | None = None) -> Scale:
    """Scale of the gradient of -C that follows the distance |y - F(x)|, or the cost itself."""
    return PerResidual(strength, weight) if loss == "distance" else Constant(strength, weight)
