"""A weighted sample of adaptive importance sampling."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from smcguide.diagnostics.estimators.proposal import Defensive
from smcguide.errors import InvalidInput
from smcguide.weights import log_mean_exp


@dataclass(frozen=True)
class Sample:
    """Draws: events (M, *E), f (M, J), controls h (M, C), log p (M,), log of the law they come from."""

    x: Tensor
    f: Tensor
    h: Tensor
    log_p: Tensor
    log_q: Tensor

    @property
    def w(self) -> Tensor:
        """Weights (M,), one on average."""
        return torch.exp(self.log_p - self.log_q)

    def take(self, which: Tensor) -> "Sample":
        """The draws `which` (M,) bool."""
        return Sample(*(getattr(self, one.name)[which] for one in fields(self)))


def evaluated(
    law: Defensive, num: int, f: Callable[[Tensor], Tensor],
    controls: Callable[[Tensor], Tensor] | None, generator: Generator,
) -> Sample:  # fmt: skip
    """`num` draws from `law`, and everything wanted at them.

    Raises:
        InvalidInput: for values that are not finite, or of another shape.
    """
    x = law.draw(num, generator)
    log_p = law.log_p(x).double()
    inside = log_p > -torch.inf  # f may be undefined where p is zero
    impossible = law.mixture is None and not bool(inside.any())  # for draws from p
    if log_p.shape != (num,) or impossible or bool((log_p.isnan() | (log_p == torch.inf)).any()):
        raise InvalidInput(
            f"expectations: log_p gave {tuple(log_p.shape)} for {num} draws, {int(log_p.isnan().sum())} "
            f"NaN, {int((log_p == torch.inf).sum())} +inf and {int((~inside).sum())} -inf or NaN; "
            f"expected ({num},), -inf outside of the support only."
        )
    values = f(x[inside]).double()
    h = torch.zeros(len(values), 0) if controls is None else controls(x[inside])
    h, M = h.to(values), int(inside.sum())
    fits = values.ndim == h.ndim == 2 and len(values) == len(h) == M and values.shape[1] > 0
    if not fits or not bool(values.isfinite().all() and h.isfinite().all()):
        raise InvalidInput(
            f"expectations: f gave {tuple(values.shape)} and controls {tuple(h.shape)} at {M} events; "
            f"expected finite ({M}, J), J >= 1, and ({M}, C)."
        )
    full = torch.zeros(num, values.shape[1] + h.shape[1], dtype=torch.float64, device=x.device)
    full[inside] = torch.cat([values, h], 1)
    return Sample(
        x, full[:, : values.shape[1]], full[:, values.shape[1] :], log_p, law.log_q(x, log_p)
    )


def mixed(batches: list[Sample], laws: list[Defensive]) -> Sample:
    """Equal batches as draws from the mixture of their laws."""
    x, f, h, log_p = (
        torch.cat([getattr(one, name) for one in batches]) for name in ("x", "f", "h", "log_p")
    )
    return Sample(x, f, h, log_p, log_mean_exp(torch.stack([q.log_q(x, log_p) for q in laws], 1)))
