"""Published methods as keyword arguments of `sample`: `sg.sample(prior, cost, **sg.presets.dps())`."""

from smcguide.presets.adapted import fk_steering, mcgdiff, zhao
from smcguide.presets.estimates import ddnm, ddrm, diffpir, dreamguider, mpgd, red_diff
from smcguide.presets.guidance import (
    dps,
    freedom,
    lgd_mc,
    mcg,
    mmps,
    ndtm,
    pigdm,
    tmpd,
    universal_guidance,
)
from smcguide.presets.particles import ddsmc, ndtm_smc, psi_sampler, tds, waste_free
from smcguide.presets.selection import best_of_n, code, nested, scg, svdd

__all__ = [
    "best_of_n",
    "code",
    "ddnm",
    "ddrm",
    "ddsmc",
    "diffpir",
    "dps",
    "dreamguider",
    "fk_steering",
    "freedom",
    "lgd_mc",
    "mcg",
    "mcgdiff",
    "mmps",
    "mpgd",
    "ndtm",
    "ndtm_smc",
    "nested",
    "pigdm",
    "psi_sampler",
    "red_diff",
    "scg",
    "svdd",
    "tds",
    "tmpd",
    "universal_guidance",
    "waste_free",
    "zhao",
]
