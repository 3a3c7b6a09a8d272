r"""How moves are carried out: candidates, Metropolis-Hastings ratios, and who moves when.

With v = (x - m) / c in white coordinates, k the Gaussian candidate kernel of `moves.base` and l the
strength of psi (1 in a run), a candidate v' of v is accepted with probability min(1, a),

    log a = l (log psi' - log psi) + (|v|^2 - |v'|^2) / 2 + log k(v | v') - log k(v' | v)

The last three terms together are free of differences of large numbers where rho^2 + s^2 = 1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.chunking import in_chunks, kind_of
from smcguide.moves.base import Move
from smcguide.randomness import normals, uniforms
from smcguide.steps import present

Fields = Mapping[str, Tensor]
Moved = tuple[Tensor, dict[str, Tensor], Tensor]


def refresh(
    model: Any, k: int, x: Tensor, carry: Fields, fires: Tensor | None, generator: Generator
) -> tuple[Tensor, Fields]:
    """Move the particles of the systems just resampled (`fires`, (S,) bool or None), or of all.

    Where a system does not move its "acceptance" is NaN. A level that was reached without noise has
    nothing to move: its law given the parent is a point.
    """
    move: Move | None = model.move
    if "acceptance" not in carry:
        return x, carry
    silent = {**carry, "acceptance": torch.full_like(carry["log_psi"], torch.nan)}
    if move is None or (k > 0 and model.is_noiseless(k - 1)):
        return x, silent
    if not move.every_step and (fires is None or knows_that_none(fires)):
        return x, silent
    run = _chain if move.waste_free else _sweep
    with torch.no_grad():
        moved_x, moved, rate = run(model, k, move, x, dict(carry), generator)
    moved["acceptance"] = rate
    if move.every_step or fires is None:
        return moved_x, moved
    mask = fires[:, None].expand_as(rate)
    return choose(mask, moved_x, x), {n: choose(mask, moved[n], silent[n]) for n in carry}


def knows_that_none(fires: Tensor) -> bool:
    """Whether no system fires, asked only where the answer is at hand."""
    return fires.device.type == "cpu" and not bool(fires.any())


def _sweep(
    model: Any, k: int, move: Move, x: Tensor, fields: dict[str, Tensor], generator: Generator
) -> Moved:
    """Every particle moves `num_moves` times."""
    rate = torch.zeros_like(fields["log_psi"])
    for _ in range(move.num_moves):
        x, fields, accepted = attempt(model, k, move, x, fields, generator)
        rate = rate + accepted / move.num_moves
    return x, fields, rate


def _chain(
    model: Any, k: int, move: Move, x: Tensor, fields: dict[str, Tensor], generator: Generator
) -> Moved:
    """Waste-free: copies of one ancestor, side by side, become the states of a chain from it."""
    L = move.chain_length
    here = {name: a[:, ::L] for name, a in fields.items()}
    here_x, rate = x[:, ::L], torch.zeros_like(here["log_psi"])
    states = [{**here, "x": here_x}]
    for _ in range(move.num_moves):
        here_x, here, accepted = attempt(model, k, move, here_x, here, generator)
        states.append({**here, "x": here_x})
        rate = rate + accepted / move.num_moves
    out = {n: torch.stack([s[n] for s in states], 2).flatten(1, 2) for n in states[0]}
    return out.pop("x"), out, rate.repeat_interleave(L, 1)


def attempt(
    model: Any, k: int, move: Move, x: Tensor, here: Fields, generator: Generator,
    strength: float = 1.0,
) -> Moved:  # fmt: skip
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
    u = uniforms(tuple(x.shape[:2]), generator)
    suggest = _restart if move.span and k > 0 else _candidate
    there_x, there, correction = suggest(model, k, move, x, here, generator, strength)
    log_ratio = strength * (there["log_psi"] - here["log_psi"]) + correction
    if k == 0:  # the parent of x_T is N(0, sigma_T^2); the prior may know better
        log_ratio = log_ratio + _initial_ratio(model, there_x) - _initial_ratio(model, x)
    # never a candidate without a value: NaN is below nothing
    accepted = (u.log() < log_ratio) & there["log_psi"].isfinite()
    out = {name: choose(accepted, there[name], a) for name, a in here.items()}
    return choose(accepted, there_x, x), out, accepted


def _candidate(
    model: Any, k: int, move: Move, x: Tensor, here: Fields, generator: Generator, strength: float
) -> Moved:
    """A Gaussian candidate, its fields, and log N(v') / N(v) + log k(v | v') / k(v' | v)."""
    z = normals(tuple(x.shape), generator, x.dtype)
    rho, b, s = move.coefficients()
    mean, std = here["parent_mean"], here["parent_std"]
    v = (x - mean) / std
    there_v = rho * v + s * z
    if b:
        g = strength * std * here["grad"]
        there_v = there_v + b * g
    there_x = mean + std * there_v
    there = {**here, **_evaluate(model, k, there_x, here)}
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
    model: Any, k: int, move: Move, x: Tensor, here: Fields, generator: Generator, strength: float
) -> Moved:
    """A candidate noised up `span` levels and denoised down again by the base chain, in detailed balance
    with p_s where that chain is the exact reversal of the noising."""

    def noise() -> Tensor:
        return normals(tuple(x.shape), generator, x.dtype)

    top, memory = max(0, k - move.span), None
    there_x = model.noising(k, top, x).sample(noise())
    for j in range(top, k):
        base = model.base_kernel(j, there_x, _denoise(model, j, there_x), memory)
        there_x, memory = base.sample(noise()), base.memory
    there = {**here, "parent_mean": base.mean, "parent_std": base.std_like(base.mean)}
    there |= present({"kernel_memory": memory})
    there |= _evaluate(model, k, there_x, there)
    return there_x, there, torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)


def _initial_ratio(model: Any, x: Tensor) -> Tensor:
    ratio: Tensor = model.prior.log_initial_ratio(x.flatten(0, 1), model.levels[0])
    return ratio.unflatten(0, x.shape[:2])


def _denoise(model: Any, k: int, x: Tensor) -> Tensor:
    def work(i: slice) -> dict[str, Tensor]:
        return {"x0_hat": model.denoise(x[:, i], model.levels[k])}

    return in_chunks(model, "denoising", x.shape[:2], work)["x0_hat"]


def _evaluate(model: Any, k: int, x: Tensor, fields: Fields) -> dict[str, Tensor]:
    def work(i: slice) -> dict[str, Tensor]:
        here = {name: a[:, i] for name, a in fields.items()}
        found: dict[str, Tensor] = model.look_ahead(k, x[:, i], here)
        return found

    kind = kind_of("look", *model.levels[k : k + 2])
    return in_chunks(model, kind, x.shape[:2], work)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(2).sum(-1, dtype=torch.float64)


def choose(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the mask (S, n) is set, else b; fields (S, n, ...)."""
    return torch.where(mask.reshape(*mask.shape, *[1] * (b.ndim - 2)), a, b)
