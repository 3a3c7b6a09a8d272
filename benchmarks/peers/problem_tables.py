r"""The 25-Gaussian problem as tables that a peer can run without us.

With the levels alpha_k, sigma_k of a grid, the chain is x_{k+1} = c_x x_k + c_D D(x_k) + std z, and
the value at each level, the likelihood widened by what is unknown of x_0 (`InflatedGaussian`), is

    log psi_k(x) = -|c_k - B_k D(x)|^2 / 2 - constant_k,   B_k = L^-1 A / s,  c_k = L^-1 y / s,
    L L^T = I + A V_k A^T / s^2,                            V_k = (V^-1 + alpha_k^2 / sigma_k^2)^-1.

B_K, c_K make the terminal cost. Peers get all of that for nothing: none of it is in their times.
"""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from mixture25 import instance
from torch import Tensor

import smcguide as sg

F64 = torch.float64
PROPOSALS = {False: sg.proposals.Bootstrap(), True: sg.proposals.Gradient(trust=2.0)}


class Task:
    """One instance: the problem for us and for the others, and its truth."""

    def __init__(self, seed: int, d: int, m: int, steps: int) -> None:
        self.prior, self.A, self.y, self.std = instance(seed, d, m)
        self.grid = sg.grids.karras(steps)
        self.log_z = float(self.prior.log_evidence(self.A, self.y, self.std))
        self.posterior = self.prior.posterior(self.A, self.y, self.std)

    def model(self, gradient: bool, dtype: torch.dtype) -> sg.GuidedDiffusion:
        """Ours."""
        prior = self.prior.to(dtype=dtype)
        cost = sg.costs.LinearGaussian(self.A.to(dtype), self.y, self.std)
        return sg.GuidedDiffusion(
            prior, cost, kernel=sg.kernels.DDPM(), times=self.grid,
            potential=sg.potentials.InflatedGaussian(), proposal=PROPOSALS[gradient],
        )  # fmt: skip

    def save(self, file: Path) -> Path:
        """The tables."""
        levels = [self.prior.schedule.level(float(t)) for t in self.grid(self.prior.schedule)]
        moments = self.prior.moments()
        basis = torch.eye(len(moments.variance), dtype=F64)
        basis = basis if moments.basis is None else moments.basis
        values = [self._value(moments.variance, basis, level) for level in levels]
        steps = [self._step(*pair) for pair in pairwise(levels)]
        B, c, constant = (torch.stack(column) for column in zip(*values, strict=True))
        c_x, c_D, std = zip(*steps, strict=True)
        columns = {
            "alpha": [level.alpha for level in levels], "sigma": [level.sigma for level in levels],
            "B": B, "c": c, "constant": constant, "c_x": c_x, "c_D": c_D, "std": std,
        }  # fmt: skip
        mixture = {"log_weights": self.prior._log_w, "means": self.prior._m, "variance": 1.0}
        measurement = {"A": self.A, "y": self.y, "noise_std": self.std}
        prior = {"spectrum": moments.variance, "basis": basis}
        np.savez(file, **mixture, **measurement, **prior, **columns)
        return file

    def _value(self, V: Tensor, basis: Tensor, level: sg.records.Level) -> tuple[Tensor, ...]:
        A, y, m = self.A / self.std, self.y / self.std, len(self.y)
        factor = A @ basis
        width = (factor * level.prior_width(V)) @ factor.T
        L = torch.linalg.cholesky(torch.eye(m, dtype=F64) + width)
        both = torch.linalg.solve_triangular(L, torch.cat([A, y[:, None]], 1), upper=False)
        constant = L.diagonal().log().sum() + m * math.log(self.std * math.sqrt(2 * math.pi))
        return both[:, :-1], both[:, -1], constant

    @staticmethod
    def _step(t: sg.records.Level, s: sg.records.Level) -> tuple[float, float, float]:
        one, none = torch.ones(1, 1, 1, dtype=F64), torch.zeros(1, 1, 1, dtype=F64)
        along_x, along_d = (
            sg.kernels.DDPM().step(*pair, t, s) for pair in ((one, none), (none, one))
        )
        return float(along_x.mean), float(along_d.mean), float(along_x.std)
