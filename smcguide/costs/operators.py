"""Linear operators A of a measurement y = A x_0 + noise: a matrix, a mask, or any object with
`forward` (M, *E) -> (M, *obs) and `adjoint` (M, *obs) -> (M, *E)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import linear

from smcguide.errors import InvalidInput


@runtime_checkable
class LinearOperator(Protocol):
    """What an operator object offers; both functions act on batches."""

    def forward(self, x: Tensor) -> Tensor:
        """A x, (M, *E) -> (M, *obs)."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, (M, *obs) -> (M, *E)."""


class MatrixOperator:
    """A dense matrix (m, d) acting on flattened events."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.double()

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.flatten(1).double(), self.matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix

    def to(self, device: torch.device) -> "MatrixOperator":
        return MatrixOperator(self.matrix.to(device))


class MaskOperator:
    """Selection of the observed entries: (M, *E) -> (M, m), m the number of True in the mask."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.index = mask.flatten().nonzero()[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.index).double()

    def adjoint(self, y: Tensor) -> Tensor:
        out = y.new_zeros(len(y), self.mask.numel())
        return out.index_copy(1, self.index, y).reshape(-1, *self.mask.shape)

    def to(self, device: torch.device) -> "MaskOperator":
        return MaskOperator(self.mask.to(device))


def as_operator(operator: Tensor | LinearOperator) -> LinearOperator:
    """A boolean tensor is a mask of the event's shape, a floating (m, d) tensor a matrix.

    Raises:
        InvalidInput: for anything else without forward and adjoint.
    """
    if isinstance(operator, Tensor):
        if operator.dtype == torch.bool:
            return MaskOperator(operator)
        if operator.ndim == 2 and operator.is_floating_point():
            return MatrixOperator(operator)
        raise InvalidInput(
            f"LinearGaussian: an operator tensor of shape {tuple(operator.shape)} and dtype "
            f"{operator.dtype}; expected a boolean mask of the event's shape or a floating matrix "
            "(m, d) that acts on flattened events."
        )
    if isinstance(operator, LinearOperator):
        return operator
    raise InvalidInput(
        f"LinearGaussian: operator is a {type(operator).__name__}; expected a matrix, a boolean mask, "
        "or an object with forward(x) and adjoint(y). For a non-linear forward model use "
        "GaussianLikelihood."
    )


def check_adjoint(
    operator: LinearOperator, event_shape: Sequence[int], obs_shape: Sequence[int], like: Tensor
) -> None:
    """<A x, y> = <x, A^T y> and linearity on random vectors.

    Raises:
        InvalidInput: when either fails.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *event_shape, generator=generator, dtype=like.dtype).to(like.device)
    y = torch.randn(2, *obs_shape, generator=generator, dtype=like.dtype).to(like.device)
    Ax, Aty = operator.forward(x).double(), operator.adjoint(y).double()
    if Aty.shape != x.shape:
        raise InvalidInput(
            f"The operator's adjoint maps {tuple(y.shape)} to {tuple(Aty.shape)}; expected the shape of "
            f"its input, {tuple(x.shape)}."
        )
    left, right = (Ax * y).sum(), (x * Aty).sum()
    scale = Ax.norm() * y.norm() + x.norm() * Aty.norm()
    tolerance = 1e-3 if like.dtype == torch.float32 else 1e-8
    if float((left - right).abs()) > tolerance * float(scale):
        raise InvalidInput(
            "The operator's adjoint does not match its forward map: <A x, y> = "
            f"{float(left):.6g} but <x, A^T y> = {float(right):.6g} for random x, y."
        )
    twice = operator.forward(2 * x).double()
    if float((twice - 2 * Ax).norm()) > tolerance * float(Ax.norm()):
        raise InvalidInput("The operator is not linear: A(2x) != 2 A(x). Use GaussianLikelihood.")


def dense(
    operator: LinearOperator, event_shape: Sequence[int], obs_shape: Sequence[int], like: Tensor
) -> Tensor:
    """The operator as a matrix (m, d), float64, by its adjoint on unit vectors."""
    if isinstance(operator, MatrixOperator):
        return operator.matrix
    if isinstance(operator, MaskOperator):
        obs_shape = (len(operator.index),)
    m = int(torch.tensor(obs_shape).prod()) if obs_shape else 1
    eye = torch.eye(m, dtype=like.dtype, device=like.device).reshape(m, *obs_shape)
    return operator.adjoint(eye).reshape(m, -1).double()
