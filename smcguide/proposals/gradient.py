r"""A shift along the gradient of a value, g = grad_x log psi_t(x_t), with the variance kept.

One rule for the unit of the step and one scale for its length give the published gradient guidance:

    rule     shift of the mean                              methods
    mean     c^2 g, the first-order tilt of the base        TDS (arXiv 2306.17775)
    x0_hat   the base map at D + (sigma_t^2 / alpha_t) g    PiGDM (ICLR 2023), TMPD (2310.06721), MMPS
                                                            (2405.13712), LGD-MC (ICML 2023), forward
                                                            Universal Guidance (2302.07121), and the
                                                            image code of TDS
    state    g                                              DPS (2209.14687), FreeDoM (2303.09833)

Every choice is weighted exactly; a bad one costs variance. The gradient, the model's own or a guide's,
comes from the look-ahead's network call: one forward and one backward pass in all. On coarse grids the
x0_hat rule is many standard deviations off: give it a trust radius.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.scales import Scale, as_scale
from smcguide.proposals.shift import shift_of
from smcguide.records import Look


@dataclass(frozen=True)
class Gradient(Proposal):
    """Shift along the gradient of a potential.

    Arguments:
        rule: unit of the step, "mean", "x0_hat" or "state" (the table above).
        trust: largest shift in units of the step's standard deviation; inf for none.
        guide: a potential to follow in place of the model's own, e.g. Tweedie(1.0).
        scale: length of the step, a number or a `Scale`.

    Raises:
        InvalidInput: for an unknown rule, trust not positive, a negative scale.
    """

    rule: Literal["mean", "x0_hat", "state"] = "mean"
    trust: float = math.inf
    guide: Any = None
    scale: float | Scale = 1.0

    def __post_init__(self) -> None:
        if self.rule not in ("mean", "x0_hat", "state") or self.trust <= 0:
            raise InvalidInput(
                f"{self!r}: rule must be 'mean', 'x0_hat' or 'state', trust positive."
            )
        as_scale(self.scale)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return self.guide is None

    @property
    def shared_guide(self) -> Any:
        return self.guide

    @property
    def needs_rehearsal(self) -> bool:  # type: ignore[override]
        return self.guide is not None and bool(self.guide.needs_rehearsal)

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return 0 if self.guide is None else int(self.guide.num_draws)

    def check(self, cost: Any, potential: Any) -> None:
        as_scale(self.scale).check(cost)
        if self.guide is not None:
            self.guide.check(cost)
            if not self.guide.has_gradient:
                raise InvalidInput(
                    f"{self!r}: the guide {self.guide!r} has no gradient. Use another guide, or leave "
                    "it out."
                )

    def bind(self, problem: Problem) -> Self:
        bound = replace(self, scale=as_scale(self.scale).bind(problem.cost))
        if self.guide is None:
            return bound
        return replace(bound, guide=self.guide.bind(problem))

    def propose(self, base: Gaussian, look: Look, step: Step) -> Gaussian:
        def slope_at(x: Tensor) -> Tensor:
            return step.gradient(lambda x: step.look_at(x, self.guide).value, x)

        slope = look.slope if self.guide is None else look.guide_grad
        slope = slope_at(look.x) if slope is None else slope
        move = as_scale(self.scale).step(look, step, slope, lambda u: slope_at(look.x + u))
        if self.rule == "state":
            return base.moved(move, self.trust)
        if self.rule == "mean" or step.t.alpha == 0:
            return base.moved(move, self.trust, times=base.std**2)
        u = step.t.sigma**2 / step.t.alpha * move
        return base.moved(shift_of(u, look, step, "recomputed"), self.trust)
