"""What may be claimed of a method, from best to worst. A part of a method (a resampler, a potential,
a move, ...) that spoils exactness says so in its attribute `exactness`; the label of a whole method is
the worst of its parts'.

    exact                   for the discretised chain: Z unbiased for any N, expectations right as N grows
    exact in the limit      right only as N (adaptive choices), iterations or steps grow as well
    biased                  a heuristic: weights are missing, log Z is withheld
    search                  an optimiser: results are candidates, not samples; log Z is withheld
"""

from collections.abc import Iterable
from typing import Any

EXACT, LIMIT, BIASED, SEARCH = "exact", "exact in the limit", "biased", "search"
_ORDER = (EXACT, LIMIT, BIASED, SEARCH)


def worst(labels: Iterable[str]) -> str:
    """The label of a method whose parts have these labels."""
    return max(labels, key=_ORDER.index, default=EXACT)


def label(parts: Iterable[Any]) -> str:
    """The label of a method made of these parts; a part without a say is exact."""
    return worst(getattr(part, "exactness", EXACT) for part in parts)


def has_evidence(label: str) -> bool:
    """Whether log Z may be reported."""
    return label in (EXACT, LIMIT)
