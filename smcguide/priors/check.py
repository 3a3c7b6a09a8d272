r"""Does this prior say what its schedule promises about these data?

For data x_0 noised to x_t, a denoiser worth the name beats two trivial ones: the identity x_t / alpha
(error lam^2) at low noise, and the data's mean (error Var x_0) at high noise. It does so at the level
it is told, and on data in the range it was trained on. `check_prior` measures each and says what is
wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior
from smcguide.records import Level

_RANGES = {
    "2 x - 1 (data in [0, 1], prior in [-1, 1])": lambda x: 2 * x - 1,
    "(x + 1) / 2 (data in [-1, 1], prior in [0, 1])": lambda x: (x + 1) / 2,
    "x / 127.5 - 1 (data in [0, 255], prior in [-1, 1])": lambda x: x / 127.5 - 1,
    "x / 255 (data in [0, 255], prior in [0, 1])": lambda x: x / 255,
}


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
        data: (n, *E) examples of what it models, n >= 16 or so.
        num_levels: noise levels between lam = 0.02 and 20 standard deviations of the data.
        seed: of the noise.

    Raises:
        InvalidInput: for data of another event shape, or with NaN.
    """
    if tuple(data.shape[1:]) != tuple(prior.event_shape) or not bool(torch.isfinite(data).all()):
        raise InvalidInput(
            f"check_prior: data of shape {tuple(data.shape)} must be finite examples of events "
            f"{tuple(prior.event_shape)}."
        )
    x0 = data.to(prior.device, prior.dtype)
    spread = float(x0.double().var(0).mean())
    levels = _levels(prior, spread**0.5, num_levels)
    z = torch.randn(
        x0.shape, generator=torch.Generator(x0.device).manual_seed(seed),
        dtype=x0.dtype, device=x0.device,
    )  # fmt: skip
    error = torch.tensor([_error(prior, x0, z, t, t.time) for t in levels])
    noise = torch.tensor([t.ratio for t in levels])
    trivial = (noise**2).clamp(max=spread)
    findings = _range(prior, x0, z, levels, error) or _schedule(prior, x0, z, levels, error)
    worse = error > 1.2 * trivial
    if not findings and bool(worse.any()):
        at = ", ".join(f"{n:.3g}" for n in noise[worse])
        findings = [
            f"At noise {at} the denoiser is worse than a trivial one: a wrong prediction type, a network "
            "that was not trained at these levels, or other data than it was trained on."
        ]
    return PriorReport(noise, error, trivial, tuple(findings))


def _levels(prior: Prior, std: float, num: int) -> list[Level]:
    s = prior.schedule
    ends = [max(0.02 * std, s.level(s.t_min).ratio), min(20 * std, s.level(s.t_max).ratio)]
    ratios = torch.logspace(*torch.tensor(ends).log10().tolist(), num, dtype=torch.float64)
    return [s.level(float(s.time(-2 * r.log()))) for r in ratios]


def _error(prior: Prior, x0: Tensor, z: Tensor, t: Level, told: float) -> float:
    D = prior.denoise(t.alpha * x0 + t.sigma * z, told)
    return float((D - x0).double().square().mean())


def _range(
    prior: Prior, x0: Tensor, z: Tensor, levels: list[Level], error: Tensor
) -> list[str]:
    """Would the data be denoised much better in another range?"""
    middle = len(levels) // 2
    t, scale = levels[middle], float(x0.double().var(0).mean())
    best, name = float(error[middle]) / scale, ""
    for label, change in _RANGES.items():
        moved = change(x0)
        relative = _error(prior, moved, z, t, t.time) / float(moved.double().var(0).mean())
        if relative < 0.5 * best:
            best, name = relative, label
    if not name:
        return []
    low, high = float(x0.min()), float(x0.max())
    return [
        f"The data lie in [{low:.3g}, {high:.3g}], but the denoiser works much better on {name}: "
        "rescale the data (and the measurement) to the prior's range."
    ]


def _schedule(
    prior: Prior, x0: Tensor, z: Tensor, levels: list[Level], error: Tensor
) -> list[str]:
    """Does the network denoise best when told the level the data really have?"""
    off = []
    for i, t in enumerate(levels[1:-1], 1):
        told = torch.tensor([_error(prior, x0, z, t, levels[j].time) for j in (i - 1, i + 1)])
        if float(told.min()) < 0.8 * float(error[i]):
            off.append(f"{t.ratio:.3g} (better told {levels[i + 2 * int(told.argmin()) - 1].ratio:.3g})")
    if not off:
        return []
    return [
        "The schedule does not fit the network: data at noise "
        + ", ".join(off)
        + " are denoised better when another level is named. Check the schedule, the time input and "
        "the prediction type."
    ]
