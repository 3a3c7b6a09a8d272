r"""The probability of a rare event under the prior, from a guided run towards it.

A run with cost C estimates Z = E[exp(-C)]. For an event A and final log-weights log w,

    P(A) = E[1_A] = Z sum_i W_i 1_A(x_i) exp(C(x_i)),

which is the evidence of the same run had its last weight led to A instead of exp(-C). It is as
unbiased as Z, and its error is estimated like that of any log Z. For the hard cost, 0 in A and +inf
outside, P(A) = Z; a soft one, such as `Exceedance`, guides better and is corrected by the formula.

Particles of A with a large C are what the run did not look for: exp(C) should be bounded on A, as the 2
of `Exceedance` is.

P(A) is under the chain of the run, and tails magnify its errors. A Gaussian's tail beyond 4.5 standard
deviations, 3.4e-6, is 0.28 of that under DDIM(1.0) with 100 steps and 1.2 of that with MatchedDDPM():
double the steps until the answer stops moving.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.evidence import POOL, islands, standard_error
from smcguide.exactness import has_evidence
from smcguide.posterior import Posterior


@dataclass(frozen=True)
class RareEvent:
    """A small probability. Scalars; (S,) for systems with different observations.

    Attributes:
        log_probability: natural logarithm; -inf where no particle with weight is in the event.
        relative_error: standard error of the probability over the probability; NaN if it cannot be told.
        method: which estimate of the error this is.
        hits: number of particles with weight in the event, all systems together.
    """

    log_probability: Tensor
    relative_error: Tensor
    method: str
    hits: int

    @property
    def probability(self) -> Tensor:
        """P(A)."""
        return self.log_probability.exp()

    @property
    def log10(self) -> Tensor:
        """log10 P(A)."""
        return self.log_probability / math.log(10)


@dataclass(frozen=True)
class Exceedance:
    """The event f(x_0) > threshold, and a smooth cost that leads to it,

        C = -log Phi((f(x_0) - threshold) / width),   Phi the normal distribution function.

    Give it to `sample` as the cost, then `rare_event(posterior, tail.event, tail)`.

    Arguments:
        f: (M, *E) -> (M,), differentiable for guidance.
        threshold: above which the event is.
        width: > 0, of the soft edge in units of f; a tenth or so of the standard deviation of f.

    Raises:
        InvalidInput: for a width that is not a positive number.
    """

    f: Callable[[Tensor], Tensor]
    threshold: float
    width: float

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise InvalidInput(f"Exceedance: width must be a positive number, got {self.width}.")

    def __call__(self, x0: Tensor) -> Tensor:
        """The cost (M,) of events (M, *E)."""
        return -torch.special.log_ndtr((self.f(x0) - self.threshold) / self.width)

    def event(self, x0: Tensor) -> Tensor:
        """(M,) bool."""
        return self.f(x0) > self.threshold


@runtime_checkable
class _OfSystems(Protocol):
    """A `TerminalCost`, which is called on (S, N, *E), as told from a function on flat batches."""

    def __call__(self, x0: Tensor) -> Tensor: ...

    def parts(self) -> tuple[Any, ...]: ...


def rare_event(
    posterior: Posterior,
    event: Callable[[Tensor], Tensor] | None = None,
    cost: Callable[[Tensor], Tensor] | None = None,
) -> RareEvent:
    """Probability of an event with its relative error; replicate systems are averaged.

    Arguments:
        posterior: of a run with log Z.
        event: (M, *E) -> (M,) bool. None: the cost of the run was 0 in the event and +inf outside.
        cost: the cost of the run, a `TerminalCost` or (M, *E) -> (M,); None for one that is 0 in the
            event.

    Raises:
        InvalidInput: for a run without evidence, a cost without an event, shapes that do not fit, a cost
            that is infinite at a particle that has weight.
    """
    if not has_evidence(posterior.exactness) or "pooled_se" in posterior.settings:
        raise InvalidInput(
            f"rare_event: needs the log Z of each system of a run with exact weights; this one is "
            f"{'pooled already' if 'pooled_se' in posterior.settings else posterior.exactness}."
        )
    log_w = _retargeted(posterior, event, cost)
    log_p = posterior.log_z + weights.log_mean_exp(log_w) - weights.log_mean_exp(posterior.log_w)
    S, hits = len(log_p), int((log_w > -torch.inf).sum())
    if posterior.are_replicates and S > 1:
        pooled, error = islands(log_p) if hits else (log_p[0], log_p.new_full((), torch.nan))
        return RareEvent(pooled, error, POOL, hits)
    told = log_w.masked_fill(~(log_w > -torch.inf).any(1, keepdim=True), 0.0)
    error, method = standard_error(
        log_p, weights.normalise(told), posterior.eves, posterior.trace["resampled"].sum(1),
        multinomial=posterior._is_multinomial, replicates=False,
    )  # fmt: skip
    error = error.masked_fill(log_p == -torch.inf, torch.nan)
    return RareEvent(posterior._answer(log_p), posterior._answer(error), method, hits)


def _retargeted(
    posterior: Posterior,
    event: Callable[[Tensor], Tensor] | None,
    cost: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Log-weights (S, N) towards the event."""
    log_w = posterior.log_w
    if event is None:
        if cost is not None:
            raise InvalidInput("rare_event: give the event whose soft version the cost is.")
        return log_w
    flat, alive = posterior.x.flatten(0, 1), (log_w > -torch.inf).flatten()
    inside = event(flat)
    if cost is None:
        price = torch.zeros_like(inside, dtype=torch.float64)
    elif isinstance(cost, _OfSystems):
        price = cost(posterior.x).detach().flatten()
    else:
        price = cost(flat).detach()
    if inside.shape != alive.shape or inside.dtype != torch.bool or price.shape != alive.shape:
        raise InvalidInput(
            f"rare_event: event gave {inside.dtype} {tuple(inside.shape)} and cost {tuple(price.shape)} "
            f"for {len(flat)} events; expected bool ({len(flat)},) and ({len(flat)},)."
        )
    hit = inside & alive
    if not bool(price[hit].isfinite().all()):
        raise InvalidInput(
            "rare_event: the cost is not finite at a particle of the event that has weight; is it the "
            "cost of this run?"
        )
    tilt = torch.where(hit, price.double(), -torch.inf)
    return torch.where(hit, log_w.flatten() + tilt, -torch.inf).reshape(log_w.shape)
