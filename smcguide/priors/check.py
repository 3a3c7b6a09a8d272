r"""Does this prior say what its schedule promises about these data?

For data x_0 noised to x_t, no function of x_t is closer to x_0 on average than E[x_0 | x_t]. So a right
denoiser is beaten neither by trivial ones (x_t / alpha at low noise, the data's mean at high noise), nor
by itself told another level, nor by itself on data in another range. `check_prior` tries each on the
same noise, datum by datum, and reports what is better by a clear factor and beyond doubt.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior
from smcguide.priors.network import NetworkPrior, Prediction
from smcguide.records import Level

_RANGES = {  # the remedy: lowest and highest of such data, scale, shift
    "2 x - 1 (data in [0, 1], prior in [-1, 1])": (0, 1, 2.0, -1.0),
    "(x + 1) / 2 (data in [-1, 1], prior in [0, 1])": (-1, 1, 0.5, 0.5),
    "x / 127.5 - 1 (data in [0, 255], prior in [-1, 1])": (0, 255, 1 / 127.5, -1.0),
    "x / 255 (data in [0, 255], prior in [0, 1])": (0, 255, 1 / 255, 0.0),
}
_KINDS: tuple[Prediction, ...] = ("epsilon", "sample", "v", "score")
_FEWEST, _DOUBT = 16, 5.0  # examples; standard errors


@dataclass(frozen=True, eq=False)
class PriorReport:
    """What `check_prior` measured.

    Attributes:
        noise: (L,) noise levels lam = sigma / alpha.
        error: (L,) mean squared error of D per coordinate.
        trivial: (L,) the smaller error of the two trivial denoisers.
        findings: what is wrong, in words; empty if nothing was found.
    """

    noise: Tensor
    error: Tensor
    trivial: Tensor
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        table = torch.stack([self.noise, self.error, self.trivial], 1).tolist()
        rows = ["".join(f"{number:10.4g}" for number in row) for row in table]
        notes = self.findings or ("no problem found",)
        return "\n".join(["     noise     error   trivial", *rows, *notes])


@torch.no_grad()
def check_prior(prior: Prior, data: Tensor, *, num_levels: int = 8, seed: int = 0) -> PriorReport:
    """Measure a prior's denoiser against its schedule and the data's range.

    Arguments:
        prior: any prior.
        data: (n, *E) examples of what it models, n >= 16; best a few hundred it has not seen.
        num_levels: noise levels between lam = 0.02 and 20 standard deviations of the data.
        seed: of the noise.

    Raises:
        InvalidInput: for data of another event shape, with NaN, constant, or too few.
    """
    x0 = data.to(prior.device, prior.dtype)
    usable = len(x0) >= _FEWEST and bool(torch.isfinite(x0).all()) and bool((x0 != x0[0]).any())
    if tuple(data.shape[1:]) != tuple(prior.event_shape) or not usable:
        raise InvalidInput(
            f"check_prior: data of shape {tuple(data.shape)} must be finite examples of events "
            f"{tuple(prior.event_shape)}, at least {_FEWEST} and not all equal."
        )
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    trial, std = _Trial(prior, x0, z), float(x0.double().var(0).mean().sqrt())
    low, high = (math.log(trial.level(factor * std).ratio) for factor in (0.02, 20.0))
    noise = torch.linspace(low, high, num_levels, dtype=torch.float64).exp()
    levels = [trial.level(r) for r in noise.tolist()]
    error = torch.stack([trial.error(t) for t in levels])
    spread = _square(x0 - x0.mean(0)) * len(x0) / (len(x0) - 1)
    trivial = torch.stack([min(t.ratio**2 * _square(z), spread, key=torch.mean) for t in levels])
    worse = _beaten(error, trivial, 0.8).cpu()
    findings = _range(trial, std, spread)
    if bool(worse.any()):
        findings = findings or _prediction(trial, levels, trivial)
    findings = findings or _schedule(trial, levels, error)
    if bool(worse.any()) and not findings:
        findings = [
            f"At noise {', '.join(f'{r:.3g}' for r in noise[worse])} a trivial denoiser is better: a "
            "wrong prediction type or schedule, or other noise or data than the network was trained on."
        ]
    return PriorReport(noise, error.mean(1).cpu(), trivial.mean(1).cpu(), tuple(findings))


@dataclass(frozen=True)
class _Trial:
    """A prior, data and one draw of noise."""

    prior: Prior
    x0: Tensor
    z: Tensor

    def level(self, ratio: float) -> Level:
        """The level of noise lam = `ratio`, or the nearest that the schedule has."""
        s = self.prior.schedule
        return s.level(min(max(float(s.time(-2 * math.log(ratio))), s.t_min), s.t_max))

    def error(self, t: Level, told: Level | None = None) -> Tensor:
        """Squared error per coordinate (n,) at level t, when the prior is told another one."""
        x = (t.alpha * self.x0 + t.sigma * self.z).split(256)
        return _square(torch.cat([self.prior.denoise(c, (told or t).time) for c in x]) - self.x0)


def _square(a: Tensor) -> Tensor:
    """Mean square per coordinate of each datum, (n,)."""
    return a.double().square().flatten(1).mean(1)


def _beaten(error: Tensor, other: Tensor, factor: float) -> Tensor:
    """Whether `other` (..., n) is below `factor` times `error` on average, beyond doubt."""
    gain = factor * error - other
    sure = gain.mean(-1) > _DOUBT * gain.std(-1) / gain.shape[-1] ** 0.5
    return sure | ~torch.isfinite(error).all(-1)


def _range(trial: _Trial, std: float, spread: Tensor) -> list[str]:
    """Are the data denoised much better in another range, at noise of their own size?"""
    low, high = float(trial.x0.min()), float(trial.x0.max())
    best, found = trial.error(trial.level(std)), ""
    for label, (bottom, top, scale, shift) in _RANGES.items():
        if bottom <= low < high <= top:
            moved = replace(trial, x0=scale * trial.x0 + shift)
            error = moved.error(moved.level(scale * std)) / scale**2
            if _beaten(best, error, 0.5) and _beaten(spread, error, 0.9):
                best, found = error, label
    message = f"Data in [{low:.3g}, {high:.3g}] are denoised much worse than after {found}: "
    return [message + "rescale data and measurement to the prior's range."] if found else []


def _prediction(trial: _Trial, levels: list[Level], trivial: Tensor) -> list[str]:
    """Is the network's output, read in another way, nowhere worse than trivial?"""
    for kind in _KINDS if isinstance(trial.prior, NetworkPrior) else ():
        other: Any = copy.copy(trial.prior)
        own, other.prediction = other.prediction, kind
        error = torch.stack([replace(trial, prior=other).error(t) for t in levels])
        if not bool(_beaten(error, trivial, 0.8).any()):
            return [f"The network works as prediction={kind!r}, not {own!r}: build the prior so."]
    return []


def _schedule(trial: _Trial, levels: list[Level], errors: Tensor) -> list[str]:
    """Is the network mostly better when told half or twice the noise that the data really have?"""
    off = [
        f"{t.ratio:.3g} (better told {told.ratio:.3g})"
        for t, error in zip(levels, errors, strict=True)
        for told in (trial.level(t.ratio / 2), trial.level(2 * t.ratio))
        if told != t and _beaten(error, trial.error(t, told), 0.8)
    ]
    message = f"The schedule does not fit the network, see noise {', '.join(off)}. Check it, the "
    enough = len(off) >= len(levels) / 2
    return [message + "time input and the prediction type."] if enough else []
