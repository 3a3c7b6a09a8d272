r"""SSP resampling: particle i gets floor(num W_i) or ceil(num W_i) copies, by Srinivasan's process.

Let p_i = num W_i - floor(num W_i). Along the line of particles one plays with the next for their common
mass, and the one who is not settled at 0 or 1 plays on (Gerber, Chopin, Whiteley): N games, one after
the other. Chauvet's theorem has the same law without games. Put the p_i side by side on a line of whole
length M, with ends c_i = p_0 + ... + p_i, and cut it into strata [k, k + 1). Each stratum has one point,
whose particle gets a copy. A particle may lie across a cut; let b_k be where in stratum k the one across
its lower cut ends, and e_k where the one across its upper cut begins. The point is at

    0                       with probability b_k / e_{k-1}, if the point of stratum k - 1 is below e_{k-1}
    b_k + (1 - b_k) v       else, v uniform

so that it has a uniform law and no particle gets two. Stratum k passes on whether its point is above e_k.
Given its random numbers that is yes, no, or what stratum k - 1 passed on; so the last stratum so far
that says yes or no decides: a running maximum of indices, no loop.

Copies are negatively associated, hence never noisier than multinomial ones, which is more than systematic
resampling promises.

References: Gerber, Chopin, Whiteley, "Negative association, ordering and convergence of resampling
methods" (arXiv 1708.02230); Srinivasan, "Distributions on level-sets with applications to approximation
algorithms" (2001); Chauvet, "On a characterization of ordered pivotal sampling" (Bernoulli, 2012).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smcguide.randomness import uniforms
from smcguide.resamplers.base import Resampler, whole_copies
from smcguide.weights import accumulated_, counted


@dataclass(frozen=True)
class SSP(Resampler):
    """Floor or ceiling of num W_i, negatively associated."""

    def __call__(self, log_w: Tensor, generator: Generator, num: int | None = None) -> Tensor:
        num = log_w.shape[1] if num is None else num
        copies, fractions, mass = whole_copies(log_w, num)
        drawn = _points_below(accumulated_(fractions, mass), generator)
        return counted(copies.cumsum_(-1).add_(drawn), num)


def _points_below(ends: Tensor, generator: Generator) -> Tensor:
    """How many points lie below the ends c_i, (S, N) whole numbers."""
    stratum = ends.floor()
    at, k = ends.sub_(stratum), stratum.long()  # `at` is where in its stratum
    last = counted(k, k.shape[1]).sub_(1)  # end in stratum k or before
    upper = at.gather(1, last.clamp(min=0))
    lower = at.gather(1, last.roll(1, 1).add_(1).clamp_(max=k.shape[1] - 1))
    lower[:, 0].zero_()  # nobody lies across the beginning
    before = upper.roll(1, 1)
    u, v = (uniforms(tuple(k.shape), generator) for _ in range(2))
    point = v.mul_(1 - lower).add_(lower)
    again = u.mul_(before) < lower  # the particle across the lower cut, unless it has its copy
    above = point >= upper
    says = torch.arange(1, k.shape[1] + 1, device=k.device).mul(2).add(above)
    passed = says.mul_(~(again & above)).cummax(1).values.roll(1, 1).remainder_(2)
    passed[:, 0].zero_()
    point.mul_(~again | passed.bool())
    return stratum.add_(point.gather(1, k.clamp_(max=k.shape[1] - 1)) < at)
