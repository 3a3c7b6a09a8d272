"""What is compared between truths and particles: functions of the event, one number each."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior

Statistic = Callable[[Tensor], Tensor]  # (S, n, *E) -> (S, n)


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A named stream of a seed, other than the ones from which truths and particles may have come: with
    the very random numbers of the truths, ranks would not be uniform."""
    state = np.random.SeedSequence([seed, crc32(name.encode())]).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))


def check_truth(posterior: Posterior, truth: Tensor) -> Tensor:
    """The truths (S, *E), one for each system of the posterior.

    Raises:
        InvalidInput: for other shapes, replicates of one data set, and numbers that are not finite.
    """
    truth = torch.as_tensor(truth)
    expected = (len(posterior.x), *posterior.x.shape[2:])
    if tuple(truth.shape) != expected:
        raise InvalidInput(
            f"truth has shape {tuple(truth.shape)}; expected {expected}: one event for each of the "
            "posterior's systems (for a parameter, use posterior.marginal(name))."
        )
    if posterior.are_replicates and len(posterior.x) > 1:
        raise InvalidInput(
            f"the {len(posterior.x)} systems are replicates of one problem, so they have one truth and "
            "are not independent. Give each system its own data set: a y with batched=True."
        )
    if not bool(torch.isfinite(truth).all()):
        raise InvalidInput(f"truth holds {int((~torch.isfinite(truth)).sum())} numbers not finite.")
    return truth.to(posterior.x.device, posterior.x.dtype)


def coordinates(event_shape: tuple[int, ...]) -> dict[str, Statistic]:
    """Every coordinate of the event, by its index: x[0], x[1], ... or x[0, 3, 2], or x."""

    def at(index: tuple[Any, ...]) -> Statistic:
        return lambda x: x[(..., *index)]

    indices = product(*map(range, event_shape))
    return {f"x{list(index)}" if index else "x": at(index) for index in indices}


def evaluate(statistics: Mapping[str, Statistic], x: Tensor, alive: Tensor) -> Tensor:
    """Values (S, n, F) float64 on the CPU of each function at events x (S, n, *E).

    Arguments:
        statistics: the functions.
        x: events.
        alive: (S, n) which of them count; the others may hold anything.

    Raises:
        InvalidInput: for a function of another shape, or one that is NaN.
    """
    columns = []
    for name, f in statistics.items():
        value = f(x)
        if value.shape != x.shape[:2]:
            raise InvalidInput(
                f"statistic {name!r} maps events {tuple(x.shape)} to {tuple(value.shape)}; expected "
                f"{tuple(x.shape[:2])}: one number per event, the axes of systems and draws kept."
            )
        if bool((value.isnan() & alive).any()):
            raise InvalidInput(
                f"statistic {name!r} is NaN for {int((value.isnan() & alive).sum())} events; a rank "
                "needs numbers that can be ordered."
            )
        columns.append(value.double())
    return torch.stack(columns, -1).cpu()


def pits(
    posterior: Posterior, truth: Tensor, statistics: Mapping[str, Statistic], seed: int
) -> Tensor:
    """Probability integral transforms (S, F) of the truth's statistics, uniform on [0, 1] under
    calibration.

    (N F + U) / (N + 1) with F the weighted share of particles below the truth (ties at random) and U
    uniform: for N exact draws of equal weight uniform without error.
    """
    one = check_truth(posterior, truth)[:, None]
    W = weights.normalise(posterior.log_w)
    at_truth = evaluate(statistics, one, W.new_ones(len(W), 1, dtype=torch.bool))
    at_x, W = evaluate(statistics, posterior.x, W > 0), W.cpu()
    generator = stream(seed, "ties")
    U, V = torch.rand(2, *at_truth[:, 0].shape, generator=generator, dtype=torch.float64)
    below = (W[..., None] * (at_x < at_truth)).sum(1)
    level = (W[..., None] * (at_x == at_truth)).sum(1)
    N = W.shape[1]
    return (N * (below + V * level) + U) / (N + 1)
