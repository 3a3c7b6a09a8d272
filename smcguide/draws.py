"""Unguided draws from a prior's own chain, and the rehearsal made of them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from smcguide.grids import karras
from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDPM
from smcguide.priors.base import Prior
from smcguide.records import Level
from smcguide.rehearsal import LOWEST, Moments, Rehearsal

_NUM_DRAWS, _NUM_STEPS = 256, 32
_LARGEST_FULL = 1024  # dimensions with a full covariance
_LARGEST_BANK = 2**25  # numbers kept


@torch.no_grad()
def draw(
    prior: Prior,
    kernel: Kernel,
    levels: Sequence[Level],
    num: int,
    generator: torch.Generator,
    chunk_size: int = 512,
) -> Tensor:
    """(num, *E) draws from the prior by its reverse chain through `levels`.

    Arguments:
        prior, kernel: the chain.
        levels: decreasing noise levels ending at data.
        num: number of draws.
        generator: on the prior's device.
        chunk_size: largest batch in the network.
    """
    x, memory = prior.initial(num, levels[0], generator)[None], None
    for t, s in pairwise(levels):
        base = kernel.step(x, _denoise(prior, x[0], t, chunk_size)[None], t, s, memory)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x, memory = base.sample(z), base.memory
    return x[0]


@torch.no_grad()
def rehearse(prior: Prior, chunk_size: int = 512) -> Rehearsal:
    """A rehearsal of the prior, always the same for the same prior, which keeps it for the next run.

    256 draws (fewer in very high dimension): exact where the prior can make them, else by 32 DDPM steps
    on a Karras grid; then one denoising of each draw at every other level of that grid.

    Arguments:
        prior: any prior.
        chunk_size: largest batch in the network.
    """
    if prior.rehearsal is not None:
        return prior.rehearsal
    levels = [prior.schedule.level(float(t)) for t in karras(_NUM_STEPS)(prior.schedule)]
    generator = torch.Generator(prior.device).manual_seed(0)
    bank = [*levels[:-2:2], levels[-2]]
    size = max(1, torch.Size(prior.event_shape).numel())
    num = max(8, min(_NUM_DRAWS, _LARGEST_BANK // (size * len(bank))))
    x0, evaluations = prior.exact_draws(num, generator), 0
    if x0 is None:
        x0 = draw(prior, DDPM(), levels, num, generator, chunk_size)
        evaluations = num * _NUM_STEPS
    x0_hat = []
    for t in bank:
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x0_hat.append(_denoise(prior, t.alpha * x0 + t.sigma * z, t, chunk_size))
    log_snr = prior.schedule.log_snr(torch.tensor([t.time for t in bank], dtype=torch.float64))
    prior.rehearsal = Rehearsal(
        prior.moments() or _estimate(x0),
        x0,
        log_snr.clamp(min=LOWEST),
        torch.stack(x0_hat),
        evaluations + num * len(bank),
    )
    return prior.rehearsal


def _denoise(prior: Prior, x: Tensor, t: Level, chunk_size: int) -> Tensor:
    return torch.cat([prior.denoise(c, t.time) for c in x.split(chunk_size)])


def _estimate(x0: Tensor) -> Moments:
    """Mean and covariance of draws (n, *E), shrunk towards the diagonal by d / (n + d); diagonal
    beyond 1024 dimensions."""
    x = x0.flatten(1).double()
    n, d = x.shape
    mean, variance = x.mean(0), x.var(0)
    if d > _LARGEST_FULL:
        return Moments(mean, variance)
    shrink = d / (n + d)
    covariance = (1 - shrink) * torch.cov(x.T).reshape(d, d) + shrink * torch.diag(variance)
    v, U = torch.linalg.eigh(covariance)
    return Moments(mean, v.clamp(min=0), U)
