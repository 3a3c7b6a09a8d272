"""The library's step without a network, the obvious floor for it, and what is left of a network.

The floor is what anybody would write for a step of N particles in d dimensions, in float64; the network
is x times a number.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

import smcguide as sg

F32, F64 = torch.float32, torch.float64
PROPOSALS: dict[str, Any] = {
    "Bootstrap": sg.proposals.Bootstrap(),
    "Gradient": sg.proposals.Gradient(trust=2.0),
    "DTM": sg.proposals.DTM(),
}
STEPS = 400
SHRINK = 0.5


class Multiple(sg.priors.Prior):
    """A network that costs one multiplication."""

    schedule = sg.schedules.VP()

    def __init__(self, d: int, dtype: torch.dtype, device: str) -> None:
        self.event_shape, self.dtype, self.device = (d,), dtype, torch.device(device)

    def denoise(self, x: Tensor, t: float) -> Tensor:
        return SHRINK * x


def first(x0: Tensor) -> Tensor:
    """A cost that costs nothing."""
    return x0[:, 0]


class Floor:
    """The same step in plain torch and float64, again and again.

    Attributes:
        x: (S, N, d) the particles.
        log_w: (S, N) the log-weights they are resampled with.
    """

    def __init__(self, S: int, N: int, d: int, device: str = "cpu") -> None:
        self.g = Generator(device).manual_seed(0)
        self.x, self.log_w = self.normal(S, N, d), self.normal(S, N)
        comb = (torch.arange(N, dtype=F64, device=device) + 0.5) / N
        self.comb = comb.expand(S, N).contiguous()
        self.first_of = N * torch.arange(S, device=device)[:, None]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.g, dtype=F64, device=self.g.device)

    def __call__(self) -> None:
        cdf = torch.softmax(self.log_w, -1).cumsum(-1)
        ancestors = torch.searchsorted(cdf, self.comb).clamp_(max=self.x.shape[1] - 1)
        x = self.x.flatten(0, 1).index_select(0, (ancestors + self.first_of).flatten())
        self.x = torch.add(x.view_as(self.x), self.normal(*self.x.shape), alpha=0.1)


def library(
    S: int, N: int, d: int, proposal: str, resampler: Any, dtype: torch.dtype, device: str = "cpu"
) -> Callable[[], None]:
    """The library's step with resampling, run after run."""
    model = sg.GuidedDiffusion(
        Multiple(d, dtype, device), first, kernel=sg.kernels.DDPM(), times=sg.grids.karras(STEPS),
        potential=sg.potentials.Tweedie(), proposal=PROPOSALS[proposal],
    )  # fmt: skip

    options: Any = {"num_particles": N, "num_systems": S, "resampler": resampler}

    def steps() -> Iterator[Any]:
        while True:
            run = sg.iterate(model, trigger=sg.triggers.always(), **options)
            next(run)
            yield from itertools.islice(run, STEPS // 2)

    iterator = steps()
    return lambda: next(iterator) and None


def network(
    S: int, N: int, d: int, proposal: str, dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """The calls of the network and the cost in such a step, alone."""
    prior = Multiple(d, dtype, device)
    x = torch.ones(S * N, d, dtype=dtype, device=device)

    def forward() -> None:
        first(prior.denoise(x, 0.5))

    def calls() -> None:
        here = x.detach().requires_grad_()
        torch.autograd.grad(first(prior.denoise(here, 0.5)).sum(), here)
        if proposal == "DTM":
            prior.denoise(x, 0.5)

    return forward if proposal == "Bootstrap" else calls
