r"""Tempering at the noisiest level: an SMC sampler from p_T to p_T psi_T, with weights.

    pi_j proportional to p_T psi_T^(l_j),     0 = l_0 < l_1 < ... < l_M = 1

From one temperature to the next, weights grow by (l_{j+1} - l_j) log psi_T; systems whose ESS falls
below one half are resampled (systematically), the others carry their weights; every particle moves.
The factors of log Z collected on the way go into the weights as a constant: the mean of exp(log w) is
unbiased for E psi_T(x_T), and the run that follows is exact.

References: Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers" (J. R. Stat. Soc. B, 2006); put
in place of the Markov chains of "Psi-Sampler" (arXiv 2506.01320), whose law is approximate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import EXACT
from smcguide.starts.base import Begun, Fields, Noisiest, Start
from smcguide.weights import ess, inverse_cdf, log_mean_exp

_ESS = 0.5


@dataclass(frozen=True)
class TemperedStart(Start):
    """SMC over temperatures; M num_moves further network evaluations per particle.

    Arguments:
        move: applied at each temperature, e.g. PCN(0.5) or PCNL(0.5).
        temperatures: M, for l_j = j / M, or l_1 < ... < l_M = 1 themselves.

    Raises:
        InvalidInput: for temperatures that do not increase from above 0 to 1; for what is not a move.
    """

    temperatures: int | Sequence[float] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        path = self._path()
        if len(path) < 2 or path[-1] != 1 or not all(low < high for low, high in pairwise(path)):
            raise InvalidInput(
                "TemperedStart: temperatures must be a number of at least 1, or increase from above 0 "
                f"to 1, e.g. (0.1, 0.4, 1.0); got {self.temperatures!r}."
            )

    @property
    def exactness(self) -> str:
        return str(getattr(self.move, "exactness", EXACT))

    def begin(self, x: Tensor, fields: Fields, at: Noisiest, generator: Generator) -> Begun:
        S, N = x.shape[:2]
        own = torch.arange(N, device=x.device).expand(S, N)
        log_w, path = torch.zeros_like(fields["log_psi"]), self._path()
        log_z, rate = log_w[:, 0], log_w
        here: Fields = {**fields, "x": x, "eve": own}
        for low, high in pairwise(path):
            log_w = log_w + (high - low) * here["log_psi"]
            fires = ess(log_w) < _ESS * N
            u = torch.rand((S, 1), generator=generator, dtype=torch.float64, device=x.device)
            chosen = inverse_cdf(log_w, (own + u) / N)
            log_z = log_z + torch.where(fires, log_mean_exp(log_w), 0.0)
            log_w = log_w.masked_fill(fires[:, None], 0.0)
            here = dict(at.take(here, torch.where(fires[:, None], chosen, own)))
            x, eve = here.pop("x"), here.pop("eve")
            x, moved, accepted = at.move(self.move, x, here, high, generator)
            here = {**moved, "x": x, "eve": eve}
            rate = rate + accepted / (len(path) - 1)
        out = dict(here)
        return Begun(out.pop("x"), out, log_w + log_z[:, None], out.pop("eve"), rate)

    def _path(self) -> list[float]:
        if isinstance(self.temperatures, int):
            M = self.temperatures
            return [j / M for j in range(M + 1)] if M > 0 else []
        return [0.0, *map(float, self.temperatures)]
