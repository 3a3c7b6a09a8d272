"""The first population of a guided diffusion, with or without a start."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.chunking import in_chunks, kind_of
from smcguide.feynman_kac import Propagated
from smcguide.gaussian import Gaussian
from smcguide.moves.base import Move
from smcguide.records import Level
from smcguide.refresh import attempt

Fields = Mapping[str, Tensor]


class NoisiestLevel:
    """What a start may do at level T of a `GuidedDiffusion` (`starts.base.Noisiest`)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def move(
        self, move: Move, x: Tensor, fields: Fields, strength: float, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        rate = torch.zeros_like(fields["log_psi"])
        out = dict(fields)
        for _ in range(move.num_moves):
            x, out, accepted = attempt(self.model, 0, move, x, out, generator, strength)
            rate = rate + accepted / move.num_moves
        return x, out, rate

    def take(self, fields: Fields, ancestors: Tensor) -> dict[str, Tensor]:
        systems = torch.arange(len(ancestors), device=ancestors.device)[:, None]
        return {name: a[systems, ancestors] for name, a in fields.items()}


def begin(model: Any, x: Tensor, fields: dict[str, Tensor], generator: Generator) -> Propagated:
    """The population x (S, N, *E) with its first look and weight psi_T, or a start's instead."""
    t: Level = model.levels[0]

    def work(i: slice) -> dict[str, Tensor]:
        found: dict[str, Tensor] = model.look_ahead(
            0, x[:, i], {n: a[:, i] for n, a in fields.items()}
        )
        return found

    carry = fields | in_chunks(model, kind_of("look", *model.levels[:2]), x.shape[:2], work)
    log_g, eve = carry["log_psi"], None
    if model.move is not None or model.start is not None:
        law = Gaussian(torch.zeros_like(x), t.sigma)
        carry |= {"parent_mean": law.mean, "parent_std": law.std_like(x)}
        carry["acceptance"] = torch.full_like(log_g, torch.nan)
    if model.start is not None:
        begun = model.start.begin(x, carry, NoisiestLevel(model), generator)
        x, log_g, eve = begun.x, begun.log_w, begun.eve
        carry = dict(begun.fields) | {"acceptance": begun.acceptance}
    carry["path_kl"] = torch.zeros_like(log_g)
    return Propagated(x, log_g, carry, eve)
