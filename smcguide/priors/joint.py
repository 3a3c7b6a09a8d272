r"""Several independent priors as one, for models with several diffusion latents: p(x) = prod_i p_i(x^i).

The denoiser of a product is the members' denoisers side by side. A member with a schedule of its own is
asked where its noise lam' = sigma' / alpha' is that of the joint, lam, about the same y = x_t / alpha. At
noise it does not know it is asked at the nearest level it knows, so that no network extrapolates:

    more noise    x' = (lam' / lam) (sigma' / sigma) x      the same factor exp(<x_0, y> / lam^2)
    less noise    D = y + (lam / lam')^2 (D' - y)           the same score

At more noise than a member's noise end its x_t counts as N(0, sigma^2), as at every prior's noise end.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior
from smcguide.records import Level
from smcguide.rehearsal import Moments
from smcguide.schedules import Schedule

_LARGEST_FULL = 1024  # dimensions with a full covariance
_SMALLEST_START = 10.0  # sigma / alpha where x_t of a network counts as pure noise


class JointPrior(Prior):
    """Independent priors as one prior over their flattened events, one after the other.

    Members that are the same object are denoised in one network call, of a batch as many times larger.

    Arguments:
        priors: the members, of any event shapes; of the same dtype and device. The schedule is the first
            one's: begin with the prior whose schedule ends at the least noise.

    Raises:
        InvalidInput: for anything but priors, or none; for dtypes or devices that differ.
    """

    def __init__(self, priors: Sequence[Prior]) -> None:
        self.priors = tuple(priors) if isinstance(priors, Sequence) else ()
        if not self.priors or not all(isinstance(p, Prior) for p in self.priors):
            raise InvalidInput(f"JointPrior: got {priors!r}; expected a list of priors.")
        first = self.priors[0]
        for p in self.priors:
            if (p.dtype, p.device) != (first.dtype, first.device):
                raise InvalidInput(
                    f"JointPrior: {first!r} has {first.dtype} particles on {first.device}, {p!r} "
                    f"{p.dtype} on {p.device}; move one of them with .to(device, dtype)."
                )
        self.schedule, self.dtype, self.device = first.schedule, first.dtype, first.device
        self._sizes = [math.prod(p.event_shape) for p in self.priors]
        self.event_shape = (sum(self._sizes),)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The members' events (..., *E_i) of events (..., D).

        Raises:
            InvalidInput: for another last axis.
        """
        if x.shape[-1:] != self.event_shape:
            raise InvalidInput(
                f"JointPrior.split: events of shape {tuple(x.shape)}, expected (..., "
                f"{self.event_shape[0]}) for members of sizes {self._sizes}."
            )
        lead, parts = x.shape[:-1], zip(x.split(self._sizes, -1), self.priors, strict=True)
        return tuple(part.reshape(*lead, *p.event_shape) for part, p in parts)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Events (..., D) of the members' events (..., *E_i).

        Raises:
            InvalidInput: for parts that are not one event of each member, with the same leading axes.
        """
        given, events = [tuple(a.shape) for a in parts], [tuple(p.event_shape) for p in self.priors]
        lead = given[0][: len(given[0]) - len(events[0])] if given else ()
        if given != [lead + event for event in events]:
            raise InvalidInput(
                f"JointPrior.join: parts of shapes {given}; expected (..., *E) with the same leading "
                f"axes for E in {events}."
            )
        return torch.cat([a.reshape(*lead, d) for a, d in zip(parts, self._sizes, strict=True)], -1)

    def denoise(self, x: Tensor, t: float) -> Tensor:
        level, parts = self.schedule.level(t), self.split(x)
        same = {id(p): [i for i, q in enumerate(self.priors) if q is p] for p in self.priors}
        D: dict[int, Tensor] = {}
        for places in same.values():
            rows = torch.cat([parts[i] for i in places])
            answers = _ask(self.priors[places[0]], rows, level).chunk(len(places))
            D |= dict(zip(places, answers, strict=True))
        return self.join([D[i] for i in range(len(parts))])

    def initial(self, num: int, t: Level, generator: torch.Generator) -> Tensor:
        """Draws (num, D) from the law at the noise end, each member's own.

        Raises:
            InvalidInput: where the law of a member is not known, before its noise end.
        """
        parts = []
        for prior in self.priors:
            own, factor = _law(prior.schedule, t)
            draw = Prior.initial if own is None else type(prior).initial
            end = prior.schedule.level(prior.schedule.t_max).ratio * 0.9999  # up to rounding
            if draw is Prior.initial and t.ratio < min(end, _SMALLEST_START):
                raise InvalidInput(
                    f"JointPrior: at the start, {t}, the law of x_t of {prior!r} is not N(0, sigma^2). "
                    "Start at more noise; priors whose schedules have more of it go first."
                )
            parts.append(draw(prior, num, own or t, generator) / factor)
        return self.join(parts)

    def log_initial_ratio(self, x: Tensor, t: Level) -> Tensor:
        total = super().log_initial_ratio(x, t)
        for prior, part in zip(self.priors, self.split(x), strict=True):
            own, factor = _law(prior.schedule, t)
            if own is not None:
                total = total + prior.log_initial_ratio(factor * part, own)
        return total

    def log_prob(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Log-density (M,) float64 of the noised marginal at time t (t = 0: the data law).

        Raises:
            InvalidInput: where a member has no `log_prob`.
        """
        level, total = self.schedule.level(t), x.new_zeros(len(x), dtype=torch.float64)
        for prior, part, d in zip(self.priors, self.split(x), self._sizes, strict=True):
            density = getattr(prior, "log_prob", None)
            if density is None:
                raise InvalidInput(f"JointPrior.log_prob: {prior!r} has no log_prob.")
            own, factor = _law(prior.schedule, level)
            if own is None:
                noise = torch.distributions.Normal(total.new_zeros(()), level.sigma)
                total = total + noise.log_prob(part.flatten(1).double()).sum(-1)
            else:
                total = total + density(factor * part, own.time) + d * math.log(factor)
        return total

    def exact_draws(self, num: int, generator: torch.Generator) -> Tensor | None:
        draws = (prior.exact_draws(num, generator) for prior in self.priors)
        known = [x for x in draws if x is not None]
        return self.join(known) if len(known) == len(self.priors) else None

    def moments(self) -> Moments | None:
        known = [m for prior in self.priors if (m := prior.moments()) is not None]
        if len(known) < len(self.priors):
            return None
        mean = torch.cat([m.mean for m in known])
        if len(mean) > _LARGEST_FULL or all(m.basis is None for m in known):
            own = [m.variance if m.basis is None else m.basis**2 @ m.variance for m in known]
            return Moments(mean, torch.cat(own))
        bases = [torch.eye(len(m.mean)).to(mean) if m.basis is None else m.basis for m in known]
        return Moments(mean, torch.cat([m.variance for m in known]), torch.block_diag(*bases))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        moved = super().to(device, dtype)
        if moved is not self:
            members = {id(prior): prior.to(device, dtype) for prior in self.priors}
            moved.priors = tuple(members[id(prior)] for prior in self.priors)
        return moved

    def __repr__(self) -> str:
        return f"JointPrior([{', '.join(repr(prior) for prior in self.priors)}])"


