r"""Pilot runs that find the size of a move.

With a_r the mean acceptance of pilot run r and f_r the factor on the size of the given move,

    log f_{r+1} = log f_r + gamma_r (a_r - target),     gamma_r = 3 / (r + 1)^(3/5)

(Robbins and Monro), and the last factor is kept. The runs that follow have a fixed size and random
numbers of their own, so that they are as exact as with a size from a book; a size that adapts within
a run would not be.

Reference: Andrieu, Thoms, "A tutorial on adaptive MCMC" (Statistics and Computing, 2008).
"""

import copy
import math
from collections import Counter

import numpy as np

from smcguide.engine import run
from smcguide.errors import InvalidInput
from smcguide.guided import GuidedDiffusion
from smcguide.moves.base import Move
from smcguide.triggers import Trigger

_PILOT = 0x9110  # sets the pilot's random numbers apart from those of a run with the same seed
_GAIN, _DECAY = 3.0, 0.6


def tune_move(
    model: GuidedDiffusion,
    target: float | None = None,
    *,
    num_particles: int = 120,
    rounds: int = 10,
    trigger: Trigger | None = None,
    seed: int = 0,
) -> GuidedDiffusion:
    """The same model with its move resized to a mean acceptance near `target`.

    Arguments:
        model: with a move.
        target: mean acceptance in (0, 1) over particles and steps; default the move's
            `target_acceptance`.
        num_particles: of each pilot run, per system.
        rounds: number of pilot runs, at least 1.
        trigger: when the pilot resamples and hence moves, as in the run to come.
        seed: of the pilot; independent of a run with the same seed.

    Returns:
        A model that counts its evaluations anew; those of the pilot are part of its settings.

    Raises:
        InvalidInput: for a model without a move, a move without a size, a target outside (0, 1), no
            rounds, or a pilot in which nothing ever moved.
    """
    move = model.move
    if move is None or rounds < 1:
        raise InvalidInput(
            f"tune_move: a model with a move and rounds >= 1, got {move!r}, {rounds}."
        )
    target = move.target_acceptance if target is None else target
    if not 0 < target < 1:
        raise InvalidInput(f"tune_move: target must be in (0, 1), got {target}.")
    log_factor, pilot = 0.0, model
    spent: Counter[str] = Counter()
    for r in range(rounds):
        pilot = _with_move(model, move.resized(math.exp(log_factor)))
        state = np.random.SeedSequence([_PILOT, seed, r]).generate_state(1, np.uint64)
        post = run(
            pilot, num_particles=num_particles, trigger=trigger, seed=int(state[0]), progress=False
        )
        spent.update(post.evaluations)
        rate = float(post.trace["acceptance"][:, 1:].nanmean())
        if math.isnan(rate):
            raise InvalidInput(
                "tune_move: nothing was resampled in the pilot, so nothing moved. Give the trigger of "
                "the run to come, or a move with every_step=True."
            )
        log_factor += _GAIN / (r + 1) ** _DECAY * (rate - target)
    tuned = _with_move(model, move.resized(math.exp(log_factor)))
    tuned.parts["pilot_forward"] = spent["network_forward"]
    return tuned


def _with_move(model: GuidedDiffusion, move: Move) -> GuidedDiffusion:
    """The model with another size of its move; parts that are bound stay so."""
    other = copy.copy(model)
    other.move, other.evaluations = move, Counter()
    other.parts = {**model.parts, "move": move}
    return other
