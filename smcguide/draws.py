"""Unguided draws from a prior's own chain, and the moments estimated from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smcguide.kernels.base import Kernel
from smcguide.priors.base import Prior
from smcguide.records import Level, Moments

_NUM_DRAWS, _NUM_STEPS, _LARGEST_FULL = 512, 32, 1024


@torch.no_grad()
def draw(
    prior: Prior,
    kernel: Kernel,
    levels: Sequence[Level],
    num: int,
    generator: torch.Generator,
    chunk_size: int = 256,
) -> Tensor:
    """(num, *E) draws from the prior by its reverse chain through `levels`.

    Arguments:
        prior, kernel: the chain.
        levels: decreasing noise levels ending at data.
        num: number of draws.
        generator: on the prior's device.
        chunk_size: largest batch in the network.
    """
    x = prior.initial(num, levels[0], generator)[None]
    memory = None
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        x0_hat = torch.cat([prior.denoise(c, t.time) for c in x[0].split(chunk_size)])[None]
        base = kernel.step(x, x0_hat, t, s, memory)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x, memory = base.sample(z), base.memory
    return x[0]


def estimate_moments(prior: Prior, kernel: Kernel, levels: Sequence[Level]) -> Moments:
    """Mean and covariance of the prior from 512 draws of a chain of about 32 steps, kept by the prior.

    The covariance is full up to 1024 dimensions, shrunk towards its diagonal by d / (n + d), and
    diagonal beyond.
    """
    generator = torch.Generator(prior.device).manual_seed(0)
    stride = max(1, (len(levels) - 1) // _NUM_STEPS)
    coarse = [*levels[:-2:stride], *levels[-2:]]
    x = draw(prior, kernel, coarse, _NUM_DRAWS, generator).flatten(1).double()
    n, d = x.shape
    mean, variance = x.mean(0), x.var(0)
    if d > _LARGEST_FULL:
        moments = Moments(mean, variance)
    else:
        shrink = d / (n + d)
        covariance = (1 - shrink) * torch.cov(x.T).reshape(d, d) + shrink * torch.diag(variance)
        v, U = torch.linalg.eigh(covariance)
        moments = Moments(mean, v.clamp(min=0), U)
    prior.remember(moments)
    return moments
