"""What the parts of a method are bound to: the problem at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smcguide.records import Level
from smcguide.rehearsal import Rehearsal


@dataclass(frozen=True)
class Problem:
    """What `bind` gets to see, once, when a model is built.

    Attributes:
        cost: the `TerminalCost`.
        event_shape: shape of one event.
        rehearsal: what is known of the prior, if the part has `needs_rehearsal`.
        levels: the noise levels that the run visits, the last one data.
        stds: standard deviation of the base kernel of each step where it is one number, else NaN.
    """

    cost: Any
    event_shape: tuple[int, ...]
    rehearsal: Rehearsal | None = None
    levels: Sequence[Level] = ()
    stds: Sequence[float] = ()
