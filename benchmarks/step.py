"""The library's step without a network, the obvious floor for it, and what is left of a network.

The floor is what anybody would write for a step of N particles in d dimensions, in float64; the network
is x times a number. The cost of `OTHERS` is a measurement of one coordinate, that of `PROPOSALS` nothing.
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
_WIDE = sg.potentials.InflatedGaussian(1.0)
OTHERS: dict[str, Any] = {
    "DTM, 3 iterations": sg.proposals.DTM(num_iters=3),
    "DTM, Gauss-Newton": sg.proposals.DTM(solver="gauss_newton", guide=_WIDE),
    "Adapted": sg.proposals.Adapted(guide=sg.potentials.NoisedObservation()),
    "CleanGradient": sg.proposals.CleanGradient(),
    "Proximal": sg.proposals.Proximal(),
    "Spectral": sg.proposals.Spectral(),
    "DDSMC": sg.proposals.DDSMC(),
    "StaticControl": sg.proposals.StaticControl(),
    "Combined": sg.proposals.Combined((sg.proposals.CleanGradient(), sg.proposals.Gradient())),
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


def model(d: int, proposal: str, dtype: torch.dtype, device: str) -> sg.GuidedDiffusion:
    """With a network that costs nothing."""
    one = torch.eye(d, dtype=dtype, device=device)[:1]
    cost = first if proposal in PROPOSALS else sg.costs.LinearGaussian(one, torch.zeros(1), 1.0)
    return sg.GuidedDiffusion(
        Multiple(d, dtype, device), cost, kernel=sg.kernels.DDPM(), times=sg.grids.karras(STEPS),
        potential=sg.potentials.Tweedie(), proposal=(PROPOSALS | OTHERS)[proposal],
    )  # fmt: skip


def library(
    S: int, N: int, d: int, proposal: str, resampler: Any, dtype: torch.dtype, device: str = "cpu"
) -> Callable[[], None]:
    """The library's step with resampling, run after run."""
    guided = model(d, proposal, dtype, device)
    options: Any = {"num_particles": N, "num_systems": S, "resampler": resampler}

    def steps() -> Iterator[Any]:
        while True:
            run = sg.iterate(guided, trigger=sg.triggers.always(), **options)
            next(run)
            yield from itertools.islice(run, STEPS // 2)

    iterator = steps()
    return lambda: next(iterator) and None


def passes(proposal: str) -> tuple[int, int]:
    """Forward and backward passes of the network in a step."""
    guided = model(2, proposal, F64, "cpu")
    run = sg.iterate(guided, num_particles=1, trigger=sg.triggers.never())
    for _ in range(3):
        next(run)
    before = guided.evaluations.copy()
    next(run)
    spent = guided.evaluations - before
    return spent["network_forward"], spent["network_backward"]


def network(
    S: int, N: int, d: int, proposal: str, dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """The calls of the network and the cost in such a step, alone; one backward pass for each forward one
    at most, since what is left cannot be called alone."""
    prior, (forward, backward) = Multiple(d, dtype, device), passes(proposal)
    backward = min(forward, backward)
    x = torch.ones(S * N, d, dtype=dtype, device=device)

    def calls() -> None:
        for i in range(forward):
            if i < backward:
                here = x.detach().requires_grad_()
                torch.autograd.grad(first(prior.denoise(here, 0.5)).sum(), here)
            elif backward:
                prior.denoise(x, 0.5)
            else:
                first(prior.denoise(x, 0.5))

    return calls
