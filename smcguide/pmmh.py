r"""Particle marginal Metropolis-Hastings: unknown parameters theta of the cost or the prior.

    p(theta, x_0 | y) proportional to p(theta) p_theta(x_0) exp(-C_theta(x_0))

A candidate theta' = theta + n, n ~ N(0, V), gets a run of its own, with an estimate Z' of
Z(theta') = E_theta' exp(-C_theta') and a draw x_0' by its final weights. Both are accepted together
with probability

    min(1, Z' p(theta') / (Z p(theta)))

Z is the estimate that theta was accepted with, never a new one. As estimates are unbiased, theta and
x_0 have the right law for any number of particles N >= 1; with too few a lucky Z stays for long.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods" (2010).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smcguide import exactness
from smcguide.chains import ParameterChains
from smcguide.errors import InvalidInput, check_counts
from smcguide.feynman_kac import FeynmanKac
from smcguide.progress import Progress
from smcguide.pseudomarginal import Pseudomarginal, State, walk
from smcguide.records import StepInfo
from smcguide.resamplers.base import Resampler
from smcguide.resamplers.systematic import Systematic
from smcguide.runs import check_run, check_selection
from smcguide.triggers import Trigger, ess_below

_ATTEMPTS = 20  # to begin a chain


def pmmh(
    build: Callable[[Tensor], FeynmanKac],
    log_prior: Callable[[Tensor], Tensor],
    theta0: Tensor,
    *,
    num_iters: int,
    num_particles: int,
    step: float | Tensor,
    num_chains: int | None = None,
    resampler: Resampler | None = None,
    trigger: Trigger | None = None,
    burn_in: int = 0,
    seed: int = 0,
    progress: bool | str | Callable[[StepInfo], None] = "auto",
) -> ParameterChains:
    """Sample parameters and events together. Chains run one after the other: each candidate is another
    model.

    Arguments:
        build: makes the model of theta (p,), float64 on the CPU; of one system, with an unbiased Z. Its
            constants count: a likelihood must be normalised.
        log_prior: log p(theta), unnormalised; -inf where theta is impossible, which costs no run.
        theta0: (p,) where chains begin, or (num_chains, p).
        num_iters: candidates per chain after the burn-in.
        num_particles: N of each run, at least 1. Best where log Z has a standard deviation of 1 to 2.
        step: standard deviation of the Gaussian random walk, a number or (p,), or its covariance (p, p).
        num_chains: number of chains; None for 1, or as many as theta0 has rows.
        resampler, trigger: of the runs, as in `run`.
        burn_in: candidates to drop first.
        seed: of all randomness.
        progress: True, False, "auto", or a function called with the last StepInfo of each run.

    Returns:
        The chains, exact as they grow, for any N.

    Raises:
        InvalidInput: for arguments that do not fit; for a start with density 0; for models whose Z is
            not unbiased or that have many systems.
        DegenerateWeights: where a run breaks. One that loses all particles has Z = 0 and is rejected.
    """
    resampler, trigger = resampler or Systematic(), trigger or ess_below(0.5)
    check_selection(resampler, trigger)
    check_run(FeynmanKac, num_particles, None, (), progress, seed)
    check_counts({"num_iters": (num_iters, 1), "burn_in": (burn_in, 0)})
    starts = _starts(theta0, num_chains)
    factor = _factor(step, starts.shape[1])
    rows = []
    with Progress(progress, len(starts) * (burn_in + num_iters + 1)) as bar:
        target = Pseudomarginal(build, log_prior, num_particles, resampler, trigger, bar.update)
        for c, start in enumerate(starts):
            here = _begun(target, start, (seed, c))
            chain = list(walk(target, here, factor, (seed, c), burn_in + num_iters))
            rows.append(chain[burn_in:])
    settings = {
        "num_particles": num_particles, "burn_in": burn_in, "seed": seed, "step": repr(step),
        "resampler": repr(resampler), "trigger": repr(trigger),
        **{k: repr(v) for k, v in getattr(target.model, "parts", {}).items()},
        "exactness": exactness.LIMIT,
    }  # fmt: skip
    return ParameterChains(
        torch.stack([torch.stack([state.theta for state, _ in row]) for row in rows]),
        torch.stack([torch.stack([torch.as_tensor(state.x) for state, _ in row]) for row in rows]),
        _numbers(rows, lambda state: state.log_z),
        _numbers(rows, lambda state: state.log_prior),
        torch.tensor([[accepted for _, accepted in row] for row in rows]),
        dict(target.evaluations),
        settings,
    )


def _begun(target: Pseudomarginal, theta: Tensor, seed: tuple[int, int]) -> State:
    """A start with Z > 0: a run of few particles may lose them all by bad luck."""
    for attempt in range(_ATTEMPTS):
        here = target(theta, (*seed, 0, attempt + 1))
        if here.x is not None:
            return here
        if here.log_prior == -math.inf:
            break
    raise InvalidInput(
        f"theta0 = {theta.tolist()} has log prior {here.log_prior} and log-evidence {here.log_z}. Start "
        "where both are finite, or use more particles."
    )


def _starts(theta0: Tensor, num_chains: int | None) -> Tensor:
    """(C, p) float64."""
    starts = torch.as_tensor(theta0, dtype=torch.float64, device="cpu")
    if num_chains is not None:
        check_counts({"num_chains": (num_chains, 1)})
    ok = starts.ndim in (1, 2) and starts.numel() > 0 and bool(torch.isfinite(starts).all())
    if ok and starts.ndim == 1:
        starts = starts.expand(num_chains or 1, -1)
    if not ok or num_chains not in (None, len(starts)):
        raise InvalidInput(
            f"theta0 of shape {tuple(starts.shape)} with num_chains={num_chains}: expected finite "
            "numbers (p,), or one row per chain (num_chains, p)."
        )
    return starts


def _factor(step: float | Tensor, p: int) -> Tensor:
    """L (p, p) with L L^T the covariance of the walk."""
    V = torch.as_tensor(step, dtype=torch.float64, device="cpu")
    if V.shape in [(), (p,)] and bool((V > 0).all() & torch.isfinite(V).all()):
        return torch.diag(V.expand(p))
    if V.shape == (p, p):
        factor, failed = torch.linalg.cholesky_ex(V)
        if not failed and torch.allclose(V, V.T):
            return factor
    raise InvalidInput(
        f"step of shape {tuple(V.shape)}: expected positive standard deviations, a number or ({p},), or "
        f"a positive definite covariance ({p}, {p})."
    )


def _numbers(rows: list[list[tuple[State, bool]]], of: Callable[[State], float]) -> Tensor:
    return torch.tensor([[of(state) for state, _ in row] for row in rows], dtype=torch.float64)
