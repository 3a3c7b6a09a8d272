r"""Evidence and mean under a chain on the line, by quadrature instead of particles.

For one coordinate the values psi*_t(x) = E[exp(-C(x_0)) | x_t = x] are integrals over a grid of states,

    psi*_t(x) = sum_j h N(u_j; m(x), c^2) psi*_s(u_j),

started at the last step, which has no noise, and ended by the law of x_T. The trapezoidal rule is exact
to rounding once the grid is finer than every c; any prior, cost and kernel without memory will do.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.kernels.base import Kernel
from smcguide.priors.mixture import GaussianMixture
from smcguide.records import Level


@torch.no_grad()
def line_answer(
    prior: GaussianMixture,
    kernel: Kernel,
    levels: Sequence[Level],
    cost: TerminalCost,
    *,
    half_width: float = 8.0,
    cells: int = 2000,
) -> tuple[float, Tensor]:
    """log Z and the posterior's first two moments (2,) of x_0 under the chain.

    Arguments:
        prior: of events of shape (1,).
        kernel, levels: the chain; its last step must have no noise.
        cost: called on (1, M, 1).
        half_width, cells: the grid of states.
    """
    u = torch.linspace(-half_width, half_width, cells + 1, dtype=torch.float64)
    h = float(u[1] - u[0])
    values = torch.empty(0)
    for t, s in reversed(list(pairwise(levels))):
        x = u[None, :, None]
        base = kernel.step(x, prior.denoise(x[0], t.time)[None], t, s, None)
        m = base.mean[0, :, 0]
        if s.sigma == 0:
            tilt = torch.exp(-cost(base.mean)[0].double())
            values = torch.stack([tilt, tilt * m, tilt * m**2], -1)
            continue
        law = torch.distributions.Normal(m[:, None], torch.as_tensor(base.std).double())
        values = h * law.log_prob(u).exp() @ values
    p = prior.log_prob(u[:, None], levels[0].time).exp()
    Z, first, second = h * (p @ values)
    return float(Z.log()), torch.stack([first, second]) / Z
