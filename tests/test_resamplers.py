"""Resamplers: the conformance suite, what each scheme adds to it, and what the suite catches."""

from dataclasses import dataclass

import pytest
import torch

import smcguide as sg
from smcguide.resamplers import Multinomial, Resampler, Stratified, Systematic
from smcguide.testing import ResamplerSuite, generator, mean_counts_test

F64 = torch.float64


class TestMultinomial(ResamplerSuite):
    def instances(self):
        return [Multinomial()]


class TestStratified(ResamplerSuite):
    def instances(self):
        return [Stratified()]


class TestSystematic(ResamplerSuite):
    def instances(self):
        return [Systematic()]


def counts(resampler, log_w, runs=20_000):
    ancestors = resampler(log_w.expand(runs, -1), generator("counts"))
    return torch.zeros_like(ancestors).scatter_add_(1, ancestors, torch.ones_like(ancestors))


def some_log_weights(N=9):
    return torch.randn(N, generator=generator("weights"), dtype=F64)


def test_systematic_copies_floor_or_ceil_of_n_w():
    log_w = some_log_weights()
    expected = 9 * torch.softmax(log_w, 0)
    deviation = counts(Systematic(), log_w, 500) - expected
    assert (deviation.abs() < 1).all()


def test_systematic_keeps_equal_weights():
    assert (counts(Systematic(), torch.zeros(16, dtype=F64), 50) == 1).all()


def test_stratified_differs_from_n_w_by_less_than_two():
    log_w = some_log_weights()
    deviation = counts(Stratified(), log_w, 500) - 9 * torch.softmax(log_w, 0)
    assert (deviation.abs() < 2).all()


def test_multinomial_counts_have_the_multinomial_covariance():
    log_w = some_log_weights(4)
    W, runs = torch.softmax(log_w, 0), 20_000
    products = counts(Multinomial(), log_w, runs).double() - 4 * W
    products = (products[:, :, None] * products[:, None, :]).flatten(1)
    exact = (4 * (torch.diag(W) - W[:, None] * W)).flatten()
    sg.testing.z_test(products, exact, ceiling=0.02)


def test_variance_of_counts_falls_from_multinomial_to_stratified():
    log_w = some_log_weights()
    f = torch.arange(9, dtype=F64)
    spread = [
        float((counts(r, log_w).double() @ f).var())
        for r in (Multinomial(), Stratified(), Systematic())
    ]
    assert spread[1] < 0.5 * spread[0]
    assert spread[2] < 0.5 * spread[0]


@dataclass(frozen=True)
class Float32Cdf(Resampler):
    """Planted: searches a float32 distribution function and clamps at the end."""

    def __call__(self, log_w, generator):
        cdf = torch.softmax(log_w.float(), -1).cumsum(-1) - 2**-16
        u = torch.rand(log_w.shape, generator=generator, device=log_w.device)
        return torch.searchsorted(cdf, u).clamp(max=log_w.shape[1] - 1)


@dataclass(frozen=True)
class SharedNoise(Resampler):
    """Planted: one uniform number for all systems."""

    def __call__(self, log_w, generator):
        N = log_w.shape[1]
        u = torch.rand(1, 1, generator=generator, dtype=F64, device=log_w.device)
        points = ((torch.arange(N, device=log_w.device) + u) / N).repeat(len(log_w), 1)
        return sg.weights.inverse_cdf(log_w, points)


@dataclass(frozen=True)
class Tempered(Resampler):
    """Planted: weights to the power 0.9."""

    def __call__(self, log_w, generator):
        return Multinomial()(0.9 * log_w, generator)


@dataclass(frozen=True)
class Coupled(Resampler):
    """Planted: normalises over all systems at once."""

    def __call__(self, log_w, generator):
        return Multinomial()(log_w - log_w.mean() * torch.ones_like(log_w).cumsum(1), generator)


class Planted(ResamplerSuite):
    def __init__(self, resampler):
        self.resampler = resampler

    def instances(self):
        return [self.resampler]


def test_suite_catches_a_dead_particle_chosen():
    suite = Planted(Float32Cdf())
    with pytest.raises(AssertionError, match="particles of weight zero"):
        suite.test_zero_weight_is_never_chosen_in_a_large_float32_population("cpu", "head")


def test_suite_catches_systems_that_share_their_noise():
    with pytest.raises(AssertionError, match="systems are copies"):
        Planted(SharedNoise()).test_systems_have_their_own_randomness("cpu")


def test_suite_catches_tempered_weights():
    with pytest.raises(AssertionError, match=r"Particle \d+ of weight"):
        Planted(Tempered()).test_mean_counts_are_n_times_the_weights("cpu", 3.0)


def test_suite_catches_systems_that_see_each_other():
    with pytest.raises(AssertionError, match="depends on the others"):
        Planted(Coupled()).test_systems_do_not_see_each_other("cpu")


def test_mean_counts_test_refuses_a_wrong_number_of_ancestors():
    wrong = torch.full((200, 3), 2)
    with pytest.raises(AssertionError, match="does not choose N ancestors"):
        mean_counts_test(wrong, torch.full((3,), 1 / 3))
