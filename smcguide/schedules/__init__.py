"""Noise schedules: the pair (alpha, sigma) of x_t = alpha_t x_0 + sigma_t eps."""

from smcguide.schedules.base import Schedule
from smcguide.schedules.continuous import EDM, VE, VP, Cosine, RectifiedFlow
from smcguide.schedules.table import SMALLEST_ABAR, DDPMTable

__all__ = ["EDM", "SMALLEST_ABAR", "VE", "VP", "Cosine", "DDPMTable", "RectifiedFlow", "Schedule"]
