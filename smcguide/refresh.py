"""How moves are carried out: candidates, Metropolis-Hastings ratios, and who moves when."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.moves.base import Move
from smcguide.steps import chunks, join

Fields = Mapping[str, Tensor]


def attempt(
    model: Any, k: int, move: Move, x: Tensor, here: Fields, generator: Generator,
    strength: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:  # fmt: skip
    """One candidate per particle, accepted or not, for the law p(x | parent) psi(x)^strength.

    Arguments:
        model: a `GuidedDiffusion`, asked for values.
        k: transitions already made.
        move: says what the candidates are.
        x: (S, n, *E) states.
        here: their fields: log_psi, parent_mean, parent_std, and what the potential wants.
        generator: of the candidates' noise.
        strength: exponent of psi.

    Returns:
        States, fields, and accepted (S, n) bool.
    """
    u = torch.rand(x.shape[:2], generator=generator, dtype=torch.float64, device=x.device)
    if move.span:
        there_x, there, correction = _restart(model, k, move.span, x, here, generator)
    else:
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        there_x, there, correction = _candidate(model, k, move, x, here, z, strength)
    log_ratio = strength * (there["log_psi"] - here["log_psi"]) + correction
    if k == 0:  # the parent of x_T is N(0, sigma_T^2); the prior may know better
        log_ratio = log_ratio + _initial_ratio(model, there_x) - _initial_ratio(model, x)
    accepted = u.log() < log_ratio  # never where the candidate has no value
    out = {name: _where(accepted, there.get(name, a), a) for name, a in here.items()}
    return _where(accepted, there_x, x), out, accepted


def _candidate(
    model: Any, k: int, move: Move, x: Tensor, here: Fields, z: Tensor, strength: float
) -> tuple[Tensor, Fields, Tensor]:
    """A Gaussian candidate, its fields, and log N(v') / N(v) + log k(v | v') / k(v' | v)."""
    rho, b, s = move.coefficients()
    mean, std = here["parent_mean"], here["parent_std"]
    v = (x - mean) / std
    g = strength * std * here["grad"] if b else torch.zeros(())
    there_v = rho * v + b * g + s * z
    there_x = mean + std * there_v
    there = dict(here) | _evaluate(model, k, there_x, here)
    # |v|^2 - |v'|^2, as a product: no difference of two large numbers
    correction = (1 - (1 - rho**2) / s**2) / 2 * _dot(v - there_v, v + there_v)
    if b:
        there_g = strength * std * there["grad"]
        forward, backward = there_v - rho * v, v - rho * there_v
        correction = correction + b / s**2 * (
            _dot(backward, there_g) - _dot(forward, g) + b / 2 * _dot(g - there_g, g + there_g)
        )
    return there_x, there, correction


def _restart(
    model: Any, k: int, span: int, x: Tensor, here: Fields, generator: Generator
) -> tuple[Tensor, Fields, Tensor]:
    """A candidate noised up `span` levels and denoised down again by the base chain, in detailed balance
    with p_s where that chain is the exact reversal of the noising."""
    top = max(0, k - span)
    noisy = model.noising(k, top, x)
    x = noisy.sample(torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))
    for j in range(top, k):
        base = model.base_kernel(j, x, model.denoise(x, model.levels[j]))
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = base.sample(z)
    parent = {"parent_mean": base.mean, "parent_std": base.std_like(base.mean)}
    there = dict(here) | parent
    there |= _evaluate(model, k, x, there)
    return x, there, torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)


def _initial_ratio(model: Any, x: Tensor) -> Tensor:
    ratio: Tensor = model.prior.log_initial_ratio(x.flatten(0, 1), model.levels[0])
    return ratio.unflatten(0, x.shape[:2])


def _evaluate(model: Any, k: int, x: Tensor, fields: Fields) -> dict[str, Tensor]:
    return join([
        model.look_ahead(k, x[:, i], {name: a[:, i] for name, a in fields.items()})
        for i in chunks(tuple(x.shape[:2]), model.chunk_size)
    ])  # fmt: skip


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(2).sum(-1, dtype=torch.float64)


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(mask.reshape(*mask.shape, *[1] * (b.ndim - 2)), a, b)


def refresh(
    model: Any, k: int, x: Tensor, carry: Fields, fires: Tensor | None, generator: Generator
) -> tuple[Tensor, Fields]:
    """Move the particles of the systems just resampled (`fires`, (S,) bool or None), or of all."""
    move: Move | None = model.move
    if "acceptance" not in carry:
        return x, carry
    silent = {**carry, "acceptance": torch.full_like(carry["log_psi"], torch.nan)}
    if move is None or (fires is None and not move.every_step) or model.is_noiseless(k):
        return x, silent
    mask = torch.ones_like(carry["log_psi"], dtype=torch.bool)
    mask = mask if move.every_step or fires is None else mask & fires[:, None]
    run = _chain if move.waste_free else _sweep
    moved_x, moved, rate = run(model, k, move, x, dict(carry), generator)
    out = {name: _where(mask, moved[name], a) for name, a in carry.items()}
    out["acceptance"] = torch.where(mask, rate, torch.nan)
    return _where(mask, moved_x, x), out


def _sweep(
    model: Any, k: int, move: Move, x: Tensor, fields: dict[str, Tensor], generator: Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Every particle moves `num_moves` times."""
    rate = torch.zeros_like(fields["log_psi"])
    for _ in range(move.num_moves):
        x, fields, accepted = attempt(model, k, move, x, fields, generator)
        rate = rate + accepted / move.num_moves
    return x, fields, rate


def _chain(
    model: Any, k: int, move: Move, x: Tensor, fields: dict[str, Tensor], generator: Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Waste-free: copies of one ancestor, side by side, become the states of a chain from it."""
    L = move.chain_length
    first = {name: a[:, ::L] for name, a in (fields | {"x": x}).items()}
    states, rates = [first], [torch.full_like(first["log_psi"], torch.nan)]
    for _ in range(move.num_moves):
        here = dict(states[-1])
        moved, here, accepted = attempt(model, k, move, here.pop("x"), here, generator)
        states.append(here | {"x": moved})
        rates.append(accepted.double())
    out = {n: torch.stack([s[n] for s in states], 2).flatten(1, 2) for n in first}
    rate = torch.stack(rates, 2).nanmean(2).repeat_interleave(L, 1)
    return out.pop("x"), out, rate
