"""Numbers that say whether a run can be trusted."""

from importlib import import_module
from types import ModuleType

from smcguide.diagnostics.agreement import (
    EvidenceError,
    LogZSpread,
    evidence_error,
    log_z_spread,
    r_hat,
)
from smcguide.diagnostics.ancestry import coalescence_time, lineages, unique_ancestors
from smcguide.diagnostics.control import bound_gap, path_kl
from smcguide.diagnostics.hallucination import hallucination
from smcguide.diagnostics.modes import (
    Agreement,
    Occupancy,
    find_modes,
    mode_occupancy,
    modes_agree,
)
from smcguide.diagnostics.tails import largest_weight, pareto_k, perplexity
from smcguide.diagnostics.verdict import DOUBTFUL, NOTE, SERIOUS, Finding, Verdict, verdict
from smcguide.weights import cess, ess

__all__ = [
    "DOUBTFUL",
    "NOTE",
    "SERIOUS",
    "Agreement",
    "EvidenceError",
    "Finding",
    "LogZSpread",
    "Occupancy",
    "Verdict",
    "bound_gap",
    "calibration",
    "cess",
    "coalescence_time",
    "distances",
    "ess",
    "estimators",
    "evidence_error",
    "find_modes",
    "hallucination",
    "largest_weight",
    "lineages",
    "log_z_spread",
    "mode_occupancy",
    "modes_agree",
    "pareto_k",
    "path_kl",
    "perplexity",
    "r_hat",
    "unique_ancestors",
    "verdict",
]

_LATE = ("calibration", "distances", "estimators")  # rooms that are loaded when they are named


def __getattr__(name: str) -> ModuleType:
    if name in _LATE:
        return import_module(f"smcguide.diagnostics.{name}")
    raise AttributeError(f"module 'smcguide.diagnostics' has no attribute {name!r}")
