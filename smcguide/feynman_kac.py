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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from smcguide.exactness import EXACT


@dataclass(frozen=True)
class Propagated:
    """A population after one transition, before its weights are updated.

    Attributes:
        x: (S, N, *E) new states.
        log_g: (S, N) log-weight of this transition.
        carry: per-particle tensors (S, N, ...) wanted back at the next step; the engine gathers
            them with the particles.
        eve: (S, N) which initial draw each particle descends from, where a first population was
            itself resampled; None for its own place.
    """

    x: Tensor
    log_g: Tensor
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    eve: Tensor | None = None


class FeynmanKac(ABC):
    """Base class of models that the engine runs.

    Attributes:
        num_steps: number of transitions K.
        event_shape: shape of one state.
        num_systems: S where the model fixes it, else None.
        device: where the random numbers are drawn.
        chain_length: how many particles share one ancestor at a resampling; `refresh` tells them apart.
        path_fields: what of `carry` belongs to a path besides its states, for conditional SMC.
        has_paths: whether the states at each level are those that the run goes on from.
        exactness: what may be claimed of the results, see `smcguide.exactness`.
    """

    num_steps: int
    event_shape: tuple[int, ...]
    num_systems: int | None = None
    device: torch.device = torch.device("cpu")
    chain_length: int = 1
    path_fields: Sequence[str] = ()
    has_paths: bool = True

    @property
    def exactness(self) -> str:
        return EXACT

    @property
    def extras(self) -> list[str]:
        """What the model does to its population besides propagating it, in words: what a wrapper of
        its steps, such as `Candidates` or conditional SMC, would lose."""
        hooks = {"refresh": "moves (its `refresh`)", "adapt": "adaptive choices (its `adapt`)"}
        own = (name for name in hooks if getattr(type(self), name) is not getattr(FeynmanKac, name))
        return [hooks[name] for name in own]

    @abstractmethod
    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        """The first population, shape = (S, N), with log_g = log G_0."""

    @abstractmethod
    def step(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], generator: Generator
    ) -> Propagated:
        """Transition k = 0 ... K - 1 of the states x (S, N, *E)."""

    def log_transition(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], x_next: Tensor
    ) -> Tensor:
        """log [M_k G_k](x_next | x) up to a function of x_next, (S, N), where the model knows it.

        For ancestor sampling: how well each particle would have explained the state x_next.
        """
        raise NotImplementedError(f"{type(self).__name__} does not know its transition density.")

    def conditional_initial(
        self, shape: tuple[int, int], generator: Generator, pinned: Mapping[str, Tensor] | None
    ) -> Propagated:
        """`initial`, but particle 0 is at pinned["x"] (S, *E), with pinned[name] for `path_fields`."""
        raise NotImplementedError(f"{type(self).__name__} cannot run along a given path.")

    def conditional_step(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], generator: Generator,
        pinned: Mapping[str, Tensor] | None,
    ) -> Propagated:  # fmt: skip
        """`step`, but particle 0 goes to pinned["x"] (S, *E)."""
        raise NotImplementedError(f"{type(self).__name__} cannot run along a given path.")

    def refresh(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], fires: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:  # fmt: skip
        """States and carry after Markov moves that leave the target after k transitions invariant;
        `fires` (S,) are the systems just resampled, None for none."""
        return x, carry

    def adapt(self, k: int, log_w: Tensor, moved: Propagated) -> Propagated:
        """The result of k transitions after choices that look at the weights log_w before the last;
        whoever makes some says in `exactness` that Z is no longer unbiased."""
        return moved

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

    def outputs(self, carry: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What a result holds of the final particles besides their states, name -> (S, N, ...)."""
        return {}

    def culprit(self, k: int) -> tuple[str, str]:
        """Who is to blame for illegal weights after k transitions, and what to do about it."""
        return f"{type(self).__name__}", "Check that log_g is never NaN or +inf."
