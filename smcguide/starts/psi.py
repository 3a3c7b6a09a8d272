r"""Psi-Sampler's start: Markov chains on p_T psi_T in place of draws of p_T.

A few chains begin at draws resampled with psi_T, burn in, and every thin-th state is kept. As the
states stand for p_T psi_T themselves, psi_T must not count again: log w_T = 0. They are correlated and
follow that law only as the chains grow long, and its normalising constant stays unknown: results are
labelled biased, without log Z. `TemperedStart` does the same job exactly.

Reference: "Psi-Sampler: initial particle sampling for SMC-based inference-time reward alignment in
score models" (arXiv 2506.01320); there 5 chains, a burn-in of 25 to 50, and PCNL(delta=0.5).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import BIASED
from smcguide.starts.base import Begun, Fields, Noisiest, Start
from smcguide.weights import inverse_cdf


@dataclass(frozen=True)
class PsiStart(Start):
    """States of a few Markov chains; (burn_in + thin N / num_chains) num_moves steps of each.

    Arguments:
        move: the chains' step, e.g. PCNL(delta=0.5) or PCN(0.3).
        num_chains: chains per system, at least 1.
        burn_in: visits of the move before the first state is kept, at least 0.
        thin: visits between kept states, at least 1.

    Raises:
        InvalidInput: for smaller numbers; for what is not a move.
    """

    num_chains: int = 8
    burn_in: int = 50
    thin: int = 2
    exactness = BIASED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_chains < 1 or self.burn_in < 0 or self.thin < 1:
            raise InvalidInput(
                f"{self!r}: num_chains and thin must be at least 1, burn_in at least 0."
            )

    def begin(self, x: Tensor, fields: Fields, at: Noisiest, generator: Generator) -> Begun:
        S, N = x.shape[:2]
        C = min(self.num_chains, N)
        L = -(-N // C)
        own = torch.arange(N, device=x.device).expand(S, N)
        u = torch.rand((S, 1), generator=generator, dtype=torch.float64, device=x.device)
        first = inverse_cdf(fields["log_psi"], (own[:, :C] + u) / C)
        here = dict(at.take({**fields, "x": x, "eve": own}, first))
        x, eve = here.pop("x"), here.pop("eve")
        kept, rate = [], torch.zeros_like(here["log_psi"])
        visits = [self.burn_in] + [self.thin] * (L - 1)
        for count in visits:
            for _ in range(count):
                x, moved, accepted = at.move(self.move, x, here, 1.0, generator)
                here, rate = dict(moved), rate + accepted / sum(visits)
            kept.append({**here, "x": x, "eve": eve})
        out = {n: torch.stack([s[n] for s in kept], 1).flatten(1, 2)[:, :N] for n in kept[0]}
        nothing = torch.zeros_like(out["log_psi"])
        return Begun(out.pop("x"), out, nothing, out.pop("eve"), rate.repeat(1, L)[:, :N])
