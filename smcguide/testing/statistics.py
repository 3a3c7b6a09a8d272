r"""Assertions about random numbers, with one false-alarm budget for a whole run of the suite.

A correct program fails a statistical assertion with a known small probability. One run of the suite
may do so with probability `FALSE_ALARM_RATE` in all; each assertion gets the same share of it, and
divides its share between the numbers it compares (Bonferroni). Tolerances follow from the share, in
units of standard errors, two-sided:

    |mean - truth| <= q se,      q = t-quantile at  FALSE_ALARM_RATE / NUM_ASSERTIONS / components

An exploding variance hides any bias from such a test, so `z_test` also wants a ceiling on `se`.

Seeds are fixed. The environment variable SMCGUIDE_TEST_SEED (a whole number) re-draws all of them.
"""

import math
import os
import zlib

import numpy as np
import torch
from scipy import stats
from torch import Tensor

FALSE_ALARM_RATE = 1e-5  # of a whole run of the suite
NUM_ASSERTIONS = 2000  # statistical assertions that share it, generously counted
SEED_VARIABLE = "SMCGUIDE_TEST_SEED"

_FEWEST = 100  # estimates for a mean to be near normal
_ROUNDING = 1e-12


def seed(stream: str) -> int:
    """The seed of a named stream of random numbers; another one for each SMCGUIDE_TEST_SEED."""
    base = int(os.environ.get(SEED_VARIABLE, "0"))
    state = np.random.SeedSequence([base, zlib.crc32(stream.encode())]).generate_state(1)
    return int(state[0])


def generator(stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A seeded generator for a named stream."""
    return torch.Generator(device).manual_seed(seed(stream))


def threshold(components: int = 1, degrees: float = np.inf) -> float:
    """Allowed deviation in standard errors when `components` numbers are compared at once.

    Arguments:
        components: how many numbers share the assertion.
        degrees: degrees of freedom of the standard error.
    """
    tail = FALSE_ALARM_RATE / NUM_ASSERTIONS / (2 * components)
    return float(stats.t.isf(tail, degrees))


def z_test(
    estimates: Tensor, truth: float | Tensor, ceiling: float, *, truth_se: float = 0.0
) -> None:
    """Assert that independent estimates are unbiased and not wild.

    Arguments:
        estimates: (R, *F) independent estimates, R >= 100.
        truth: their expectation, a number or (*F).
        ceiling: largest allowed standard error of their mean, in every component.
        truth_se: standard error of the truth itself, if it was estimated too.

    Raises:
        AssertionError: if a mean is too many standard errors away, if a standard error is above the
            ceiling, or if an estimate is not finite.
    """
    values = estimates.detach().double().cpu().reshape(len(estimates), -1)
    R, F = values.shape
    assert R >= _FEWEST, f"z_test: {R} estimates, at least {_FEWEST} are needed."
    bad = int((~torch.isfinite(values)).any(1).sum())
    assert bad == 0, f"z_test: {bad} of {R} estimates are not finite."
    goal = torch.as_tensor(truth, dtype=torch.float64).cpu().reshape(-1).expand(F)
    mean, se = values.mean(0), values.std(0) / R**0.5
    worst = float(se.max())
    assert worst <= ceiling, (
        f"z_test: standard error {worst:.3g} of the mean of {R} estimates is above the ceiling "
        f"{ceiling:.3g} (mean {_show(mean)}, truth {_show(goal)}, {_origin()})."
    )
    total = (se.square() + truth_se**2).sqrt()
    excess = ((mean - goal).abs() - _ROUNDING * (1 + goal.abs())).clamp(min=0)
    z = torch.where(excess > 0, (mean - goal) / total, 0.0)
    allowed = threshold(F, R - 1)
    assert float(z.abs().max()) <= allowed, (
        f"z_test: mean {_show(mean)} of {R} estimates, truth {_show(goal)}, standard errors "
        f"{_show(total)}: z = {_show(z)}, allowed +-{allowed:.2f} ({_origin()})."
    )


def mean_counts_test(counts: Tensor, weights: Tensor) -> None:
    """Assert that a resampler chooses particle i N W_i times on average.

    Rare particles are far from normal, so the tolerance of each total count T_i over the runs is
    Bernstein's, P(|T - E T| > t) <= 2 exp(-t^2 / (2 V + 2 t / 3)), with V the larger of the
    observed variance and that of multinomial resampling. Weights of zero must never be chosen.

    Arguments:
        counts: (R, N) how often each particle was chosen, in R independent runs.
        weights: (N,) normalised weights.

    Raises:
        AssertionError: if a mean count is off, a run does not choose N particles, or a particle of
            weight zero was chosen.
    """
    values, W = counts.detach().double().cpu(), weights.detach().double().cpu()
    R, N = values.shape
    assert R >= _FEWEST, f"mean_counts_test: {R} runs, at least {_FEWEST} are needed."
    assert bool((values.sum(1) == N).all()), "A run of the resampler does not choose N ancestors."
    dead = values[:, W == 0]
    assert not bool(dead.any()), f"Particles of weight zero were chosen {int(dead.sum())} times."
    L = math.log(2 * NUM_ASSERTIONS * N / FALSE_ALARM_RATE)
    V = R * torch.maximum(values.var(0), N * W * (1 - W))
    allowed = L / 3 + (L**2 / 9 + 2 * L * V).sqrt()
    total, expected = values.sum(0), R * N * W
    i = int(((total - expected).abs() - allowed).argmax())
    assert float((total[i] - expected[i]).abs()) <= float(allowed[i]), (
        f"Particle {i} of weight {float(W[i]):.4g} is chosen {int(total[i])} times in {R} runs; "
        f"expected R N W = {float(expected[i]):.6g} +- {float(allowed[i]):.3g} ({_origin()})."
    )


def _show(a: Tensor) -> str:
    return "[" + ", ".join(f"{float(v):.4g}" for v in a[:8]) + (", ...]" if len(a) > 8 else "]")


def _origin() -> str:
    return f"{SEED_VARIABLE}={os.environ.get(SEED_VARIABLE, '0')}"
