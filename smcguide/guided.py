r"""Guided diffusion as a Feynman-Kac model: the only file that forms a weight.

Base chain p(x_s | x_t), proposal q(x_s | x_t), values psi_t with psi_0 = exp(-C):

    log w_T  = log psi_T(x_T)
    log w   += log p(x_s | x_t) - log q(x_s | x_t) + log psi_s(x_s) - log psi_t(x_t)

psi_t is the cached number that entered before: the product telescopes, Z is unbiased for any psi and q.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.boundary import as_prior, blame, dry_run, resolve_times
from smcguide.costs.base import TerminalCost, as_cost
from smcguide.draws import rehearse
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.grids import Grid
from smcguide.kernels.base import Kernel
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.proposals.base import Proposal
from smcguide.records import Gaussian, Level, Look
from smcguide.rehearsal import Rehearsal
from smcguide.steps import ChunkStep, chunks, join

Carry = Mapping[str, Tensor]


class GuidedDiffusion(FeynmanKac):
    """A prior guided towards a terminal cost.

    Arguments:
        prior: the denoiser and its schedule.
        cost: a `TerminalCost`, or a function (M, *E) -> (M,).
        kernel: base reverse kernel.
        times: a grid, or a tensor of K + 1 strictly decreasing times ending at 0.
        potential: values log psi_t before the last step.
        proposal: replaces the kernel.
        chunk_size: largest number of particles in the network at once (at least one per system),
            None for all. Results do not depend on it beyond the network's own rounding.
        rehearsal: what kernels and potentials may know of the prior; default: made when needed.

    Attributes:
        evaluations: network_forward, network_backward and cost evaluations so far, per particle.

    Raises:
        InvalidInput: before any network call, when the parts do not fit together.
    """

    def __init__(
        self,
        prior: Prior,
        cost: TerminalCost | Callable[[Tensor], Tensor],
        *,
        kernel: Kernel,
        times: Grid | Tensor,
        potential: Potential,
        proposal: Proposal,
        chunk_size: int | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self.prior, self.kernel, self.chunk_size = as_prior(prior), kernel, chunk_size
        self.cost = as_cost(cost).to(prior.device)
        self.event_shape, self.device = tuple(prior.event_shape), prior.device
        self.num_systems = self.cost.num_systems
        self.levels = [prior.schedule.level(t) for t in resolve_times(times, prior.schedule)]
        self.num_steps = len(self.levels) - 1
        self.evaluations: Counter[str] = Counter()
        self.parts: dict[str, Any] = {
            "prior": prior, "cost": self.cost, "times": times,
            "kernel": kernel, "potential": potential, "proposal": proposal,
        }  # fmt: skip
        dry_run(self, potential, proposal)
        needed = kernel.needs_rehearsal or potential.needs_rehearsal or proposal.needs_rehearsal
        if rehearsal is None and needed:
            kept = prior.rehearsal is not None
            rehearsal = rehearse(prior, chunk_size or 512)
            self.parts["rehearsal_forward"] = 0 if kept else rehearsal.evaluations
        self.kernel = kernel.bind(rehearsal)
        self.potential = potential.bind(self.cost, self.event_shape, rehearsal)
        self.proposal = proposal.bind(self.cost, self.event_shape, rehearsal)

    @torch.no_grad()
    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        x = self.prior.initial(shape[0] * shape[1], self.levels[0], generator).unflatten(0, shape)
        slices = chunks(shape, self.chunk_size)
        carry = join([self._look_ahead(x[:, i], self.levels[0]) for i in slices])
        carry["path_kl"] = torch.zeros_like(carry["log_psi"])
        return Propagated(x, carry["log_psi"], carry)

    @torch.no_grad()
    def step(self, k: int, x: Tensor, carry: Carry, generator: Generator) -> Propagated:
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.advance(k, x, carry, z)

    @torch.no_grad()
    def advance(self, k: int, x: Tensor, carry: Carry, z: Tensor) -> Propagated:
        """Transition k with given standard normal noise z (S, N, *E), chunk by chunk."""
        parts = []
        for i in chunks(x.shape[:2], self.chunk_size):
            here = {name: a[:, i] for name, a in carry.items()}
            base, q = self.kernels(k, x[:, i], here)
            x_s = q.sample(z[:, i])
            ahead = self._look_ahead(x_s, self.levels[k + 1])
            ahead["log_g"] = base.log_ratio(q, z[:, i]) + ahead["log_psi"] - here["log_psi"]
            ahead["path_kl"] = here["path_kl"] + q.kl(base)
            ahead |= {} if base.memory is None else {"kernel_memory": base.memory}
            ahead |= {} if q.memory is None or q is base else {"proposal_memory": q.memory}
            parts.append(ahead | {"x": x_s})
        out = join(parts)
        return Propagated(out.pop("x"), out.pop("log_g"), out)

    @torch.no_grad()
    def kernels(
        self, k: int, x: Tensor, carry: Carry, guide_last: bool = False
    ) -> tuple[Gaussian, Gaussian]:
        """Base kernel and proposal of transition k at states x (S, n, *E).

        A step without noise is guided only if `guide_last` asks for an unweighted sampler's choice.
        """
        t, s = self.levels[k], self.levels[k + 1]
        look = Look(x, carry["x0_hat"], t, carry["log_psi"], carry.get("grad"))
        base = self.kernel.step(x, look.x0_hat, t, s, carry.get("kernel_memory"))
        if base.is_dirac and not guide_last:
            return base, base
        return base, self.proposal.propose(base, look, ChunkStep(self, k, t, s, carry))

    def report(self, carry: Carry) -> dict[str, Tensor]:
        return {"path_kl": carry["path_kl"].mean(-1)}

    def is_noiseless(self, k: int) -> bool:
        dot = torch.zeros((1, 1, *self.event_shape), dtype=self.prior.dtype, device=self.device)
        return self.kernel.step(dot, dot, self.levels[k], self.levels[k + 1], None).is_dirac

    def time(self, k: int) -> float:
        return self.levels[k].time

    def log_transition(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        look = self.look_at(x, self.levels[k])
        base = self.kernel.step(x, look.x0_hat, self.levels[k], self.levels[k + 1], None)
        law = torch.distributions.Normal(base.mean.double(), torch.as_tensor(base.std).double())
        return law.log_prob(x_next.double()).flatten(2).sum(-1)

    def culprit(self, k: int) -> tuple[str, str]:
        return blame(self, k)

    def look_at(self, x: Tensor, t: Level, guide: Potential | None = None) -> Look:
        """Denoise x (S, n, *E) at level t and value it; differentiable where gradients are on."""
        look = Look(x, self.denoise(x, t), t)
        value = guide or self.potential
        self.evaluations["cost"] += x.shape[0] * x.shape[1] * value.uses_cost
        log_psi = value.log_value(look).double()
        # zero before the end would lose mass for good: illegal, and the engine says so
        return replace(look, log_psi=torch.where(torch.isneginf(log_psi), torch.nan, log_psi))

    def denoise(self, x: Tensor, t: Level) -> Tensor:
        """The prior's denoiser on (S, n, *E), counted."""
        self.evaluations["network_forward"] += x.shape[0] * x.shape[1]
        return self.prior.denoise(x.flatten(0, 1), t.time).unflatten(0, x.shape[:2])

    def pullback(
        self, f: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor
    ) -> tuple[Tensor, Any, Callable[[Tensor], Tensor]]:
        """value, extra = f(x), and v -> (d value / d x)^T v: all differentiation happens here."""
        before = self.evaluations["network_forward"]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, extra = f(x)
        through = self.evaluations["network_forward"] - before

        def vjp(v: Tensor) -> Tensor:
            if not value.requires_grad:  # a value that does not look at x
                return torch.zeros_like(x)
            self.evaluations["network_backward"] += through
            return torch.autograd.grad(value, x, v.to(value.dtype), retain_graph=True)[0]

        return value.detach(), extra, vjp

    def _look_ahead(self, x: Tensor, t: Level) -> dict[str, Tensor]:
        """One network evaluation, for this step's weight and the next step's proposal."""
        if t.sigma == 0:
            self.evaluations["cost"] += x.shape[0] * x.shape[1]
            return {"x0_hat": x, "log_psi": -self.cost(x).double()}
        if not self.proposal.needs_gradient:
            look = self.look_at(x, t)
            return {"x0_hat": look.x0_hat, "log_psi": look.value}

        def value(x: Tensor) -> tuple[Tensor, Tensor]:
            look = self.look_at(x, t)
            return look.value, look.x0_hat.detach()

        log_psi, x0_hat, vjp = self.pullback(value, x)
        return {"x0_hat": x0_hat, "log_psi": log_psi, "grad": vjp(torch.ones_like(log_psi))}
