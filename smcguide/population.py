"""Where the particles of a run are: all here, or a part of them in each of several processes.

The engine thinks of a whole population (S, N) and computes with the n of its particles that are here.
Whatever looks at all weights (resampling, evidence, ESS) gets them from `whole`; a particle comes to
where its slot is by `take`.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from smcguide.randomness import generators
from smcguide.records import Particles


class Population:
    """All particles are here."""

    def generators(self, seed: int, device: torch.device) -> list[Generator]:
        """Two independent streams: noise of the particles here, and selection, the same everywhere."""
        return generators(seed, device)

    def places(self, num_particles: int) -> slice:
        """Which of the N slots are here."""
        return slice(0, num_particles)

    def whole(self, a: Tensor) -> Tensor:
        """(S, n) numbers of the particles here -> (S, N) those of all."""
        return a

    def means(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """(S,) means over the particles here -> means over all, name by name."""
        return named

    def arrange(self, ancestors: Tensor) -> Tensor:
        """Ancestors (S, M) in the order that suits the places best; a resampler's order means nothing."""
        return ancestors

    def take(self, particles: Particles, ancestors: Tensor, log_w: Tensor) -> Particles:
        """The particles for the slots here, copies of `ancestors` (S, N) of the whole population, with
        log-weights `log_w` (S, n)."""
        return particles.take(ancestors, log_w)
