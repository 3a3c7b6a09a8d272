"""A data set as a prior: its kernel density, whose denoiser is exact."""

import torch
from torch import Tensor

from smcguide.priors.mixture import GaussianMixture
from smcguide.schedules import Schedule


class EmpiricalPrior(GaussianMixture):
    """Kernel density of a data set: every datum carries N(datum, bandwidth^2 I).

    Its denoiser is exact (one mean-shift step), and so are posterior and evidence.

    Arguments:
        data: (K, *E), float32 or float64.
        bandwidth: kernel standard deviation in data units, >= 0.
        schedule: noise schedule, default VP().
    """

    def __init__(self, data: Tensor, bandwidth: float, *, schedule: Schedule | None = None) -> None:
        ones = torch.ones(len(data), dtype=torch.float64)
        super().__init__(ones, data, scale=bandwidth, schedule=schedule)
