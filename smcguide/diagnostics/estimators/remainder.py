"""What control variates leave of integrands, at the particles of one or several targets.

The targets are fitted together, each particle with the score of its own target, in coordinates centred
and scaled by all of them; integrands are centred and scaled for each target by itself. Control variates,
their units too, come from the half of the families that a particle is not in.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.diagnostics.estimators.ridge import Rows, fit
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior

TINY = 1e-12  # variance of an integrand, relative to its square, that is rounding
_MOST = 1000  # particles in one fit: the cost grows with the cube


def remainders(
    posteriors: Sequence[Posterior], values: Sequence[Tensor], scores: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """Values (S, N, T) of each target less their control variates.

    Arguments:
        posteriors: one per target, of independent runs; neighbours are alike.
        values: (S, N, T) float64 integrands, one tensor per target.
        scores: (S, N, *E) grad log of each target at its particles.
        seed: of the choice of particles for the fit where a half has more than 1000.

    Raises:
        InvalidInput: for values or scores that are not finite where there is weight, fewer than two
            families with weight in a system.
    """
    generator = torch.Generator(values[0].device).manual_seed(seed)
    out = [v.clone() for v in values]
    for i in range(len(values[0])):
        parts = [
            _rows(p, i, v[i], s[i], task)
            for task, (p, v, s) in enumerate(zip(posteriors, values, scores, strict=True))
        ]
        rows = Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))
        taken = _taken(rows, generator)
        for task, (p, v) in enumerate(zip(posteriors, out, strict=True)):
            v[i, weights.normalise(p.log_w[i]) > 0] -= taken[rows.task == task]
    return out


def _rows(
    posterior: Posterior, i: int, values: Tensor, score: Tensor, task: int
) -> tuple[Tensor, ...]:
    """Particles with weight of one system, in the order of `Rows`."""
    W = weights.normalise(posterior.log_w[i])
    alive = W > 0
    place, slope = (a.reshape(len(a), -1).double()[alive] for a in (posterior.x[i], score))
    own, family = values[alive], posterior.eves[i, alive].unique(return_inverse=True)[1]
    if not bool(slope.isfinite().all() and own.isfinite().all()):
        raise InvalidInput(
            "control_variates: scores and values must be finite where there is weight."
        )
    if int(family.max()) < 1:
        raise InvalidInput(
            "control_variates: all particles with weight are one family; take more particles or resample "
            "less often."
        )
    return place, slope, own, W[alive], family, torch.full_like(family, task)


def _taken(rows: Rows, generator: Generator) -> Tensor:
    """Control variates (M, T) of one system in the units of the integrands.

    All that is learned comes from the other half, units too: they would correlate with what they scale.
    """
    out = torch.zeros_like(rows.f)
    for half in (0, 1):
        inside = rows.family % 2 == half
        index = inside.nonzero()[:, 0]
        if len(index) > _MOST:
            order = torch.rand(len(index), generator=generator, device=out.device).argsort()
            index = index[order[:_MOST]]
        here, there, scale, B = _standard(rows[index], rows[~inside])
        out[~inside] = fit(here, there, B) * scale[there.task]
    return out


def _standard(here: Rows, there: Rows) -> tuple[Rows, Rows, Tensor, Tensor]:
    """Both in the units of `here`, scales of the integrands (targets, T), and B."""
    num = int(max(here.task.max(), there.task.max())) + 1
    share = torch.zeros(num, len(here.W)).to(here.W)
    share[here.task, torch.arange(len(here.W))] = here.W
    total = share.sum(1, keepdim=True)
    share = share / torch.where(total > 0, total, 1.0)
    W = here.W[:, None] / here.W.sum()
    centre = (W * here.x).sum(0)
    spread = (W * (here.x - centre).square()).sum(0).sqrt().clamp(min=1e-12)
    mean = share @ here.f
    gap = here.f - mean[here.task]
    variance = share @ gap.square()
    scale = torch.where(variance > TINY * mean.square(), variance, 0.0).sqrt()
    size = scale[here.task]
    unit = torch.where(size > 0, gap / size, 0.0)

    def moved(rows: Rows, f: Tensor) -> Rows:
        return replace(rows, x=(rows.x - centre) / spread, s=rows.s * spread, f=f)

    return moved(here, unit), moved(there, there.f), scale, unit.T @ (W * unit)
