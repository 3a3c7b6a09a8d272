"""The records that travel between rooms: immutable, one tensor convention.

Particles are (S, N, *E): S systems, N particles each, event axes E. A chunk of a population has the
same layout with fewer particles. Values and log-weights are (S, N) and float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smcguide.gaussian import Gaussian as Gaussian


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
        return (variance.reciprocal() + precision).reciprocal().clamp(max=1e12)


@dataclass(frozen=True)
class Look:
    """What one network call at (x_t, t) taught.

    Attributes:
        x: (S, N, *E) the states.
        x0_hat: (S, N, *E) the denoiser's E[x_0 | x_t].
        t: the noise level.
        log_psi: (S, N) float64, the potential's value, once it has been asked.
        grad: (S, N, *E) gradient of log_psi with respect to x, if the proposal asked for it.
        guide_grad: (S, N, *E) the same of the proposal's `shared_guide`, where it has been taken.
        memory: (S, N, ...) what a path-dependent potential remembers of the earlier levels.
        noise: (S, N, J, *E) the particle's own standard normal numbers, if the potential wants some.
        strength: (S, N) the strength of an adaptively tempered potential, once it has been chosen.
        step: what may be asked about the step that starts here (`proposals.base.Step`).
        theta: (S, N, p) float64 the particles' parameters, if the cost has some.
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
    theta: Tensor | None = None
    vjp: Callable[[Tensor], Tensor] | None = None
    guide_grad: Tensor | None = None

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

    def take(self, ancestors: Tensor, log_w: Tensor | None = None) -> "Particles":
        """The population of `ancestors` (S, N): every per-particle field is gathered, here only. A given
        log_w (S, N) is the new one as it is."""
        S, N = ancestors.shape
        flat = ancestors.flatten()
        if S > 1:
            flat = (ancestors + N * torch.arange(S, device=ancestors.device)[:, None]).flatten()

        def gather(a: Tensor) -> Tensor:
            rows = a.flatten(0, 1).index_select(0, flat)
            return rows.view(S, N, *rows.shape[1:])

        return Particles(
            gather(self.x),
            gather(self.log_w) if log_w is None else log_w,
            gather(self.eve),
            {name: gather(a) for name, a in self.carry.items()},
        )


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
