"""The step problem of the released NDTM sampler, for `DTM(objective="ndtm")`.

Reference: Pandey et al., "Variational control for guidance in diffusion models" (arXiv 2502.03686).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.proposals.base import Step
from smcguide.records import Look
from smcguide.schedules import DDPMTable

StepProblem = tuple[float | Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Published:
    r"""The step problem of the released NDTM code, on the network's own scale.

        w_T C(clamp(D~)) + w_control gamma^2 |gamma u|^2 + w_score |e~ - e|^2

    with e the noise prediction. weights="ddim": w_score = kappa^2, w_control = alpha_t^2 / alpha_s^2;
    "ddpm": beta^2 / ((1 - beta) sigma_t^2) and 1 / (1 - beta), beta the schedule's unit step at t;
    "zero": neither. (The derivation has the reciprocal alpha_s^2 / alpha_t^2 and gamma^2 once; these
    are the numbers as released.)
    """

    gamma: float = 2.0
    terminal_weight: float = 50.0
    weights: Literal["ddim", "ddpm", "zero"] = "ddim"
    clamp: tuple[float, float] | None = (-1.0, 1.0)
    needs_jacobian: ClassVar[bool] = False
    uses_cost: ClassVar[int] = 0  # counted by the step

    def __post_init__(self) -> None:
        if self.weights not in ("ddim", "ddpm", "zero"):
            raise InvalidInput(f"{self!r}: weights must be 'ddim', 'ddpm' or 'zero'.")

    def penalties(self, step: Step) -> tuple[float, float]:
        """(w_score, w_control) of this step."""
        t, s = step.t, step.s
        if self.weights == "zero":
            return 0.0, 0.0
        if self.weights == "ddpm":
            if not isinstance(step.schedule, DDPMTable):
                raise InvalidInput(
                    "Published(weights='ddpm') needs a prior with a DDPMTable schedule."
                )
            beta = 1 - (t.alpha / step.schedule.level(t.time - 1).alpha) ** 2
            return beta**2 / ((1 - beta) * t.sigma**2), 1 / (1 - beta)
        zero = torch.zeros(1, 1, 1, dtype=torch.float64)
        std = step.base_of(zero, zero).std
        kappa = torch.sqrt(s.sigma**2 - torch.as_tensor(std) ** 2) - s.alpha * t.sigma / t.alpha
        return float(kappa**2), (t.alpha / s.alpha) ** 2

    def evaluate(self, look: Look) -> tuple[Tensor, None]:
        """-w_T C(clamp(D)), all that is not flat at u = 0, as a value for the look-ahead."""
        return -self.terminal_weight * look.step.cost(self._clean(look.x0_hat)), None

    def _clean(self, D: Tensor) -> Tensor:
        return D if self.clamp is None else D.clamp(*self.clamp)

    def problem(self, look: Look, step: Step) -> StepProblem:
        """gamma, and u (S, N, *E) -> the objective (S, N) and the denoised estimate there."""
        w_score, w_control = self.penalties(step)
        t, gamma = step.t, self.gamma
        noise = (look.x - t.alpha * look.x0_hat) / t.sigma

        def objective(u: Tensor) -> tuple[Tensor, Tensor]:
            x = look.x + gamma * u
            D = step.denoise(x)
            moved = (x - t.alpha * D) / t.sigma - noise
            value = (
                self.terminal_weight * step.cost(self._clean(D))
                + w_control * gamma**2 * (gamma * u).flatten(2).square().sum(-1)
                + w_score * moved.flatten(2).square().sum(-1)
            )
            return value, D

        return gamma, objective
