r"""Linear measurements in the basis where they are diagonal, for proposals that need no gradient.

The whitened operator A / s = U diag(S) V^T, with the residual r(x) = (y - A x) / s. Masks and operators
that are diagonal up to order (one entry in each row and column) are handled entry by entry: V then
selects coordinates. Of any other operator V is the basis of a Gaussian's own directions.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal
from smcguide.records import Look

_LARGEST_DENSE = 2048
_CUTOFF = 1e-9  # of the largest singular value: directions that are not measured


def linear_parts(cost: Any) -> list[Any]:
    """The linear Gaussian summands of a cost; the others are left to the weights."""
    return [c for c in cost.parts() if hasattr(c, "matrix")]


def require_linear(cost: Any, proposal: Any) -> None:
    """Raise InvalidInput unless a cost has a linear Gaussian part of a size that can be decomposed."""
    parts = linear_parts(cost)
    if not parts:
        raise InvalidInput(
            f"{proposal!r} needs a linear measurement with Gaussian noise (LinearGaussian), got "
            f"{cost!r}. For other costs use proposals.CleanGradient() or proposals.Gradient()."
        )
    m = sum(len(c.std) for c in parts)
    if m > _LARGEST_DENSE and not (len(parts) == 1 and parts[0].selected is not None):
        raise InvalidInput(
            f"{proposal!r}: {m} measurements need a dense decomposition, the limit is "
            f"{_LARGEST_DENSE}. Use proposals.CleanGradient()."
        )


class Spectrum:
    """The decomposition of the linear part of a cost.

    Attributes:
        S: (r,) singular values of A / s, float64 (of either sign where `index` is known).
        index: (r,) the measured coordinates of the flattened event where A is diagonal, else None.
    """

    def __init__(self, cost: Any, event_shape: tuple[int, ...]) -> None:
        self.parts, self.event_shape = linear_parts(cost), tuple(event_shape)
        std = torch.cat([c.std for c in self.parts])
        self.index: Tensor | None = None
        if len(self.parts) == 1 and self.parts[0].selected is not None:
            self.index, self.S = self.parts[0].selected, 1 / std
            return
        A = torch.cat([c.matrix(self.event_shape) for c in self.parts]) / std[:, None]
        used = A != 0
        if bool((used.sum(1) == 1).all()) and bool((used.sum(0) <= 1).all()):
            self.index, self.S = used.long().argmax(1), A.sum(1)
            return
        U, S, Vt = torch.linalg.svd(A, full_matrices=False)
        kept = (S / S[0]) > _CUTOFF
        self._U, self.S, self._V = U[:, kept], S[kept], Vt[kept].T

    def residual(self, x0: Tensor) -> Tensor:
        """U^T r(x0), (S, N, r) float64."""
        r = torch.cat([c.residual(x0) for c in self.parts], -1)
        return r if self.index is not None else r @ self._U

    def rows(self, x: Tensor) -> Tensor:
        """V^T x, (S, N, r) float64 for x (S, N, *E)."""
        x = x.flatten(2).double()
        return x[..., self.index] if self.index is not None else x @ self._V

    def variance(self, std: float | Tensor, like: Tensor) -> Tensor:
        """Variances of V^T x for independent x of these standard deviations, broadcasting to rows."""
        v = torch.as_tensor(std, dtype=torch.float64, device=like.device).square()
        if v.ndim == 0:
            return v
        v = v.expand(torch.broadcast_shapes(v.shape, like[:1, :1].shape)).flatten(2)
        return v[..., self.index] if self.index is not None else v @ self._V.square()

    def back(self, rows: Tensor, like: Tensor) -> Tensor:
        """V rows, (S, N, *E) in the dtype of `like`."""
        if self.index is None:
            return (rows @ self._V.T).reshape(like.shape).to(like.dtype)
        x = rows.new_zeros(like.flatten(2).shape)
        x[..., self.index] = rows
        return x.reshape(like.shape).to(like.dtype)

    def pull(self, look: Look, precision: float | Tensor) -> Tensor:
        """argmin_u |r(D + u)|^2 / 2 + precision |u|^2 / 2, (S, N, *E); the smallest solution of least
        squares for precision 0."""
        gain = self.S / (precision + self.S**2)
        return self.back(gain * self.residual(look.x0_hat), look.x0_hat)

    def with_std(self, q: Gaussian, rows: Tensor) -> Gaussian:
        """The Gaussian q with standard deviations `rows` (r,) in the measured directions; as it is where
        these are no coordinates and q has not one std for all of them."""
        like = q.mean
        if self.index is not None:
            std = torch.as_tensor(q.std, dtype=like.dtype, device=like.device)
            shape = torch.broadcast_shapes(std.shape, like[:1, :1].shape)
            full = std.expand(shape).flatten(2).clone()
            full[..., self.index] = rows.to(like.dtype)
            return replace(q, std=full.reshape(shape))
        if isinstance(q.std, Tensor):
            return q
        return replace(q, basis=self._V.to(like.dtype), along=rows.to(like.dtype))


@dataclass(frozen=True)
class LinearProposal(Proposal):
    """Base class of proposals for linear measurements: refuses other costs, holds the decomposition."""

    _spectrum: Any = field(default=None, init=False, repr=False)
    needs_cost_gradient = False

    def check(self, cost: Any, potential: Any) -> None:
        require_linear(cost, self)

    def bind(self, problem: Problem) -> Self:
        bound = replace(self)
        object.__setattr__(bound, "_spectrum", Spectrum(problem.cost, problem.event_shape))
        return bound
