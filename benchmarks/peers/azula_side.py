"""The mixture sampled by azula's TDS. Argument: float32, or float64.

Its user writes the denoiser and the twist log p(y | x_0 hat, t), here the same values as everybody's.
The sampler takes equal steps in the time of a noise schedule; it is given the levels of the problem's
grid, or its own VP schedule. It returns particles of equal weight, and no evidence.
"""

import math
import sys
from functools import cache
from typing import Any

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance.tds import TDSSampler
from azula.noise import Schedule, VPSchedule
from protocol import serve, timed
from torch import Tensor


class Grid(Schedule):
    """The levels of a grid, at equal times from 1 to 0."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self.alpha, self.sigma = alpha, sigma

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        k = ((1 - t) * (len(self.alpha) - 1)).round().long()
        return self.alpha[k], self.sigma[k]


class Mixture(Denoiser):
    """Its exact denoiser."""

    def __init__(self, p: dict[str, Tensor], schedule: Schedule) -> None:
        super().__init__()
        self.p, self.schedule = p, schedule

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        m, v = self.p["means"], self.p["variance"]
        total = alpha**2 * v + sigma**2
        bias = self.p["log_weights"] - alpha**2 / (2 * total) * m.square().sum(1)
        r = torch.softmax(torch.addmm(bias[:, None], m * (alpha / total), x_t.T), 0)
        gain = alpha * v / total
        return DiracPosterior(gain * x_t + (1 - gain * alpha) * (r.T @ m))


class Twist:
    """N(y; A x_0 hat, s^2 I + A V_t A^T), V_t the prior's covariance narrowed by what x_t tells."""

    def __init__(self, p: dict[str, Tensor]) -> None:
        self.p = p

    def __call__(self, x_hat: Tensor, ratio: Tensor) -> Tensor:
        A, y, std = self.p["A"], self.p["y"], self.p["noise_std"]
        V = 1 / (1 / self.p["spectrum"] + 1 / ratio.clamp(min=1e-12) ** 2)
        F = A @ self.p["basis"] / std
        L = torch.linalg.cholesky(torch.eye(len(y)).to(F) + (F * V) @ F.T)
        r = torch.linalg.solve_triangular(L, (y - x_hat @ A.T).T / std, upper=False)
        constant = L.diagonal().log().sum() + len(y) * (std.log() + 0.5 * math.log(2 * math.pi))
        return -0.5 * r.square().sum(0) - constant


@cache
def load(problem: str) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(a, dtype=torch.get_default_dtype())
        for name, a in np.load(problem).items()
    }


def sample(problem: str, levels: str, num: int, seed: int) -> dict[str, Any]:
    """One run to the end; `levels` "grid" for those of the problem, "own" for the library's."""
    p = load(problem)
    torch.manual_seed(seed)
    schedule = Grid(p["alpha"], p["sigma"]) if levels == "grid" else VPSchedule()
    steps = len(p["alpha"]) - 1
    sampler = TDSSampler(Mixture(p, schedule), Twist(p), steps=steps, silent=True)

    def run() -> Tensor:
        alpha, sigma = schedule(torch.ones(()))
        which = torch.multinomial(p["log_weights"].exp(), num, replacement=True)
        x0 = p["means"][which]
        x = alpha * x0 + (alpha**2 * p["variance"] + sigma**2).sqrt() * torch.randn_like(x0)
        return sampler(x)

    seconds, x = timed(run)
    return {"seconds": seconds, "mean": x.mean(0).tolist()}


if __name__ == "__main__":
    torch.set_default_dtype(getattr(torch, sys.argv[1]))
    torch.set_num_threads(1)
    serve(("azula", "torch"), {"sample": sample})
