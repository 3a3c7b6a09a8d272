"""A kernel is the base reverse step p(x_s | x_t) of the prior's chain, s < t: a Gaussian whose mean
may use the denoiser's x0_hat and what the kernel itself remembered of earlier steps."""

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor

from smcguide.gaussian import Gaussian
from smcguide.records import Level
from smcguide.rehearsal import Rehearsal


class Kernel(ABC):
    """Base class of reverse kernels; concrete ones are frozen dataclasses.

    Attributes:
        needs_rehearsal: whether `bind` wants to know the prior's moments or draws.
    """

    needs_rehearsal: bool = False

    def bind(self, rehearsal: Rehearsal | None) -> Self:
        """The kernel for this prior; called once, when the model is built."""
        return self

    @abstractmethod
    def step(
        self, x: Tensor, x0_hat: Tensor, t: Level, s: Level, memory: Tensor | None
    ) -> Gaussian:
        """p(x_s | x_t).

        Arguments:
            x: (S, N, *E) states at level t.
            x0_hat: (S, N, *E) denoiser's output there.
            t, s: levels, s less noisy; s may be data (sigma = 0).
            memory: the `memory` of this kernel's previous Gaussian, gathered with the particles;
                None at the first step and for kernels without history.

        Returns:
            The Gaussian; its `std` is a float wherever one number serves all particles, and exactly
            0.0 where the step is deterministic.
        """
