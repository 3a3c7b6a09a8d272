r"""Feynman-Kac models: a Markov chain and a weight per step; what the engine runs.

    Z = E[ G_0(x_0) prod_k G_k(x_{k-1}, x_k) ],   x_0 ~ M_0,  x_k ~ M_k(. | x_{k-1})

with any proposal in place of M_k as long as its density ratio is part of G_k. A guided diffusion is
one (`GuidedDiffusion`), a state-space model another. A complete model, a Gaussian random walk
weighted by exp(-x^2) at each step:

    >>> import torch, smcguide as sg
    >>> class Walk(sg.FeynmanKac):
    ...     num_steps, event_shape = 10, (1,)
    ...     def _random(self, like_shape, generator):
    ...         return torch.randn(*like_shape, 1, generator=generator, dtype=torch.float64)
    ...     def initial(self, shape, generator):
    ...         x = self._random(shape, generator)
    ...         return sg.Propagated(x, -x[..., 0] ** 2)
    ...     def step(self, k, x, carry, generator):
    ...         x = x + self._random(x.shape[:2], generator)
    ...         return sg.Propagated(x, -x[..., 0] ** 2)
    >>> posterior = sg.run(Walk(), num_particles=100, seed=1)
    >>> posterior.mean().shape
    torch.Size([1])

Reference: Del Moral, "Feynman-Kac formulae" (2004); Chopin, Papaspiliopoulos, "An introduction to
sequential Monte Carlo" (2020), chapter 5.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Propagated:
    """A population after one transition, before its weights are updated.

    Attributes:
        x: (S, N, *E) new states.
        log_g: (S, N) log-weight of this transition.
        carry: per-particle tensors (S, N, ...) wanted back at the next step; the engine gathers
            them with the particles.
    """

    x: Tensor
    log_g: Tensor
    carry: Mapping[str, Tensor] = field(default_factory=dict)


class FeynmanKac(ABC):
    """Base class of models that the engine runs.

    Attributes:
        num_steps: number of transitions K.
        event_shape: shape of one state.
        num_systems: S where the model fixes it, else None.
        device: where the random numbers are drawn.
    """

    num_steps: int
    event_shape: tuple[int, ...]
    num_systems: int | None = None
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        """The first population, shape = (S, N), with log_g = log G_0."""

    @abstractmethod
    def step(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], generator: Generator
    ) -> Propagated:
        """Transition k = 0 ... K - 1 of the states x (S, N, *E)."""

    def log_transition(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log M_k(x_next | x), (S, N), where the model knows it."""
        raise NotImplementedError(f"{type(self).__name__} does not know its transition density.")

    def time(self, k: int) -> float:
        """A label for the states after k transitions."""
        return float(k)

    def is_noiseless(self, k: int) -> bool:
        """Whether transition k adds no noise. The engine never resamples before such a step: copies
        would stay copies."""
        return False

    def report(self, carry: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Numbers per system (S,) to keep in the trace."""
        return {}

    def culprit(self, k: int) -> tuple[str, str]:
        """Who is to blame for illegal weights after k transitions, and what to do about it."""
        return f"{type(self).__name__}", "Check that log_g is never NaN or +inf."
