r"""The log-density of a prior's data law, by its probability-flow ODE.

In y = x_t / alpha and lam = sigma / alpha, with D = E[x_0 | x_t], the flow that carries the data law to
pure noise is

    dy / d log lam = y - D,        d log p(y) / d log lam = -(d - tr dD/dy)    along it,

from the smallest noise lam_0 worth visiting to the noise end lam_1, where y is N(0, lam_1^2 I), or what
the prior knows better. Most of the flow is known: data of variance v leave u = y / w, w^2 = v + lam^2,
where it is. The rest is integrated by Heun's rule,

    du / d log lam = -(D - c y) / w,        c = v / w^2,

    log p(y_0) = log p(y_1) + d log(w_1 / w_0) - int (tr dD/dy - c d) d log lam.

The answer is the density of x_0 + lam_0 eps. Where the data vary by a variance V much larger than lam_0^2
it is that of the data, up to a share lam_0^2 / V. Where they vary less, as in pixels that never change,
it is that of a Gaussian of width lam_0: finite, and it says more of the schedule than of the data.

Reference: Song et al., "Score-based generative modeling through SDEs" (arXiv 2011.13456).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.grids import log_snr
from smcguide.priors.base import Prior
from smcguide.records import Level

_LARGEST_BATCH = 256  # particles in the network at once, with its graph


@dataclass(frozen=True)
class FlowDensity:
    """Log-densities of events under a prior: density(prior, x).

    The prior's `log_prob`, where it has one, is exact and cheaper. The result carries no gradient.

    Arguments:
        num_steps: steps of the integration, equal in log lam; two network calls each. The error falls
            with its square: double it until the answer stops moving.
        num_probes: None for the exact trace, d passes back through the network per call; else
            Hutchinson's estimate from that many random directions per particle, the same along the path.
            It is unbiased for the log-density that the exact trace gives.
        seed: of the random directions.

    Raises:
        InvalidInput: for counts that are not whole numbers of at least 1.
    """

    num_steps: int = 100
    num_probes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, count in (("num_steps", self.num_steps), ("num_probes", self.num_probes)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise InvalidInput(
                    f"FlowDensity: {name} must be a whole number >= 1, got {count!r}."
                )

    def __call__(self, prior: Prior, x: Tensor) -> Tensor:
        """Log-densities (M,) float64 of events x (M, *E).

        Raises:
            InvalidInput: for events of another shape, and for a denoiser without a gradient.
        """
        if tuple(x.shape[1:]) != tuple(prior.event_shape) or x.ndim < 1:
            raise InvalidInput(
                f"FlowDensity: x of shape {tuple(x.shape)}; expected (M, *E) with E = "
                f"{tuple(prior.event_shape)}, the events of {prior!r}."
            )
        y = x.detach().to(prior.device, torch.float64).flatten(1)
        probes = None
        if self.num_probes is not None:
            shape = (len(y), self.num_probes, y.shape[1])
            generator = torch.Generator(prior.device).manual_seed(self.seed)
            bits = torch.randint(0, 2, shape, generator=generator, device=prior.device)
            probes = 2 * bits.to(prior.dtype) - 1
        times = log_snr(self.num_steps + 1)(prior.schedule)[:-1].flip(0)
        flow = _Flow(prior, [prior.schedule.level(float(t)) for t in times], _size(prior))
        with torch.no_grad():
            rows = [slice(i, i + _LARGEST_BATCH) for i in range(0, len(y), _LARGEST_BATCH)]
            parts = [flow.log_density(y[r], None if probes is None else probes[r]) for r in rows]
        return torch.cat([y.new_zeros(0), *parts])


@dataclass(frozen=True)
class _Flow:
    """The flow of a prior through increasing noise `levels`, data of mean square `v` taken out."""

    prior: Prior
    levels: list[Level]
    v: float

    def width(self, t: Level) -> float:
        """w."""
        return math.sqrt(self.v + t.ratio**2)

    def log_density(self, y: Tensor, probes: Tensor | None) -> Tensor:
        """log p (m,) of y (m, d) at the first level; probes (m, P, d)."""
        u, integral = y / self.width(self.levels[0]), y.new_zeros(len(y))
        for t, s in pairwise(self.levels):
            h = math.log(s.ratio / t.ratio)
            du, trace = self.slope(u, t, probes)
            du_end, trace_end = self.slope(u + h * du, s, probes)
            u = u + h / 2 * (du + du_end)
            integral = integral + h / 2 * (trace + trace_end)
        first, last, d = self.levels[0], self.levels[-1], y.shape[1]
        y = self.width(last) * u
        noise = torch.distributions.Normal(y.new_zeros(()), last.ratio).log_prob(y).sum(-1)
        noise = noise + self.prior.log_initial_ratio(self.states(y, last), last)
        return noise + d * math.log(self.width(last) / self.width(first)) - integral

    def states(self, y: Tensor, t: Level) -> Tensor:
        """x_t (m, *E) as the prior wants it."""
        return (t.alpha * y).to(self.prior.dtype).reshape(len(y), *self.prior.event_shape)

    def slope(self, u: Tensor, t: Level, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        """du / d log lam (m, d) and tr dD/dy - c d (m,)."""
        w, d = self.width(t), u.shape[1]
        c, y = self.v / w**2, w * u
        with torch.enable_grad():
            x = self.states(y, t)
            x.requires_grad_()
            D = self.prior.denoise(x, t.time)
        trace, count = y.new_zeros(len(y)), 1 if probes is None else probes.shape[1]
        for direction in _directions(x, probes):
            trace = trace + (self.pull(D, x, direction) * direction).flatten(1).double().sum(-1)
        D = D.detach().flatten(1).double()
        return -(D - c * y) / w, t.alpha * trace / count - c * d

    def pull(self, D: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """(dD/dx)^T v."""
        known = D.requires_grad
        if known:
            (back,) = torch.autograd.grad(D, x, v, retain_graph=True, allow_unused=True)
        if not known or back is None:
            raise InvalidInput(
                f"FlowDensity: the denoiser of {self.prior!r} carries no gradient. Its network must not "
                "switch gradients off or detach its input."
            )
        return back


def _directions(x: Tensor, probes: Tensor | None) -> Iterator[Tensor]:
    """Directions (m, *E): the probes, or all coordinates."""
    if probes is not None:
        yield from (probe.reshape(x.shape) for probe in probes.unbind(1))
        return
    for i in range(x[0].numel()):
        e = torch.zeros_like(x).flatten(1)
        e[:, i] = 1
        yield e.reshape(x.shape)


def _size(prior: Prior) -> float:
    """Mean square of the data per coordinate where it is known, else 1; sets the error only."""
    m = prior.moments()
    return 1.0 if m is None else float((m.variance + m.mean**2).mean())
