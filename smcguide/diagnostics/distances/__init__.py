"""Distances between weighted samples, each beside the floor that exact samples reach."""

from smcguide.diagnostics.distances.c2st import C2ST, c2st
from smcguide.diagnostics.distances.energy import energy_distance
from smcguide.diagnostics.distances.floor import BesideFloor, beside_floor
from smcguide.diagnostics.distances.max_sliced import MaxSlicedWasserstein, max_sliced_wasserstein
from smcguide.diagnostics.distances.mmd import MMD, mmd
from smcguide.diagnostics.distances.one_dimensional import wasserstein_1d
from smcguide.diagnostics.distances.sliced import SlicedWasserstein, sliced_wasserstein
from smcguide.diagnostics.distances.stein import kernel_stein

__all__ = [
    "C2ST",
    "MMD",
    "BesideFloor",
    "MaxSlicedWasserstein",
    "SlicedWasserstein",
    "beside_floor",
    "c2st",
    "energy_distance",
    "kernel_stein",
    "max_sliced_wasserstein",
    "mmd",
    "sliced_wasserstein",
    "wasserstein_1d",
]