def _ask(prior: Prior, x: Tensor, t: Level) -> Tensor:
    """A member's denoiser at the joint's level t."""
    own = _meet(prior.schedule, t, prior.schedule.t_min)
    if own == t:
        return prior.denoise(x, t.time)
    if t.ratio >= own.ratio:
        less = 1.0 if t.ratio == own.ratio else own.ratio / t.ratio
        return prior.denoise(less * own.sigma / t.sigma * x, own.time)
    y = x / t.alpha
    return y + (t.ratio / own.ratio) ** 2 * (prior.denoise(own.alpha * y, own.time) - y)


def _meet(schedule: Schedule, t: Level, lowest: float) -> Level:
    """The level of a schedule with the noise sigma / alpha of t, or the nearest from time `lowest` on."""
    if t.time <= schedule.t_max and schedule.level(t.time) == t:
        return t
    top, bottom = schedule.level(schedule.t_max), schedule.level(lowest)
    if t.ratio >= top.ratio or t.ratio <= bottom.ratio:
        return top if t.ratio >= top.ratio else bottom
    return schedule.level(float(schedule.time(-2 * math.log(t.ratio))))


def _law(schedule: Schedule, t: Level) -> tuple[Level | None, float]:
    """A member's level of the noise of t, None beyond its noise end; how much larger its x_t is."""
    own = _meet(schedule, t, 0.0)
    if own.time == schedule.t_max and own.ratio < t.ratio:
        return None, 1.0
    return own, own.sigma / t.sigma if own.sigma > 0 else own.alpha / t.alpha
