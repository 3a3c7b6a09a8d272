r"""Guided diffusion as a Feynman-Kac model: the only file that forms a weight.

Base chain p(x_s | x_t), proposal q(x_s | x_t), values psi_t with psi_0 = exp(-C):

    log w_T  = log psi_T(x_T)
    log w   += log p(x_s | x_t) - log q(x_s | x_t) + log psi_s(x_s) - log psi_t(x_t)

psi_t is the cached number that entered before: the product telescopes, Z is unbiased for any psi and q.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide import exactness
from smcguide.boundary import as_prior, blame, dry_run, resolve_times
from smcguide.chunking import ChunkSize, in_chunks, kind_of
from smcguide.costs.base import TerminalCost, as_cost
from smcguide.draws import rehearse
from smcguide.feynman_kac import Propagated
from smcguide.gaussian import Gaussian
from smcguide.grids import Grid
from smcguide.kernels.base import Kernel
from smcguide.lookahead import Carry, LookAhead
from smcguide.moves.base import Move
from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameter_refresh import begin_parameters, refresh_parameters
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.problem import Problem
from smcguide.proposals.base import Proposal
from smcguide.randomness import normals
from smcguide.refresh import refresh
from smcguide.rehearsal import Rehearsal
from smcguide.starting import begin
from smcguide.starts.base import Start
from smcguide.steps import cut, present
from smcguide.tempering import temper

_KEPT = ("theta", "acceptance", "parameter_acceptance")  # through a transition, as they are


class GuidedDiffusion(LookAhead):
    """A prior guided towards a terminal cost.

    Arguments:
        prior: the denoiser and its schedule.
        cost: a `TerminalCost`, or a function (M, *E) -> (M,).
        kernel: base reverse kernel.
        times: a grid, or a tensor of K + 1 times from noise to 0 (see `grids.recurrent` for more).
        potential: values log psi_t before the last step.
        proposal: replaces the kernel.
        move, start: Markov moves between the steps, and how the first population is made; None for none.
        parameter_move: Markov moves of the cost's unknown parameters, if it has some.
        chunk_size: most particles in the network at once (at least one per system), None for all, "auto"
            for what fits in memory. Results do not depend on it beyond the network's own rounding.
        rehearsal: what kernels and potentials may know of the prior; default: made when needed.

    Attributes:
        evaluations: network_forward, network_backward and cost evaluations so far, per particle.
        chunk_sizes: what "auto" has chosen, by kind of work.

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
        move: Move | None = None,
        start: Start | None = None,
        parameter_move: ParameterMove | None = None,
        chunk_size: ChunkSize = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self.prior, self.kernel, self.chunk_size = as_prior(prior), kernel, chunk_size
        self.cost = as_cost(cost).to(prior.device)
        self.event_shape, self.device = tuple(prior.event_shape), prior.device
        self.levels = [prior.schedule.level(t) for t in resolve_times(times, prior)]
        self.num_steps, self.num_systems = len(self.levels) - 1, self.cost.num_systems
        self.evaluations, self.chunk_sizes = Counter[str](), dict[str, int]()
        self.move, self.start, self.parameter_move = move, start, parameter_move
        self.parts: dict[str, Any] = {
            "prior": prior, "cost": self.cost, "times": times,
            "kernel": kernel, "potential": potential, "proposal": proposal,
        }  # fmt: skip
        self.parts |= present({"move": move, "start": start, "parameter_move": parameter_move})
        dry_run(self, potential, proposal)
        if rehearsal is None and any(p.needs_rehearsal for p in (kernel, potential, proposal)):
            is_new = prior.rehearsal is None
            rehearsal = rehearse(prior, chunk_size or 512)
            self.parts["rehearsal_forward"] = is_new * rehearsal.evaluations
        self.kernel = kernel.bind(rehearsal)
        self.stds = [self.std(k) for k in range(self.num_steps)]
        problem = Problem(self.cost, self.event_shape, rehearsal, self.levels, self.stds)
        self.potential, self.proposal = potential.bind(problem), proposal.bind(problem)
        self.num_draws = max(potential.num_draws, proposal.num_draws)
        self.chain_length = 1 if move is None else move.chain_length

    @property
    def exactness(self) -> str:
        """What may be claimed of this model's results, from its parts; see `smcguide.exactness`."""
        return exactness.label(self.parts.values())

    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        return self.conditional_initial(shape, generator, None)

    @torch.no_grad()
    def conditional_initial(
        self, shape: tuple[int, int], generator: Generator, pinned: Carry | None
    ) -> Propagated:
        x = self.draw_initial(shape, generator)
        if pinned is not None:
            x[:, 0] = pinned["x"]
        noise = present({"psi_noise": self.draw_noise(x, generator)})
        return begin(self, x, noise | begin_parameters(self, shape, generator), generator)

    def step(self, k: int, x: Tensor, carry: Carry, generator: Generator) -> Propagated:
        return self.conditional_step(k, x, carry, generator, None)

    def conditional_step(
        self, k: int, x: Tensor, carry: Carry, generator: Generator, pinned: Carry | None
    ) -> Propagated:
        z, noise = normals(tuple(x.shape), generator, x.dtype), self.draw_noise(x, generator)
        return self.advance(k, x, carry, z, noise, pinned)

    @torch.no_grad()
    def advance(
        self, k: int, x: Tensor, carry: Carry, z: Tensor,
        noise: Tensor | None = None, pinned: Carry | None = None,
    ) -> Propagated:  # fmt: skip
        """Transition k with given standard normal noise z (S, N, *E), chunk by chunk.

        Arguments:
            noise: (S, N, J, *E) the potential's own random numbers, if it wants some.
            pinned: the state (S, *E) that particle 0 must reach, whatever its z.
        """

        def work(i: slice) -> dict[str, Tensor]:
            here, (x_i, z_i) = cut(carry, i, x, z)
            base, q = self.kernels(k, x_i, here)
            if pinned is not None and i.start == 0 and not base.is_dirac:
                z_i = torch.cat([q.noise_of(pinned["x"][:, None], slice(0, 1)), z_i[:, 1:]], 1)
            x_s = q.sample(z_i)
            memory = here.get("proposal_memory") if self.is_noising(k) else q.memory
            ahead = present({
                "kernel_memory": base.memory, "proposal_memory": memory,
                "psi_past": here.get("psi_memory"),
                "psi_noise": None if noise is None else noise[:, i],
                **{name: here.get(name) for name in _KEPT},
            })  # fmt: skip
            ahead |= self.look_ahead(k + 1, x_s, ahead)
            ahead["log_g"], ahead["path_kl"] = ahead["log_psi"] - here["log_psi"], here["path_kl"]
            if q is not base:
                log_ratio, kl = base.compared(q, z_i)
                ahead |= {"log_g": ahead["log_g"] + log_ratio, "path_kl": here["path_kl"] + kl}
            if "acceptance" in here:
                ahead |= {"parent_mean": base.mean, "parent_std": base.std_like(base.mean)}
            return ahead | {"x": x_s}

        out = in_chunks(self, kind_of("transition", *self.levels[k : k + 2]), x.shape[:2], work)
        return Propagated(out.pop("x"), out.pop("log_g"), out)

    @torch.no_grad()
    def kernels(
        self, k: int, x: Tensor, carry: Carry, guide_last: bool = False
    ) -> tuple[Gaussian, Gaussian]:
        """Base kernel and proposal of transition k at states x (S, n, *E). A step without noise is
        guided only if `guide_last` asks for an unweighted sampler's choice, one back to noise never."""
        base = self.base_kernel(k, x, carry["x0_hat"], carry.get("kernel_memory"))
        idle = self.is_noising(k) or (base.is_dirac and not guide_last)
        if idle or not self.proposal.is_guided:
            return base, base
        step = self._step(k, carry)
        return base, self.proposal.propose(base, step.look(x, carry["x0_hat"]), step)

    def refresh(
        self, k: int, x: Tensor, carry: Carry, fires: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Carry]:
        x, carry = refresh(self, k, x, carry, fires, generator)
        return x, refresh_parameters(self, k, x, carry, fires, generator)

    def adapt(self, k: int, log_w: Tensor, moved: Propagated) -> Propagated:
        return temper(self, k, log_w, moved)

    def report(self, carry: Carry) -> dict[str, Tensor]:
        names = ("path_kl", "acceptance", "parameter_acceptance", "strength")
        return {name: carry[name].mean(-1) for name in names if name in carry}

    def culprit(self, k: int) -> tuple[str, str]:
        return blame(self, k)
