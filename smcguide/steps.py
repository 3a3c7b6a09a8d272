"""What a proposal may ask about one step of one chunk of particles (`proposals.base.Step`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from smcguide.gaussian import Gaussian
from smcguide.proposals.base import Linearised
from smcguide.records import Level, Look
from smcguide.schedules import Schedule

T = TypeVar("T")


@dataclass(frozen=True)
class ChunkStep:
    """Answers for the transition k, t -> s, of a `GuidedDiffusion`."""

    model: Any
    k: int
    t: Level
    s: Level
    carry: Mapping[str, Tensor]

    @property
    def memory(self) -> Tensor | None:
        return self.carry.get("proposal_memory")

    @property
    def progress(self) -> float:
        return self.k / self.model.num_steps

    @property
    def schedule(self) -> Schedule:
        return self.model.prior.schedule

    @property
    def potential(self) -> Any:
        return self.model.potential

    def look(self, x: Tensor, x0_hat: Tensor) -> Look:
        """What the carry knows of states x and their denoised estimates."""
        known: dict[str, Any] = {n: self.carry.get(n) for n in ("log_psi", "grad", "guide_grad")}
        return Look(x, x0_hat, self.t, **known, **self.past())

    def past(self) -> dict[str, Any]:
        """What a look is given of the particles' past, and this step."""
        fields = {
            "memory": "psi_past", "noise": "psi_noise", "strength": "strength", "theta": "theta",
        }  # fmt: skip
        return {name: self.carry.get(key) for name, key in fields.items()} | {"step": self}

    def denoise(self, x: Tensor) -> Tensor:
        return self.model.denoise(x, self.t)

    def look_at(self, x: Tensor, guide: Any = None) -> Look:
        return self.model.look_at(self.k, x, self.carry, guide)

    def base_of(self, x: Tensor, x0_hat: Tensor) -> Gaussian:
        return self.model.base_kernel(self.k, x, x0_hat, self.carry.get("kernel_memory"))

    def base_at(self, x: Tensor) -> Gaussian:
        return self.base_of(x, self.denoise(x))

    def cost(self, x0: Tensor) -> Tensor:
        self.model.evaluations["cost"] += x0.shape[0] * x0.shape[1]
        cost: Tensor = self.model.cost.at(self.carry.get("theta"))(x0)
        return cost

    def gradient(self, f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        value, _, vjp = self.model.pullback(lambda u: (f(u), None), u, once=True)
        return vjp(torch.ones_like(value))

    def linearise(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Linearised:
        value, _, vjp = self.model.pullback(lambda x: (f(x), None), x)
        return value, vjp

    def denoise_at(self, x: Tensor, t: Level) -> Tensor:
        return self.model.denoise(x, t)


def cut(
    fields: Mapping[str, Tensor], i: slice, *tensors: Tensor
) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
    """The particles i of fields and tensors (S, N, ...), as they are where that is all of them."""
    if i == slice(0, tensors[0].shape[1]):
        return fields, tensors
    return {name: a[:, i] for name, a in fields.items()}, [a[:, i] for a in tensors]


def present(fields: Mapping[str, T | None]) -> dict[str, T]:
    """The fields that are there."""
    return {name: a for name, a in fields.items() if a is not None}
