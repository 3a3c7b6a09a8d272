"""The boundary of a run: what can be wrong with its sizes and parts, found before it begins."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from smcguide.boundary import require
from smcguide.errors import InvalidInput
from smcguide.resamplers.base import Resampler

RECORDABLE = ("ancestors", "particles", "log_weights", "x0_hat", "paths")


def check_run(
    model: Any,
    num_particles: int,
    num_systems: int | None,
    record: Sequence[str] = (),
    progress: Any = False,
    seed: int = 0,
) -> int:
    """The number of systems S.

    Raises:
        InvalidInput: for sizes below 1, a num_systems that contradicts a batched y, unknown names in
            `record`, another `progress` than True, False, "auto" or a function, a negative seed.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise InvalidInput(f"seed must be a whole number of at least 0, got {seed!r}.")
    if isinstance(record, str):
        raise InvalidInput(f"record must be a tuple of names, e.g. ({record!r},), got {record!r}.")
    if unknown := set(record) - set(RECORDABLE):
        raise InvalidInput(f"record: unknown names {sorted(unknown)}; there are {RECORDABLE}.")
    if not (isinstance(progress, bool) or progress == "auto" or callable(progress)):
        raise InvalidInput(f"progress must be True, False, 'auto' or a function, got {progress!r}.")
    for name, value in (("num_particles", num_particles), ("num_systems", num_systems)):
        if value is not None and (not isinstance(value, Integral) or value < 1):
            raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}.")
    if num_particles % (length := getattr(model, "chain_length", 1)):
        raise InvalidInput(
            f"num_particles={num_particles} is no multiple of num_moves + 1 = {length}, the length of "
            f"a waste-free chain: take {-(-num_particles // length) * length}, or change num_moves."
        )
    own = model.num_systems
    if own is not None and num_systems not in (None, own):
        raise InvalidInput(
            f"num_systems={num_systems}, but the cost holds one observation for each of {own} systems. "
            "Leave num_systems out; for replicates of each observation repeat y."
        )
    return own or num_systems or 1


def check_selection(resampler: Any, trigger: Any) -> None:
    """Raise InvalidInput unless both are None or of their kind."""
    if resampler is not None:
        require(resampler, Resampler, "resampler")
    if trigger is not None and not callable(trigger):
        raise InvalidInput(f"trigger: got {trigger!r}; e.g. triggers.ess_below({trigger!r}).")


def check_together(
    model: Any, resampler: Resampler, num_particles: int, record: Sequence[str], with_paths: bool
) -> None:
    """Raise InvalidInput where a model cannot be resampled by this scheme, or has no paths to record."""
    if model.chain_length > 1:
        num = num_particles // model.chain_length
        resampler(torch.zeros(1, num_particles), torch.Generator(), num)
    if (with_paths or "x0_hat" in record) and not model.has_paths:
        raise InvalidInput(f"record: {model!r} chooses among its states later and has no paths.")
