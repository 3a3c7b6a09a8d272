"""Unguided draws from a prior's own chain, and the rehearsal made of them."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from smcguide.chunking import ChunkSize, check_chunk_size, in_chunks
from smcguide.grids import karras
from smcguide.kernels.base import Kernel
from smcguide.kernels.ddim import DDPM
from smcguide.priors.base import Prior
from smcguide.randomness import normals
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
    chunk_size: ChunkSize = 512,
) -> Tensor:
    """(num, *E) draws from the prior by its reverse chain through `levels`.

    Arguments:
        prior, kernel: the chain.
        levels: decreasing noise levels ending at data.
        num: number of draws.
        generator: on the prior's device.
        chunk_size: largest batch in the network, None for all at once, "auto" for what fits in memory.

    Raises:
        InvalidInput: for another chunk_size.
    """
    owner = _owner(prior, chunk_size)
    x, memory = prior.initial(num, levels[0], generator)[None], None
    for t, s in pairwise(levels):
        base = kernel.step(x, _denoise(owner, x[0], t)[None], t, s, memory)
        z = normals(tuple(x.shape), generator, x.dtype)
        x, memory = base.sample(z), base.memory
    return x[0]


@torch.no_grad()
def rehearse(prior: Prior, chunk_size: ChunkSize = 512) -> Rehearsal:
    """A rehearsal of the prior, always the same for the same prior, which keeps it for the next run.

    256 draws (fewer in very high dimension): exact where the prior can make them, else by 32 DDPM steps
    on a Karras grid; then one denoising of each draw at every other level of that grid.

    Arguments:
        prior: any prior.
        chunk_size: as in `draw`.

    Raises:
        InvalidInput: for another chunk_size.
    """
    owner = _owner(prior, chunk_size)
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
        z = normals(tuple(x0.shape), generator, x0.dtype)
        x0_hat.append(_denoise(owner, t.alpha * x0 + t.sigma * z, t))
    log_snr = prior.schedule.log_snr(torch.tensor([t.time for t in bank], dtype=torch.float64))
    prior.rehearsal = Rehearsal(
        prior.moments() or _estimate(x0),
        x0,
        log_snr.clamp(min=LOWEST),
        torch.stack(x0_hat),
        evaluations + num * len(bank),
    )
    return prior.rehearsal


def _owner(prior: Prior, chunk_size: ChunkSize) -> Any:
    """A `chunking.Owner` of calls that nobody counts."""
    check_chunk_size(chunk_size)
    return SimpleNamespace(
        prior=prior, device=prior.device, chunk_size=chunk_size, chunk_sizes={},
        evaluations=Counter(),
    )  # fmt: skip


def _denoise(owner: Any, x: Tensor, t: Level) -> Tensor:
    def work(i: slice) -> dict[str, Tensor]:
        return {"x0_hat": owner.prior.denoise(x[i], t.time)[None]}

    return in_chunks(owner, "denoising", (1, len(x)), work)["x0_hat"][0]


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
