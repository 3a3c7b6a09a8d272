r"""Does this prior say what its schedule promises about these data?

For data x_0 noised to x_t, no function of x_t is closer to x_0 on average than E[x_0 | x_t]. So a right
denoiser is beaten neither by trivial ones (x_t / alpha at low noise, the data's mean at high noise), nor
by itself told another level, nor by itself on data in another range. `check_prior` tries each on the
same noise, datum by datum, and reports what beats the prior by a clear factor and beyond doubt.
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
_FEWEST = 16  # examples
_DOUBT = 5.0  # standard errors


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
        rows = ["     noise     error   trivial"]
        columns = zip(self.noise.tolist(), self.error.tolist(), self.trivial.tolist(), strict=True)
        rows += [f"{n:10.4g}{e:10.4g}{t:10.4g}" for n, e, t in columns]
        return "\n".join([*rows, *(self.findings or ("no problem found",))])


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
            f"check_prior: data of shape {tuple(data.shape)} must be at least {_FEWEST} finite, not "
            f"all equal examples of events {tuple(prior.event_shape)}."
        )
    generator = torch.Generator(x0.device).manual_seed(seed)
    z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    trial, std = _Trial(prior, x0, z), float(x0.double().var(0).mean().sqrt())
    low, high = (math.log(trial.level(factor * std).ratio) for factor in (0.02, 20.0))
    noise = torch.linspace(low, high, num_levels, dtype=torch.float64).exp()
    levels = [trial.level(r) for r in noise.tolist()]
    errors = [trial.error(t) for t in levels]
    spread = _square(x0 - x0.mean(0)) * len(x0) / (len(x0) - 1)
    trivial = [min(t.ratio**2 * _square(z), spread, key=torch.mean) for t in levels]
    worse = _worse(errors, trivial)
    findings = _range(trial, levels[num_levels // 2], trivial[num_levels // 2])
    if worse and not findings:
        findings = _prediction(trial, levels, trivial)
    findings = findings or _schedule(trial, levels, errors)
    if worse and not findings:
        findings = [
            f"At noise {', '.join(f'{noise[i]:.3g}' for i in worse)} the denoiser is worse than a "
            "trivial one: a wrong prediction type or schedule, a network that was not trained at these "
            "levels, or other data than it was trained on."
        ]
    error, best = (torch.stack([e.mean() for e in rows]).cpu() for rows in (errors, trivial))
    return PriorReport(noise, error, best, tuple(findings))


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
        x, time = t.alpha * self.x0 + t.sigma * self.z, (told or t).time
        return _square(torch.cat([self.prior.denoise(c, time) for c in x.split(256)]) - self.x0)


def _square(a: Tensor) -> Tensor:
    """Mean square per coordinate of each datum, (n,)."""
    return a.double().square().flatten(1).mean(1)


def _beaten(error: Tensor, other: Tensor, factor: float) -> bool:
    """Whether `other` is below `factor` times `error` on average, beyond doubt."""
    gain = factor * error.nan_to_num(math.inf) - other
    sure = gain.mean() > _DOUBT * gain.std() / len(gain) ** 0.5
    return bool(sure) or not bool(torch.isfinite(error).all())


def _worse(errors: list[Tensor], trivial: list[Tensor]) -> list[int]:
    """The levels at which a trivial denoiser is better."""
    return [i for i, (e, t) in enumerate(zip(errors, trivial, strict=True)) if _beaten(e, t, 0.8)]


def _range(trial: _Trial, t: Level, trivial: Tensor) -> list[str]:
    """Are the data denoised much better in another range, at noise of the same relative size?"""
    low, high = float(trial.x0.min()), float(trial.x0.max())
    best, found = trial.error(t), []
    for label, (bottom, top, scale, shift) in _RANGES.items():
        slack = 0.05 * (top - bottom)
        if bottom - slack <= low and bottom + 2 * slack < high < top + slack:
            moved = replace(trial, x0=scale * trial.x0 + shift)
            error = moved.error(moved.level(scale * t.ratio)) / scale**2
            if _beaten(best, error, 0.5) and _beaten(trivial, error, 0.9):
                best, found = error, [
                    f"The data lie in [{low:.3g}, {high:.3g}], but the denoiser works much better on "
                    f"{label}: rescale the data (and the measurement) to the prior's range."
                ]  # fmt: skip
    return found


def _prediction(trial: _Trial, levels: list[Level], trivial: list[Tensor]) -> list[str]:
    """Is the network's output, read in another way, nowhere worse than trivial?"""
    for kind in _KINDS if isinstance(trial.prior, NetworkPrior) else ():
        other: Any = copy.copy(trial.prior)
        own, other.prediction = other.prediction, kind
        read = replace(trial, prior=other)
        if not _worse([read.error(t) for t in levels], trivial):
            return [f"The network works as prediction={kind!r}, not {own!r}: build the prior so."]
    return []


def _schedule(trial: _Trial, levels: list[Level], errors: list[Tensor]) -> list[str]:
    """Is the network mostly better when told half or twice the noise that the data really have?"""
    off = []
    for t, error in zip(levels, errors, strict=True):
        for told in (trial.level(t.ratio / 2), trial.level(2 * t.ratio)):
            if told != t and _beaten(error, trial.error(t, told), 0.8):
                off.append(f"{t.ratio:.3g} (better told {told.ratio:.3g})")
    if len(off) < len(levels) / 2:
        return []
    return [
        f"The schedule does not fit the network: data at noise {', '.join(off)} are denoised better when "
        "another level is named. Check the schedule, the time input and the prediction type."
    ]
