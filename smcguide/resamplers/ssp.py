r"""SSP resampling: particle i gets floor(num W_i) or ceil(num W_i) copies, by Srinivasan's process.

Let p_i = num W_i - floor(num W_i). Two particles with fractions a and b play for their common mass:

    a + b <  1     one keeps a + b, the other 0         the first with probability a / (a + b)
    a + b >= 1     one gets 1, the other a + b - 1      the first with probability (1 - b) / (2 - a - b)

so that both keep their means, one of the two is settled at 0 or 1, and the other plays on until the
sum, a whole number, is settled. Any order of games gives the means. Gerber, Chopin and Whiteley play
along the line of particles, in N games one after the other. Here they play a tournament: winners of
games between neighbours meet in the next round, log2(N) rounds of independent games. Tournaments, too,
leave the copies negatively associated (Kramer, Cutler, Radcliffe), hence never noisier than multinomial,
which is more than systematic resampling promises.

References: Gerber, Chopin, Whiteley, "Negative association, ordering and convergence of resampling
methods" (arXiv 1708.02230); Srinivasan, "Distributions on level-sets with applications to
approximation algorithms" (2001); Kramer, Cutler, Radcliffe, "Negative dependence and Srinivasan's
sampling process" (2011).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.resamplers.base import Resampler, expected_copies, repeated, uniforms


@dataclass(frozen=True)
class SSP(Resampler):
    """Floor or ceiling of num W_i, negatively associated."""

    def __call__(self, log_w: Tensor, generator: Generator, num: int | None = None) -> Tensor:
        num = log_w.shape[1] if num is None else num
        expected = expected_copies(log_w, num)
        copies = expected.floor()
        return repeated(copies + _tournament(expected - copies, generator), num)


def _tournament(p: Tensor, generator: Generator) -> Tensor:
    """Zeros and ones (S, N) of mean p in [0, 1) and the sum of p, which is whole up to rounding."""
    S, N = p.shape
    size = 1 << (N - 1).bit_length()
    p = torch.nn.functional.pad(p, (0, size - N))  # the padding never wins
    player = torch.arange(size, device=p.device).expand(S, size)
    score = torch.zeros_like(p)
    while player.shape[1] > 1:
        (a, b), (i, j) = (t.unflatten(1, (-1, 2)).unbind(-1) for t in (p, player))
        both, u = a + b, uniforms(tuple(a.shape), generator)
        full = both >= 1
        first = torch.where(full, u * (2 - both) < 1 - b, u * both < a)
        winner, loser = torch.where(first, i, j), torch.where(first, j, i)
        score.scatter_(1, torch.where(full, winner, loser), full.to(p))
        player, p = torch.where(full, loser, winner), torch.where(full, both - 1, both)
    return score.scatter_(1, player, p.round())[:, :N]
