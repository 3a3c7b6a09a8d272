"""What a proposal may ask about one step of one chunk of particles (`proposals.base.Step`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smcguide.proposals.base import Linearised
from smcguide.records import Gaussian, Level, Look
from smcguide.schedules import Schedule


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

    def denoise(self, x: Tensor) -> Tensor:
        return self.model.denoise(x, self.t)

    def look_at(self, x: Tensor, guide: Any = None) -> Look:
        return self.model.look_at(x, self.t, guide)

    def base_of(self, x: Tensor, x0_hat: Tensor) -> Gaussian:
        return self.model.kernel.step(x, x0_hat, self.t, self.s, self.carry.get("kernel_memory"))

    def base_at(self, x: Tensor) -> Gaussian:
        return self.base_of(x, self.denoise(x))

    def cost(self, x0: Tensor) -> Tensor:
        self.model.evaluations["cost"] += x0.shape[0] * x0.shape[1]
        return self.model.cost(x0)

    def gradient(self, f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        value, _, vjp = self.model.pullback(lambda u: (f(u), None), u)
        return vjp(torch.ones_like(value))

    def linearise(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Linearised:
        value, _, vjp = self.model.pullback(lambda x: (f(x), None), x)
        return value, vjp


def chunks(shape: tuple[int, ...], size: int | None) -> list[slice]:
    """Slices of the particle axis with at most `size` particles over all systems, at least one each."""
    S, N = shape
    width = N if size is None else max(1, size // S)
    return [slice(i, i + width) for i in range(0, N, width)]


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Chunks of a population side by side again, field by field."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}
