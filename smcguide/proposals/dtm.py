r"""DTM, diffusion trajectory matching, as a proposal: a control found by optimisation at each step.

The control u shifts the state that the network sees, x~ = x_t + gamma u; the guided mean is the base
map there, m~ = m(x~), and delta = m~ - m(x_t). The step problem, particle by particle,

    min_u  -log psi_t(x~) + KL,     KL = |delta|^2 / (2 c^2)

trades the value reached against the cost of leaving the base kernel N(m(x_t), c^2). After `num_iters`
iterations and a trust region, |delta| <= trust c, the proposal is N(m(x_t) + delta, c^2). Any u gives
an exact method; a good one gives a small variance. With gamma = c alpha_t / alpha_s the KL is about
|u|^2 / 2, so that one gradient step of length 1 from u = 0 is already sensible; its gradient, at x_t
itself, is shared with the look-ahead. `Published` is the objective of the released NDTM sampler. A step
with M iterations takes, the look-ahead's network call included,

    passes                                           forward    backward
    descent from u = 0                               M + 1      M
    with a warm start, or a guide unshared           M + 2      M
    Gauss-Newton                                     3          2 M + 1
    any of them with reuse                           1 less     the same

Reference: Pandey et al., "Variational control for guidance in diffusion models" (arXiv 2502.03686).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.descent import adam, sgd
from smcguide.proposals.gauss_newton import gauss_newton, require_least_squares
from smcguide.proposals.published import Published, StepProblem
from smcguide.records import Look

_RELEASED = Published()  # one object: `Combined` tells guides apart by identity


@dataclass(frozen=True)
class DTM(Proposal):
    """Control by optimisation.

    Arguments:
        objective: "kl" (the step problem above), "ndtm" for `Published()`, or a `Published`.
        num_iters: iterations of the solver; CG iterations for Gauss-Newton.
        solver: "sgd", "adam", or "gauss_newton" (for values that are least squares: one linear solve
            with products by the network's Jacobian, taken to be symmetric).
        learning_rate: of "sgd" and "adam"; default 1 for "kl", 0.01 for the published objective.
        decay: let the learning rate fall linearly to 0 over the run, as released.
        trust: largest |delta| in units of c; inf for none.
        warm_start: start from the particle's previous control instead of 0 ("causal").
        guide: a potential to follow in place of the model's own, e.g. Tweedie(1.0).
        reuse: no network call at the last control u. The mean is the base map at x_t + gamma u with the
            denoised estimate of the last iteration's call, moved from there to u as for a standard
            normal prior, by alpha_t / (alpha_t^2 + sigma_t^2); with Gauss-Newton as linearised. One
            forward pass less, and at equal evaluations a smaller error of log Z on the 25-Gaussian
            mixture.

    Raises:
        InvalidInput: for unknown names, num_iters below 1.
    """

    objective: Literal["kl", "ndtm"] | Published = "kl"
    num_iters: int = 1
    solver: Literal["sgd", "adam", "gauss_newton"] = "sgd"
    learning_rate: float | None = None
    decay: bool = False
    trust: float = 2.0
    warm_start: bool = False
    guide: Any = None
    reuse: bool = False

    def __post_init__(self) -> None:
        named = self.objective in ("kl", "ndtm") or isinstance(self.objective, Published)
        if not named or self.solver not in ("sgd", "adam", "gauss_newton") or self.num_iters < 1:
            raise InvalidInput(
                f"{self!r}: objective must be 'kl', 'ndtm' or a Published, solver 'sgd', 'adam' or "
                "'gauss_newton', num_iters at least 1."
            )
        if self.trust <= 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise InvalidInput(f"{self!r}: trust and learning_rate must be positive.")

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """The first gradient step from u = 0 needs just the gradient of the potential."""
        first = self.objective == "kl" and self.solver != "gauss_newton"
        return first and self.guide is None and not self.warm_start

    @property
    def shared_guide(self) -> Any:
        """What a descent from u = 0 follows at first, where that is not the model's own potential."""
        if self.warm_start or self.solver == "gauss_newton":
            return None
        return self._published or self.guide

    @property
    def _published(self) -> Published | None:
        if isinstance(self.objective, Published):
            return self.objective
        return _RELEASED if self.objective == "ndtm" else None

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.guide is not None and bool(self.guide.needs_rehearsal)

    def check(self, cost: Any, potential: Any) -> None:
        if self.guide is not None:
            self.guide.check(cost)
        if self.solver == "gauss_newton":
            require_least_squares(self.guide or potential)

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.warm_start

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return 0 if self.guide is None else int(self.guide.num_draws)

    def bind(self, problem: Problem) -> Self:
        return self if self.guide is None else replace(self, guide=self.guide.bind(problem))

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        if step.t.alpha == 0:  # pure noise says nothing about x_0, whatever the control
            return Gaussian(base.mean, base.std)
        published = self._published
        if published is None:
            gamma, objective = self._problem(base, look, step)
        else:
            gamma, objective = published.problem(look, step)
        if self.solver == "gauss_newton":
            u, x0_hat = gauss_newton(base, look, step, gamma, self.guide, self.num_iters)
        else:
            u, size, x0_hat = self._descend(objective, gamma, look, step)
            gamma = size * gamma
        x = look.x + gamma * u if isinstance(gamma, Tensor) else torch.add(look.x, u, alpha=gamma)
        delta = (step.base_of(x, x0_hat) if self.reuse else step.base_at(x)).mean - base.mean
        return base.moved(delta, self.trust, memory=u if self.warm_start else None)

    def _problem(self, base: Gaussian, look: Look, step: Step) -> StepProblem:
        """gamma, and u -> the objective -log psi + KL and the denoised estimate there."""
        gamma = base.std * (step.t.alpha / step.s.alpha)

        def objective(u: Tensor) -> tuple[Tensor, Tensor]:
            there = step.look_at(look.x + gamma * u, self.guide)
            return step.base_of(there.x, there.x0_hat).kl(base) - there.value, there.x0_hat

        return gamma, objective

    def _descend(
        self,
        objective: Callable[[Tensor], tuple[Tensor, Tensor]],
        gamma: float | Tensor,
        look: Look,
        step: Step,
    ) -> tuple[Tensor, float | Tensor, Tensor]:
        """(u, size, x0_hat): the control after `num_iters` gradient steps is size * u, where size is 1
        but after a single step from 0; x0_hat is, for re-use, the denoised estimate there to first order
        from that of the last step. The loss is a sum over particles."""
        default = 1.0 if self.objective == "kl" else 0.01
        rate = default if self.learning_rate is None else self.learning_rate
        rate = rate * (1 - step.progress) if self.decay else rate
        slope = look.grad if self.needs_gradient else look.guide_grad
        last: Tensor | float = 0.0
        x0_hat = look.x0_hat
        # the slope is that at u = 0, where the penalties are flat: it makes the first step
        if slope is not None and self.solver == "sgd":
            if self.num_iters == 1 and not self.reuse:
                return slope, rate * gamma, x0_hat
            u, done = (rate * gamma) * slope, 1
        elif self.warm_start and step.memory is not None:
            u, done = step.memory, 0
        else:
            u, done = torch.zeros_like(look.x), 0

        def loss(u: Tensor) -> Tensor:
            nonlocal last, x0_hat
            value, there = objective(u)
            last, x0_hat = u.detach(), there.detach()
            return value

        def gradient(i: int, u: Tensor) -> Tensor:
            if i == 0 and slope is not None:
                return -gamma * slope
            return step.gradient(loss, u)

        descend = sgd if self.solver == "sgd" else adam
        u = descend(u, gradient, rate, range(done, self.num_iters))
        if self.reuse:
            gain = step.t.alpha / (step.t.alpha**2 + step.t.sigma**2)
            x0_hat = x0_hat + gain * gamma * (u - last)
        return u, 1.0, x0_hat
