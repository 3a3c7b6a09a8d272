"""The records that travel between rooms: immutable, one tensor convention.

Particles are (S, N, *E): S systems, N particles each, event axes E. A chunk of a population has the
same layout with fewer particles. Values and log-weights are (S, N) and float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One noise level of a schedule: x_t = alpha x_0 + sigma eps at time `time`."""

    time: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """lam = sigma / alpha, the noise level of x_t / alpha; inf where alpha is 0."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    def prior_width(self, variance: Tensor) -> Tensor:
        """(1 / V + alpha^2 / sigma^2)^-1, the variance of x_0 given x_t under a prior N(., V)."""
        precision = (self.alpha / self.sigma) ** 2 if self.sigma > 0 else math.inf
        return (1 / (1 / variance + precision)).clamp(max=1e12)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian kernel N(mean, std^2) with independent coordinates.

    Attributes:
        mean: (S, N, *E).
        std: a float, or a tensor that broadcasts against `mean`.
        memory: (S, N, ...) what its author wants back with each particle at the next step, or None.
    """

    mean: Tensor
    std: float | Tensor
    memory: Tensor | None = None

    @property
    def is_dirac(self) -> bool:
        """Whether the kernel has no noise at all (known without looking at a tensor)."""
        return isinstance(self.std, float) and self.std == 0.0

    def sample(self, z: Tensor) -> Tensor:
        """mean + std z for standard normal z (S, N, *E)."""
        return self.mean + self.std * z

    def std_like(self, x: Tensor) -> Tensor:
        """`std` as a tensor with the particles of x (S, N, *E) that broadcasts against it."""
        if isinstance(self.std, Tensor):
            return self.std.expand_as(x)
        return x.new_full((*x.shape[:2], *[1] * (x.ndim - 2)), self.std)

    def noise_of(self, x: Tensor, which: slice) -> Tensor:
        """The z for which the particles `which` are sampled at x; 0 where there is no noise."""
        std = self.std if isinstance(self.std, float) else self.std.expand_as(self.mean)[:, which]
        return torch.zeros_like(x) if self.is_dirac else (x - self.mean[:, which]) / std

    def log_ratio(self, proposal: "Gaussian", z: Tensor) -> Tensor:
        """log self(x) - log proposal(x) at x = proposal.sample(z), shape (S, N), float64.

        With r = std_q / std_p and d = (mean_q - mean_p) / std_p this is
        sum [ (1 - r^2) z^2 / 2 - r d z - d^2 / 2 + log r ]: no difference of two large quadratics,
        exact in float32 too, and exactly zero when the kernels agree.
        """
        if self.is_dirac:  # the model guides no deterministic step: both kernels are the same point
            return torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
        d = (proposal.mean - self.mean) / self.std
        r = torch.as_tensor(proposal.std / self.std, dtype=z.dtype, device=z.device)
        terms = (1 - r**2) / 2 * z**2 - d * (d / 2 + r * z) + torch.log(r)
        return terms.flatten(2).sum(-1, dtype=torch.float64)

    def kl(self, base: "Gaussian") -> Tensor:
        """KL(self || base), |delta|^2 / (2 c^2) for equal standard deviations, shape (S, N)."""
        if base.is_dirac:
            return torch.zeros(self.mean.shape[:2], dtype=torch.float64, device=self.mean.device)
        d = (self.mean - base.mean) / base.std
        r = torch.as_tensor(self.std / base.std, dtype=d.dtype, device=d.device)
        terms = (d**2 + r**2 - 1) / 2 - torch.log(r)
        return terms.flatten(2).sum(-1, dtype=torch.float64)


@dataclass(frozen=True)
class Look:
    """What one network call at (x_t, t) taught.

    Attributes:
        x: (S, N, *E) the states.
        x0_hat: (S, N, *E) the denoiser's E[x_0 | x_t].
        t: the noise level.
        log_psi: (S, N) float64, the potential's value, once it has been asked.
        grad: (S, N, *E) gradient of log_psi with respect to x, if the proposal asked for it.
        memory: (S, N, ...) what a path-dependent potential remembers of the earlier levels.
        noise: (S, N, J, *E) the particle's own standard normal numbers, if the potential wants some.
        strength: (S, N) the strength of an adaptively tempered potential, once it has been chosen.
        step: what may be asked about the step that starts here (`proposals.base.Step`).
        vjp: v -> (d x0_hat / d x)^T v, (S, N, *E), if the potential asked for it.
    """

    x: Tensor
    x0_hat: Tensor
    t: Level
    log_psi: Tensor | None = None
    grad: Tensor | None = None
    memory: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    step: Any = None
    vjp: Callable[[Tensor], Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """`log_psi`, which has been asked."""
        return _known(self.log_psi)

    @property
    def slope(self) -> Tensor:
        """`grad`, which has been asked."""
        return _known(self.grad)


def _known(field: Tensor | None) -> Tensor:
    if field is None:
        raise AttributeError("This look was made without that field.")
    return field


@dataclass(frozen=True)
class Particles:
    """A weighted population.

    Attributes:
        x: (S, N, *E) states.
        log_w: (S, N) float64 unnormalised log-weights since the last resampling.
        eve: (S, N) index of each particle's ancestor in the initial population.
        carry: per-particle tensors (S, N, ...) that the model wants back at the next step.
    """

    x: Tensor
    log_w: Tensor
    eve: Tensor
    carry: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, ancestors: Tensor) -> "Particles":
        """The population of `ancestors` (S, N): every per-particle field is gathered, here only."""
        S, N = ancestors.shape
        flat = (ancestors + N * torch.arange(S, device=ancestors.device)[:, None]).flatten()

        def gather(a: Tensor) -> Tensor:
            return a.flatten(0, 1).index_select(0, flat).unflatten(0, (S, N))

        return Particles(
            gather(self.x),
            gather(self.log_w),
            gather(self.eve),
            {name: gather(a) for name, a in self.carry.items()},
        )

    def reweighted(self, log_w: Tensor) -> "Particles":
        """The same population with other log-weights."""
        return replace(self, log_w=log_w)


@dataclass(frozen=True)
class StepInfo:
    """What happened in one step, one number per system; tensors stay on the device.

    Attributes:
        step: 0 for the initial population, k for the k-th transition.
        time: time of the states after the step.
        ess: (S,) effective sample size of the weights after the step.
        resampled: (S,) bool, whether the step began with a resampling.
        log_evidence: (S,) running log-evidence estimate.
        unique_ancestors: (S,) number of distinct parents chosen in this step.
        unique_eves: (S,) number of distinct ancestors in the initial population.
        bad: (S,) number of particles with an illegal weight (0 in a healthy run; N if all are dead).
        report: further numbers of the model, name -> (S,).
        recorded: what `record` asked to keep, name -> tensor.
    """

    step: int
    time: float
    ess: Tensor
    resampled: Tensor
    log_evidence: Tensor
    unique_ancestors: Tensor
    unique_eves: Tensor
    bad: Tensor
    report: Mapping[str, Tensor] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)
