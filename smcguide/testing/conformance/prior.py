"""What is promised of a prior."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from smcguide.draws import draw
from smcguide.errors import InvalidInput
from smcguide.grids import karras
from smcguide.kernels.ddim import DDIM
from smcguide.priors.base import Prior
from smcguide.records import Level
from smcguide.testing.conformance.base import Suite, assert_same, normal, rounding
from smcguide.testing.statistics import generator


def noise_levels(prior: Prior, num_steps: int = 4) -> list[Level]:
    """Levels of a Karras grid of the prior's schedule, from noise to data."""
    return [prior.schedule.level(float(t)) for t in karras(num_steps)(prior.schedule)]


class PriorSuite(Suite):
    """Write `instances`, returning one or two priors.

    Attributes:
        low_noise: largest root-mean-square of D(x) - x / alpha at the schedule's t_min, in units
            of sigma / alpha. For an exact denoiser it is at most 2.
        high_noise: largest spread of D(x) over draws x of pure noise, in units of the data's.
    """

    low_noise = 2.2
    high_noise = 0.1

    def instances(self) -> Sequence[Prior]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two priors.")

    def priors(self, device: torch.device, dtype: torch.dtype) -> list[Prior]:
        return [prior.to(device, dtype) for prior in self.instances()]

    @pytest.mark.parametrize("particles", [torch.float32, torch.float64], ids=str)
    def test_denoiser_keeps_shape_dtype_and_device(
        self, device: torch.device, particles: torch.dtype
    ) -> None:
        for prior in self.priors(device, particles):
            for t in noise_levels(prior)[:-1]:
                x = t.sigma * normal((5, *prior.event_shape), generator("x", device), particles)
                D = prior.denoise(x, t.time)
                assert D.shape == x.shape, f"{prior!r}: {tuple(x.shape)} to {tuple(D.shape)}"
                assert (D.dtype, D.device) == (x.dtype, x.device), f"{prior!r} changes {x.dtype}"
                assert bool(torch.isfinite(D).all()), f"{prior!r} is not finite at {t}"

    def test_initial_draws_are_events_and_follow_the_generator(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for prior in self.priors(device, dtype):
            t = noise_levels(prior)[0]
            x, again, other = (prior.initial(7, t, generator(n, device)) for n in ("a", "a", "b"))
            assert x.shape == (7, *prior.event_shape)
            assert (x.dtype, x.device.type) == (dtype, device.type)
            assert torch.equal(x, again), f"{prior!r}: draws do not follow the generator"
            assert not torch.equal(x, other), f"{prior!r}: draws ignore the generator"

    def test_to_is_a_copy(self, device: torch.device) -> None:
        for prior in self.priors(device, torch.float64):
            moved = prior.to(dtype=torch.float32)
            assert (moved.dtype, prior.dtype) == (torch.float32, torch.float64)
            assert moved.event_shape == prior.event_shape

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_particles_are_refused(self, half: torch.dtype) -> None:
        for prior in self.instances():
            with pytest.raises(InvalidInput, match=r"half-precision network is fine"):
                prior.to(dtype=half)

    def test_row_depends_on_its_own_row_only(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for prior in self.priors(device, dtype):
            for t in noise_levels(prior)[:-1]:
                x = t.sigma * normal((4, *prior.event_shape), generator("rows", device), dtype)
                D, others = prior.denoise(x, t.time), x.clone()
                others[1:] = x[1:].flip(0) * 0.5
                changed = prior.denoise(others, t.time)[0]
                alone = prior.denoise(x[:1], t.time)[0]
                assert_same(changed, D[0], rounding(dtype), f"{prior!r}, other rows changed")
                assert_same(alone, D[0], rounding(dtype), f"{prior!r}, row alone")

    def test_gradient_of_the_denoiser_is_finite(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for prior in self.priors(device, dtype):
            t = noise_levels(prior)[2]
            x = normal((3, *prior.event_shape), generator("gradient", device), dtype)
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(prior.denoise(x, t.time).square().sum(), x)
            assert bool(torch.isfinite(gradient).all()), f"{prior!r}: gradient is not finite"
            assert float(gradient.abs().max()) > 0, f"{prior!r}: gradient does not reach x"

    @torch.no_grad()
    def test_denoiser_tends_to_the_identity_at_low_noise(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for prior in self.priors(device, dtype):
            x0, t = self._events(prior), noise_levels(prior)[-2]
            x = t.alpha * x0 + t.sigma * normal(x0.shape, generator("low", device), dtype)
            gap = _rms(prior.denoise(x, t.time) - x / t.alpha)
            assert gap <= self.low_noise * t.ratio, f"{prior!r}: |D(x) - x / alpha| = {gap:.3g}"

    @torch.no_grad()
    def test_denoiser_tends_to_a_constant_at_high_noise(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for prior in self.priors(device, dtype):
            x0, T = self._events(prior), noise_levels(prior)[0]
            D = prior.denoise(prior.initial(256, T, generator("high", device)), T.time)
            spread, scale = _rms(D - D.mean(0)), _rms(x0 - x0.mean(0))
            assert spread <= self.high_noise * scale, f"{prior!r}: {spread:.3g} of {scale:.3g}"

    def _events(self, prior: Prior) -> Tensor:
        source = generator("events", prior.device)
        return draw(prior, DDIM(1.0), noise_levels(prior, 16), 64, source)


def _rms(a: Tensor) -> float:
    return float(a.double().square().mean().sqrt())
