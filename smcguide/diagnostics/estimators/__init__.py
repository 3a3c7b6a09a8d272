"""Better answers from weighted particles: control variates, adaptive sampling, rare events."""

from smcguide.diagnostics.estimators.adaptive import Expectations, expectations
from smcguide.diagnostics.estimators.rare_event import Exceedance, RareEvent, rare_event
from smcguide.diagnostics.estimators.stein import Controlled, control_variates, scores

__all__ = [
    "Controlled",
    "Exceedance",
    "Expectations",
    "RareEvent",
    "control_variates",
    "expectations",
    "rare_event",
    "scores",
]
