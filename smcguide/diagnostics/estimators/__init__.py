"""Better answers from weighted particles: control variates, adaptive sampling, rare events, log Z."""

from smcguide.diagnostics.estimators.adaptive import Expectations, expectations
from smcguide.diagnostics.estimators.rare_event import Exceedance, RareEvent, rare_event
from smcguide.diagnostics.estimators.stein import Controlled, control_variates, scores
from smcguide.diagnostics.estimators.thermodynamic import Thermodynamic, thermodynamic_log_z

__all__ = [
    "Controlled",
    "Exceedance",
    "Expectations",
    "RareEvent",
    "Thermodynamic",
    "control_variates",
    "expectations",
    "rare_event",
    "scores",
    "thermodynamic_log_z",
]
