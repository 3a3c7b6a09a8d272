"""The eyes of a guided diffusion: network calls, values and gradients, counted. All of the package's
differentiation happens here."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smcguide.chain import BaseChain
from smcguide.costs.base import TerminalCost
from smcguide.moves.base import Move
from smcguide.potentials.base import Potential
from smcguide.proposals.base import Proposal
from smcguide.records import Level, Look
from smcguide.starts.base import Start
from smcguide.steps import ChunkStep

Carry = Mapping[str, Tensor]


class LookAhead(BaseChain):
    """What `GuidedDiffusion` knows of prior, cost and potential, one chunk of particles at a time."""

    cost: TerminalCost
    potential: Potential
    proposal: Proposal
    move: Move | None
    start: Start | None
    evaluations: Counter[str]

    def denoise(self, x: Tensor, t: Level) -> Tensor:
        """The prior's denoiser on (S, n, *E), counted."""
        self.evaluations["network_forward"] += x.shape[0] * x.shape[1]
        x0_hat = self.prior.denoise(x.flatten(0, 1), t.time)
        # the answer's own shape, not that of x: a transposed one would pass
        return x0_hat.reshape(*x.shape[:2], *x0_hat.shape[1:])

    def look_at(
        self, k: int, x: Tensor, carry: Carry | None = None, guide: Potential | None = None
    ) -> Look:
        """Denoise states x (S, n, *E) after k transitions and value them; differentiable where
        gradients are on. `carry` tells of their past."""
        look, log_psi, _ = self._evaluate(x, self._step(k, carry or {}), guide or self.potential)
        return replace(look, log_psi=_nonzero(log_psi))

    def look_ahead(self, k: int, x: Tensor, carry: Carry) -> dict[str, Tensor]:
        """One network evaluation of states x after k transitions, for the weight of the step that led
        there and the proposal of the next: x0_hat, log_psi, and as asked grad or guide_grad, and
        psi_memory."""
        if self.levels[k].sigma == 0:
            self.evaluations["cost"] += x.shape[0] * x.shape[1]
            return {"x0_hat": x, "log_psi": -self.cost.at(carry.get("theta"))(x).double()}
        step = self._step(k, carry)
        own = self.proposal.needs_gradient or self.wants_gradient(k)
        guide = None if own else self._shared_guide(k)
        if own or guide is not None:

            def value(x: Tensor) -> tuple[Tensor, Any]:
                look, log_psi, memory = self._evaluate(x, step, guide or self.potential)
                return log_psi, (look, memory)

            log_psi, (look, memory), vjp = self.pullback(value, x, once=True)
            seed = torch.ones_like(log_psi)
            if guide is not None:
                look, log_psi, memory = self._evaluate(look.x, step, self.potential, look.x0_hat)
                log_psi = log_psi.detach()
            out = {"x0_hat": look.x0_hat.detach()}
            out["grad" if guide is None else "guide_grad"] = vjp(seed)
        else:
            look, log_psi, memory = self._evaluate(x, step, self.potential)
            out = {"x0_hat": look.x0_hat}
        out["log_psi"] = _nonzero(log_psi)
        return out if memory is None else out | {"psi_memory": memory.detach()}

    def value_of(self, k: int, x: Tensor, carry: Carry) -> Tensor:
        """log psi of states x that have been looked at, under the parameters in `carry`; without the
        network where a value can do without its Jacobian."""
        step = self._step(k, carry)
        return _nonzero(self._evaluate(x, step, self.potential, carry["x0_hat"])[1])

    def wants_gradient(self, k: int) -> bool:
        """Whether somebody besides the proposal wants the gradient of the value after k transitions."""
        users = (self.move, self.start if k == 0 else None)
        return any(part is not None and part.needs_gradient for part in users)

    def _shared_guide(self, k: int) -> Any:
        """The guide of the proposal of transition k, whose gradient belongs to the same network call;
        None where nothing is guided."""
        guide = self.proposal.shared_guide
        idle = guide is None or self.is_noising(k) or self.is_noiseless(k)
        return None if idle else guide

    @property
    def extras(self) -> list[str]:
        parts = {"move": self.move, "start": self.start}
        found = [f"{name}={part!r}" for name, part in parts.items() if part is not None]
        adaptive = self.potential.adaptive_cess is not None
        found += [f"strengths chosen by the population ({self.potential!r})"] * adaptive
        return found + ["unknown parameters of the cost"] * (self.cost.parameters is not None)

    def outputs(self, carry: Carry) -> dict[str, Tensor]:
        if self.cost.parameters is None:
            return {}
        named = self.cost.parameters.constrain(carry["theta"].flatten(0, 1))
        return {name: a.unflatten(0, carry["theta"].shape[:2]) for name, a in named.items()}

    def _step(self, k: int, carry: Carry) -> ChunkStep:
        return ChunkStep(self, k, self.levels[k], self.levels[k + 1], carry)

    def _evaluate(
        self, x: Tensor, step: ChunkStep, value: Potential, x0_hat: Tensor | None = None
    ) -> tuple[Look, Tensor, Tensor | None]:
        """The look at x, its value as the potential says it (S, n), and the potential's memory of it;
        `x0_hat` where it is known."""
        here, vjp = x, None
        if value.needs_jacobian:
            if x0_hat is None or not x0_hat.requires_grad:
                with torch.enable_grad():
                    here = x if x.requires_grad else x.detach().requires_grad_()
                    x0_hat = self.denoise(here, step.t)
            vjp = self._counted(self._vjp(x0_hat, here), x.shape[0] * x.shape[1])
        elif x0_hat is None:
            x0_hat = self.denoise(x, step.t)
        look = Look(here, x0_hat, step.t, vjp=vjp, **step.past())
        self.evaluations["cost"] += x.shape[0] * x.shape[1] * int(value.uses_cost)
        log_psi, memory = value.evaluate(look)
        log_psi = log_psi.double()
        if here is not x:
            follows = look.theta is not None and look.theta.requires_grad
            log_psi = log_psi if follows else log_psi.detach()
            look = replace(look, x=x, x0_hat=x0_hat.detach())
        return look, log_psi, memory

    def pullback(
        self, f: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor, once: bool = False
    ) -> tuple[Tensor, Any, Callable[[Tensor], Tensor]]:
        """value, extra = f(x), and v -> (d value / d x)^T v; to be asked `once`, it frees what it holds
        on its way, as networks compiled by torch insist."""
        before = self.evaluations["network_forward"]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, extra = f(x)
        through = self.evaluations["network_forward"] - before
        if not value.requires_grad:  # a value that does not look at x
            return value, extra, lambda v: torch.zeros_like(x)
        return value.detach(), extra, self._counted(self._vjp(value, x, once), through)

    def _vjp(self, value: Tensor, x: Tensor, once: bool = False) -> Callable[[Tensor], Tensor]:
        keep = not once
        return lambda v: torch.autograd.grad(value, x, v.to(value.dtype), retain_graph=keep)[0]

    def _counted(self, vjp: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
        """The same map, counted as a pass back through the network for `rows` particles."""

        def count(v: Tensor) -> Tensor:
            self.evaluations["network_backward"] += rows
            return vjp(v)

        return count


def _nonzero(log_psi: Tensor) -> Tensor:
    """Values of 0, -inf, as NaN: before the end they would lose mass for good, and the engine says so."""
    if log_psi.requires_grad:
        return log_psi.masked_fill(torch.isneginf(log_psi), torch.nan)
    # the same in one pass, without a gradient
    return log_psi.nan_to_num(torch.nan, torch.inf, torch.nan)
