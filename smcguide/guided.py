r"""Guided diffusion as a Feynman-Kac model: the only file that forms a weight.

Base chain p(x_s | x_t) of the prior, proposal q(x_s | x_t), values psi_t with psi_0 = exp(-C):

    log w_T  = log psi_T(x_T)
    log w   += log p(x_s | x_t) - log q(x_s | x_t) + log psi_s(x_s) - log psi_t(x_t)

psi_t is the cached number that entered the weight before, so the product telescopes and Z is unbiased
for any psi and q. Where the base step has no noise, the proposal falls back to it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.boundary import dry_run, resolve_times
from smcguide.costs.base import TerminalCost, as_cost
from smcguide.draws import rehearse
from smcguide.errors import InvalidInput
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.grids import Grid
from smcguide.kernels.base import Kernel
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.proposals.base import Linearised, Proposal
from smcguide.records import Gaussian, Level, Look
from smcguide.rehearsal import Rehearsal
from smcguide.schedules import Schedule

Carry = Mapping[str, Tensor]


class GuidedDiffusion(FeynmanKac):
    """A diffusion prior guided towards a terminal cost.

    Arguments:
        prior: the denoiser and its schedule.
        cost: a `TerminalCost`, or a function (M, *E) -> (M,).
        kernel: base reverse kernel.
        times: a grid, or a tensor of K + 1 strictly decreasing times ending at 0.
        potential: values log psi_t before the last step.
        proposal: replaces the kernel.
        chunk_size: largest number of particles in the network at once (never fewer than one per
            system); None for all. Results do not depend on it beyond the network's own rounding.
        rehearsal: what kernels and potentials may know of the prior; default: made when needed.

    Attributes:
        evaluations: network_forward, network_backward and cost evaluations so far, per particle.

    Raises:
        InvalidInput: whenever the parts do not fit together; no network call is made before.
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
        if chunk_size is not None and chunk_size < 1:
            raise InvalidInput(f"chunk_size must be at least 1 or None, got {chunk_size}.")
        self.prior, self.kernel, self.chunk_size = prior, kernel, chunk_size
        self.cost = as_cost(cost).to(prior.device)
        self.event_shape, self.device = tuple(prior.event_shape), prior.device
        self.num_systems = self.cost.num_systems
        self.levels = [prior.schedule.level(t) for t in resolve_times(times, prior.schedule)]
        self.num_steps = len(self.levels) - 1
        self.evaluations: Counter[str] = Counter()
        self.parts = {"kernel": kernel, "potential": potential, "proposal": proposal}
        dry_run(self, potential, proposal)
        needed = kernel.needs_rehearsal or potential.needs_rehearsal or proposal.needs_rehearsal
        if rehearsal is None and needed:
            rehearsal = rehearse(prior, kernel, self.levels)
        self.kernel = kernel.bind(rehearsal)
        self.potential = potential.bind(self.cost, self.event_shape, rehearsal)
        self.proposal = proposal.bind(self.cost, self.event_shape, rehearsal)

    # ---- the Feynman-Kac model -----------------------------------------------------------------

    @torch.no_grad()
    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        x = self.prior.initial(shape[0] * shape[1], self.levels[0], generator)
        x = x.reshape(*shape, *self.event_shape)
        chunks = [self._look_ahead(x[:, i], self.levels[0]) for i in self._chunks(shape)]
        carry = _join([carry for _, carry in chunks])
        carry["path_kl"] = torch.zeros_like(carry["log_psi"])
        return Propagated(x, carry["log_psi"], carry)

    @torch.no_grad()
    def step(self, k: int, x: Tensor, carry: Carry, generator: Generator) -> Propagated:
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.advance(k, x, carry, z)

    @torch.no_grad()
    def advance(self, k: int, x: Tensor, carry: Carry, z: Tensor) -> Propagated:
        """Transition k with given standard normal noise z (S, N, *E), chunk by chunk."""
        chunks = []
        for i in self._chunks(x.shape[:2]):
            here = {name: a[:, i] for name, a in carry.items()}
            base, q = self.kernels(k, x[:, i], here)
            x_s, ahead = self._look_ahead(q.sample(z[:, i]), self.levels[k + 1])
            ahead["log_g"] = base.log_ratio(q, z[:, i]) + ahead["log_psi"] - here["log_psi"]
            ahead["path_kl"] = here["path_kl"] + q.kl(base)
            ahead |= {} if base.memory is None else {"kernel_memory": base.memory}
            ahead |= {} if q.memory is None else {"proposal_memory": q.memory}
            chunks.append(ahead | {"x": x_s})
        out = _join(chunks)
        return Propagated(out.pop("x"), out.pop("log_g"), out)

    @torch.no_grad()
    def kernels(
        self, k: int, x: Tensor, carry: Carry, guide_last: bool = False
    ) -> tuple[Gaussian, Gaussian]:
        """Base kernel and proposal of transition k at states x (S, n, *E).

        A step without noise is not guided, since no weight could correct it, unless `guide_last`
        asks for what an unweighted sampler would do.
        """
        t, s = self.levels[k], self.levels[k + 1]
        look = Look(x, carry["x0_hat"], t, carry["log_psi"], carry.get("grad"))
        base = self.kernel.step(x, look.x0_hat, t, s, carry.get("kernel_memory"))
        if base.is_dirac and not guide_last:
            return base, base
        q = self.proposal.propose(base, look, _Step(self, k, t, s, carry))
        return base, q

    def report(self, carry: Carry) -> dict[str, Tensor]:
        return {"path_kl": carry["path_kl"].mean(-1)}

    def is_noiseless(self, k: int) -> bool:
        dot = torch.zeros((1, 1, *self.event_shape), dtype=self.prior.dtype, device=self.device)
        return self.kernel.step(dot, dot, *self.levels[k : k + 2], None).is_dirac

    def time(self, k: int) -> float:
        return self.levels[k].time

    def log_transition(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        look = self.look_at(x, self.levels[k])
        base = self.kernel.step(x, look.x0_hat, self.levels[k], self.levels[k + 1], None)
        law = torch.distributions.Normal(base.mean.double(), torch.as_tensor(base.std).double())
        return law.log_prob(x_next.double()).flatten(2).sum(-1)

    def culprit(self, k: int) -> tuple[str, str]:
        if k == self.num_steps:
            return f"the cost {self.cost!r}", "Check that it is finite where the posterior lives."
        return (
            f"the potential {self.potential!r} (or a NaN from the network)",
            "Before the last step a value must be finite: with hard constraints use "
            "potentials.Terminal(), else try InflatedGaussian() or a smaller strength.",
        )

    # ---- network, potential, gradients ---------------------------------------------------------

    def look_at(self, x: Tensor, t: Level, guide: Potential | None = None) -> Look:
        """Denoise x (S, n, *E) at level t and value it; differentiable where gradients are on."""
        look = Look(x, self.denoise(x, t), t)
        self.evaluations["cost"] += x.shape[0] * x.shape[1]
        return replace(look, log_psi=(guide or self.potential).log_value(look).double())

    def denoise(self, x: Tensor, t: Level) -> Tensor:
        """The prior's denoiser on (S, n, *E), counted."""
        M = x.shape[0] * x.shape[1]
        self.evaluations["network_forward"] += M
        self.evaluations["network_backward"] += M if x.requires_grad else 0
        return self.prior.denoise(x.flatten(0, 1), t.time).unflatten(0, x.shape[:2])

    def pullback(
        self, f: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor
    ) -> tuple[Tensor, Any, Callable[[Tensor], Tensor]]:
        """For f(x) = (value, extra): both, and v -> (d value / d x)^T v.

        The only place of the package that differentiates.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, extra = f(x)

        def vjp(v: Tensor) -> Tensor:
            if not value.requires_grad:  # a value that does not look at x
                return torch.zeros_like(x)
            return torch.autograd.grad(value, x, v.to(value.dtype), retain_graph=True)[0]

        return value.detach(), extra, vjp

    def _look_ahead(self, x: Tensor, t: Level) -> tuple[Tensor, dict[str, Tensor]]:
        """One network evaluation, for this step's weight and the next step's proposal."""
        if t.sigma == 0:
            self.evaluations["cost"] += x.shape[0] * x.shape[1]
            return x, {"x0_hat": x, "log_psi": -self.cost(x).double()}
        if not self.proposal.needs_gradient:
            look = self.look_at(x, t)
            return x, {"x0_hat": look.x0_hat, "log_psi": look.value}

        def value(x: Tensor) -> tuple[Tensor, Tensor]:
            look = self.look_at(x, t)
            return look.value, look.x0_hat.detach()

        log_psi, x0_hat, vjp = self.pullback(value, x)
        return x, {"x0_hat": x0_hat, "log_psi": log_psi, "grad": vjp(torch.ones_like(log_psi))}

    def _chunks(self, shape: tuple[int, ...]) -> list[slice]:
        S, N = shape
        size = N if self.chunk_size is None else max(1, self.chunk_size // S)
        return [slice(i, i + size) for i in range(0, N, size)]


@dataclass(frozen=True)
class _Step:
    """Answers a proposal's questions about one step of a chunk (see `proposals.base.Step`)."""

    model: GuidedDiffusion
    k: int
    t: Level
    s: Level
    carry: Carry

    @property
    def memory(self) -> Tensor | None:
        return self.carry.get("proposal_memory")

    @property
    def progress(self) -> float:
        return self.k / self.model.num_steps

    @property
    def schedule(self) -> Schedule:
        return self.model.prior.schedule

    @property
    def potential(self) -> Potential:
        return self.model.potential

    def denoise(self, x: Tensor) -> Tensor:
        return self.model.denoise(x, self.t)

    def look_at(self, x: Tensor, guide: Potential | None = None) -> Look:
        return self.model.look_at(x, self.t, guide)

    def base_of(self, x: Tensor, x0_hat: Tensor) -> Gaussian:
        return self.model.kernel.step(x, x0_hat, self.t, self.s, self.carry.get("kernel_memory"))

    def base_at(self, x: Tensor) -> Gaussian:
        return self.base_of(x, self.denoise(x))

    def cost(self, x0: Tensor) -> Tensor:
        self.model.evaluations["cost"] += x0.shape[0] * x0.shape[1]
        return self.model.cost(x0)

    def gradient(self, f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        value, _, vjp = self.model.pullback(lambda u: (f(u), None), u)
        return vjp(torch.ones_like(value))

    def linearise(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Linearised:
        value, _, vjp = self.model.pullback(lambda x: (f(x), None), x)
        return value, vjp


def _join(chunks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Chunks of a population side by side again, field by field."""
    if len(chunks) == 1:
        return chunks[0]
    return {name: torch.cat([c[name] for c in chunks], 1) for name in chunks[0]}
