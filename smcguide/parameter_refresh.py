"""How the particles' parameters begin and move: leapfrog candidates, accepted or not, chunk by chunk.

See `parameter_moves.base` for the law that they leave alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.chunking import in_chunks, kind_of
from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameters import Parameters
from smcguide.randomness import normals, uniforms
from smcguide.refresh import choose, knows_that_none

Fields = Mapping[str, Tensor]
_LONGEST = 10.0  # widths of the prior, one leapfrog step


def begin_parameters(model: Any, shape: tuple[int, int], generator: Generator) -> dict[str, Tensor]:
    """theta (S, N, p) from its prior; nothing where the cost has no parameters."""
    parameters = model.cost.parameters
    if parameters is None:
        return {}
    draws: Tensor = parameters.draw(shape[0] * shape[1], generator)
    silent = torch.full(shape, torch.nan, dtype=torch.float64, device=draws.device)
    return {"theta": draws.unflatten(0, shape), "parameter_acceptance": silent}


def refresh_parameters(
    model: Any, k: int, x: Tensor, carry: Fields, fires: Tensor | None, generator: Generator
) -> Fields:
    """Move the parameters of the systems just resampled (`fires`, (S,) bool or None), or of all."""
    if "theta" not in carry:
        return carry
    move: ParameterMove = model.parameter_move
    rate = torch.full_like(carry["log_psi"], torch.nan)
    if not move.every_step and (fires is None or knows_that_none(fires)):
        return {**carry, "parameter_acceptance": rate}
    z, u = numbers(move, carry["theta"], generator)

    def work(i: slice) -> dict[str, Tensor]:
        here = {name: a[:, i] for name, a in carry.items()}
        return _visit(model, k, move, x[:, i], here, [a[:, i] for a in z], [a[:, i] for a in u])

    kind = kind_of("parameter move", *model.levels[k : k + 2])
    with torch.no_grad():
        moved = in_chunks(model, kind, x.shape[:2], work)
    if move.every_step or fires is None:
        return {**carry, **moved}
    mask = fires[:, None].expand_as(rate)
    silent = {**carry, "parameter_acceptance": rate}
    return {**carry, **{name: choose(mask, a, silent[name]) for name, a in moved.items()}}


def _visit(
    model: Any, k: int, move: ParameterMove, x: Tensor, carry: Fields,
    z: Sequence[Tensor], u: Sequence[Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    def value(theta: Tensor) -> Tensor:
        log_psi: Tensor = model.value_of(k, x, {**carry, "theta": theta})
        return log_psi

    target = Target(model.cost.parameters, value, model.pullback)
    return walk(target, move, carry["theta"], carry["log_psi"], z, u)


@dataclass(frozen=True)
class Target:
    """log p(theta) + log psi(theta) of a chunk of particles, in coordinates where the prior has width 1.

    Attributes:
        parameters: theta's prior.
        value: theta (S, n, p) -> log psi (S, n).
        pullback: differentiates, as `LookAhead.pullback`.
    """

    parameters: Parameters
    value: Callable[[Tensor], Tensor]
    pullback: Callable[..., tuple[Tensor, Any, Callable[[Tensor], Tensor]]]

    def log_prior(self, theta: Tensor) -> Tensor:
        return self.parameters.log_prob(theta.flatten(0, 1)).unflatten(0, theta.shape[:2])

    def __call__(self, theta: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """log prior, log psi and the force (S, n, p), zero where none is needed."""

        def total(theta: Tensor) -> tuple[Tensor, Tensor]:
            terms = torch.stack([self.log_prior(theta), self.value(theta)])
            return terms.sum(0), terms.detach()

        if not needs_gradient:
            log_prior, log_psi = total(theta)[1]
            return log_prior, log_psi, torch.zeros_like(theta)
        value, (log_prior, log_psi), vjp = self.pullback(total, theta)
        force = self.parameters.scales.to(theta.device) * vjp(torch.ones_like(value))
        return log_prior, log_psi, force


def walk(
    target: Target, move: ParameterMove, theta: Tensor, log_psi: Tensor,
    z: Sequence[Tensor], u: Sequence[Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """The candidates of one visit: new theta (S, n, p), its log_psi, and the share that was accepted.

    Arguments:
        z, u: normal (S, n, p) and uniform (S, n) numbers of each candidate.
    """
    scales = target.parameters.scales.to(theta.device)
    log_prior, force = target.log_prior(theta), torch.zeros_like(theta)
    if move.needs_gradient:
        force = target(theta, True)[2]
    accepted = torch.zeros_like(log_psi)
    for n in range(move.num_moves):
        e = move.size(n, theta.shape[-1])
        there, momentum, there_force = theta, z[n], force
        alive = torch.ones_like(log_psi, dtype=torch.bool)
        for _ in range(move.num_leapfrog):
            momentum = momentum + e / 2 * there_force
            step = e * momentum
            # a path that diverges ends, and is rejected: backwards it has the same steps
            alive = alive & (step.abs() <= _LONGEST).all(-1)
            there = choose(alive, there + scales * step, theta)
            there_prior, there_psi, there_force = target(there, move.needs_gradient)
            momentum = momentum + e / 2 * there_force
        kinetic = (z[n].square() - momentum.square()).sum(-1) / 2
        log_ratio = there_prior + there_psi - log_prior - log_psi + kinetic
        # never a candidate without a value: NaN is below nothing
        taken = alive & (u[n].log() < log_ratio) & there_psi.isfinite()
        theta, force = choose(taken, there, theta), choose(taken, there_force, force)
        log_prior = torch.where(taken, there_prior, log_prior)
        log_psi = torch.where(taken, there_psi, log_psi)
        accepted = accepted + taken / move.num_moves
    return {"theta": theta, "log_psi": log_psi, "parameter_acceptance": accepted}


def numbers(
    move: ParameterMove, theta: Tensor, generator: Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """z and u of one visit, for `walk`."""
    z = [_normal(theta, generator) for _ in range(move.num_moves)]
    return z, [_uniform(theta, generator) for _ in range(move.num_moves)]


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return normals(tuple(like.shape), generator, like.dtype)


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    return uniforms(tuple(like.shape[:2]), generator)
