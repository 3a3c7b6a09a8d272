"""Whether posteriors mean what they say, over many simulated data sets.

One posterior with S systems is S data sets at once. `simulate` makes them, `simulate_ranks` is the
whole of simulation-based calibration in one call.
"""

from smcguide.diagnostics.calibration.coverage import Coverage
from smcguide.diagnostics.calibration.intervals import interval_coverage
from smcguide.diagnostics.calibration.k_rcps import ControlledIntervals, k_rcps
from smcguide.diagnostics.calibration.ranks import Ranks, ranks_among
from smcguide.diagnostics.calibration.sbc import sbc_ranks
from smcguide.diagnostics.calibration.simulate import DataSets, simulate, simulate_ranks
from smcguide.diagnostics.calibration.tarp import tarp

__all__ = [
    "ControlledIntervals",
    "Coverage",
    "DataSets",
    "Ranks",
    "interval_coverage",
    "k_rcps",
    "ranks_among",
    "sbc_ranks",
    "simulate",
    "simulate_ranks",
    "tarp",
]
