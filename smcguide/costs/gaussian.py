r"""Gaussian likelihoods as terminal costs, normalised so that Z is the evidence p(y).

C(x_0) = |(y - F(x_0)) / s|^2 / 2 + sum log s + (m / 2) log 2 pi,     y = F(x_0) + s n
"""

import copy
import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.costs.operators import (
    LinearOperator,
    MaskOperator,
    MatrixOperator,
    as_operator,
    check_adjoint,
    dense,
)
from smcguide.errors import InvalidInput


class GaussianLikelihood(TerminalCost):
    """y = forward(x_0) + noise_std n with a forward model of any kind.

    Arguments:
        forward: (M, *E) -> (M, *obs), acting on flat batches.
        y: (*obs), or (S, *obs) with batched=True: one observation per system.
        noise_std: standard deviation, a float or (*obs); finite and positive.
        batched: whether the first axis of y counts systems.

    Raises:
        InvalidInput: NaN or infinite y, noise_std not positive, shapes that do not fit.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        y: Tensor,
        noise_std: float | Tensor,
        *,
        batched: bool = False,
    ) -> None:
        self.forward, y = forward, torch.as_tensor(y)
        if batched and y.ndim < 1:
            raise InvalidInput("batched=True: y must have a leading axis of systems, got a scalar.")
        if y.numel() == 0:
            raise InvalidInput(
                f"y of shape {tuple(y.shape)} holds no measurement (an empty mask?)."
            )
        self.num_systems = len(y) if batched else None
        self.obs_shape = tuple(y.shape[1:] if batched else y.shape)
        if not bool(torch.isfinite(y).all()):
            raise InvalidInput(
                f"y holds {int((~torch.isfinite(y)).sum())} NaN or infinite numbers of {y.numel()}. "
                "For missing entries use LinearGaussian with a boolean mask."
            )
        std = torch.as_tensor(noise_std, dtype=torch.float64, device=y.device)
        if std.shape not in [(), self.obs_shape]:
            raise InvalidInput(
                f"noise_std has shape {tuple(std.shape)}; expected a number or {self.obs_shape}, "
                "the shape of one observation."
            )
        if not bool((torch.isfinite(std) & (std > 0)).all()):
            raise InvalidInput(
                f"noise_std must be positive and finite, got a smallest value of {float(std.min())}. "
                "A noiseless measurement has no density: use a small positive noise_std."
            )
        self.y = y.double().reshape(self.num_systems or 1, 1, -1)
        self.std = std.expand(self.obs_shape).flatten()

    @property
    def selected(self) -> Tensor | None:
        """Indices (m,) of the observed entries where the measurement is a mask, else None."""
        return None

    def predict(self, x0: Tensor) -> Tensor:
        """F(x_0) (S, N, m) float64 for x0 (S, N, *E)."""
        out = self.forward(x0.flatten(0, 1)).double()
        return out.reshape(*x0.shape[:2], -1)

    def residual(self, x0: Tensor) -> Tensor:
        """(y - F(x_0)) / s, (S, N, m)."""
        return (self.y - self.predict(x0)) / self.std

    def pointwise(self, x0: Tensor) -> Tensor:
        """Log-likelihood of each entry of y, (S, N, m)."""
        return -0.5 * self.residual(x0) ** 2 - self.std.log() - 0.5 * math.log(2 * math.pi)

    def __call__(self, x0: Tensor) -> Tensor:
        # not kept: gradients may follow std
        constant = self.std.log().sum() + 0.5 * len(self.std) * math.log(2 * math.pi)
        return 0.5 * self.residual(x0).square().sum(-1) + constant

    def simulate(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """A measurement (S, N, m) of each x0 (S, N, *E)."""
        clean = self.predict(x0)
        z = torch.randn(
            clean.shape, generator=generator, dtype=clean.dtype, device=generator.device
        )
        return clean + self.std * z.to(clean.device)

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        x = like.new_zeros(2, *event_shape)
        try:
            out = self.forward(x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InvalidInput(
                f"The forward model fails on a batch of events of shape {tuple(x.shape)}: {error}"
            ) from error
        if tuple(out.shape) != (2, *self.obs_shape):
            raise InvalidInput(
                f"The forward model maps events {event_shape} to {tuple(out.shape[1:])}, but y is "
                f"{self.obs_shape} per system. If y holds one observation per system, "
                "say batched=True; otherwise make the shapes agree."
            )

    def to(self, device: torch.device) -> Self:
        moved = copy.copy(self)
        moved.y, moved.std = self.y.to(device), self.std.to(device)
        return moved

    def __repr__(self) -> str:
        many = f", {self.num_systems} systems" if self.num_systems else ""
        return f"{type(self).__name__}(y {self.obs_shape}{many})"


class LinearGaussian(GaussianLikelihood):
    """y = A x_0 + noise_std n.

    Arguments:
        operator: a floating matrix (m, d) on flattened events; a boolean mask of the event's shape
            (True = observed); or an object with forward and adjoint on batches.
        y: (*obs), or (S, *obs) with batched=True. For a mask, y has the mask's shape and its
            unobserved entries are ignored, whatever they hold.
        noise_std: a float or (*obs).
        batched: whether the first axis of y counts systems.

    Raises:
        InvalidInput: as `GaussianLikelihood`, and for an operator whose adjoint does not match.
    """

    def __init__(
        self,
        operator: Tensor | LinearOperator,
        y: Tensor,
        noise_std: float | Tensor,
        *,
        batched: bool = False,
    ) -> None:
        self.dtype = torch.float32  # of the particles, told by `check`
        self.operator, y = as_operator(operator), torch.as_tensor(y)
        if isinstance(self.operator, MaskOperator):
            mask = self.operator.mask
            if y.shape[1:] != mask.shape if batched else y.shape != mask.shape:
                raise InvalidInput(
                    f"y of shape {tuple(y.shape)} (batched={batched}) does not fit the mask's "
                    f"{tuple(mask.shape)}: give y the mask's shape, its unobserved entries are ignored."
                )
            y = y[..., mask] if not batched else y[:, mask]
            if isinstance(noise_std, Tensor) and noise_std.shape == mask.shape:
                noise_std = noise_std[mask]
        elif isinstance(self.operator, MatrixOperator) and y.shape[-1:] != (
            len(self.operator.matrix),
        ):
            raise InvalidInput(
                f"y of shape {tuple(y.shape)} does not fit a matrix of shape "
                f"{tuple(self.operator.matrix.shape)}: expected {len(self.operator.matrix)} entries."
            )
        super().__init__(self.operator.forward, y, noise_std, batched=batched)

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        if isinstance(self.operator, MaskOperator) and self.operator.mask.shape != event_shape:
            raise InvalidInput(
                f"The mask has shape {tuple(self.operator.mask.shape)}, events have {event_shape}."
            )
        super().check(event_shape, like)
        self.dtype = like.dtype
        if not isinstance(self.operator, MaskOperator | MatrixOperator):
            check_adjoint(self.operator, event_shape, self.obs_shape, like)

    @property
    def selected(self) -> Tensor | None:
        return self.operator.index if isinstance(self.operator, MaskOperator) else None

    def matrix(self, event_shape: tuple[int, ...]) -> Tensor:
        """A as a dense (m, d) float64 matrix over flattened events."""
        like = torch.zeros((), dtype=self.dtype, device=self.y.device)
        return dense(self.operator, event_shape, self.obs_shape, like)

    def to(self, device: torch.device) -> Self:
        moved = super().to(device)
        if isinstance(self.operator, MaskOperator | MatrixOperator):
            moved.operator = self.operator.to(device)
            moved.forward = moved.operator.forward
        return moved
