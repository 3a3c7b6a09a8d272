"""The base chain of a prior: its kernel on a grid of noise levels.

Where the grid goes up again (`grids.recurrent`), the transition is the noising kernel

    x_s | x_t ~ N( (alpha_s / alpha_t) x_t,  sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2 ).
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Generator, Tensor

from smcguide.feynman_kac import FeynmanKac
from smcguide.gaussian import Gaussian
from smcguide.kernels.base import Kernel
from smcguide.priors.base import Prior
from smcguide.randomness import normals
from smcguide.records import Level


class BaseChain(FeynmanKac):
    """The unguided half of a `GuidedDiffusion`.

    Attributes:
        levels: K + 1 noise levels, the last one data.
        num_draws: J, how many events of random numbers the potential wants per particle.
        stds: `std` of each transition, once the kernel is bound.
    """

    prior: Prior
    kernel: Kernel
    levels: Sequence[Level]
    num_draws: int = 0
    stds: Sequence[float] = ()

    def base_kernel(
        self, k: int, x: Tensor, x0_hat: Tensor, memory: Tensor | None = None
    ) -> Gaussian:
        """p(x_s | x_t) of transition k at states x (S, n, *E) with denoised estimates x0_hat."""
        t, s = self.levels[k], self.levels[k + 1]
        if not self.is_noising(k):
            return self.kernel.step(x, x0_hat, t, s, memory)
        return self.noising(k, k + 1, x)

    def noising(self, k: int, j: int, x: Tensor) -> Gaussian:
        """The noising kernel from level k to the noisier level j."""
        t, s = self.levels[k], self.levels[j]
        shrink = s.alpha / t.alpha
        return Gaussian(shrink * x, math.sqrt(s.sigma**2 - (shrink * t.sigma) ** 2))

    def is_noising(self, k: int) -> bool:
        """Whether transition k goes back to more noise."""
        return self._rises[k]

    @cached_property
    def _rises(self) -> Sequence[bool]:
        return [s.ratio > t.ratio for t, s in pairwise(self.levels)]

    def std(self, k: int) -> float:
        """Standard deviation of transition k (its mean over coordinates)."""
        if self.stds:
            return self.stds[k]
        dot = torch.zeros((1, 1, *self.event_shape), dtype=self.prior.dtype, device=self.device)
        std = self.base_kernel(k, dot, dot).std
        return std if isinstance(std, float) else float(std.mean())

    def is_noiseless(self, k: int) -> bool:
        return self.std(k) == 0

    def time(self, k: int) -> float:
        return self.levels[k].time

    def log_transition(
        self, k: int, x: Tensor, carry: Mapping[str, Tensor], x_next: Tensor
    ) -> Tensor:
        base = self.base_kernel(k, x, carry["x0_hat"])
        law = torch.distributions.Normal(base.mean.double(), torch.as_tensor(base.std).double())
        return law.log_prob(x_next.double()).flatten(2).sum(-1) - carry["log_psi"]

    def draw_initial(self, shape: tuple[int, int], generator: Generator) -> Tensor:
        """(S, N, *E) from the prior's law at the noise end."""
        x = self.prior.initial(math.prod(shape), self.levels[0], generator)
        return x.unflatten(0, shape)

    def draw_noise(self, x: Tensor, generator: Generator) -> Tensor | None:
        """Random numbers (S, N, J, *E) of the potential's own. A given path has fresh ones too: its value
        divides out, so given the path they are standard normal."""
        if not self.num_draws:
            return None
        shape = (*x.shape[:2], self.num_draws, *x.shape[2:])
        return normals(shape, generator, x.dtype)
