r"""What a run must answer, computed without particles and without the code under test.

**Gaussian prior, linear-Gaussian cost.** For N(mu, Sigma) the exact denoiser is affine,

    D(x) = mu + G (x - alpha mu),      G = alpha Sigma (alpha^2 Sigma + sigma^2 I)^-1,

a DDIM(eta) step with D in it is affine plus noise,

    x_s = alpha_s D + c (x_t - alpha_t D) + sqrt(v) z,      c = sqrt(sigma_s^2 - v) / sigma_t,
    v = eta^2 sigma_s^2 (1 - alpha_t^2 sigma_s^2 / (alpha_s^2 sigma_t^2)),

so the law of x_0 *under the discretised chain* is a recursion on mean and covariance. On coarse
grids it is far from N(mu, Sigma), and it is what the weights of a run target (rule T2).

**Anything in one or two dimensions.** Many paths of the base chain with weights exp(-C).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.kernels.base import Kernel
from smcguide.priors.base import Prior
from smcguide.records import Level
from smcguide.testing.statistics import generator


@dataclass(frozen=True)
class GaussianLaw:
    """N(mean, covariance) on flat events, float64.

    Attributes:
        mean: (d,).
        covariance: (d, d).
    """

    mean: Tensor
    covariance: Tensor

    def affine(self, F: Tensor, b: Tensor, variance: float) -> "GaussianLaw":
        """Law of F x + b + sqrt(variance) z."""
        noise = variance * torch.eye(len(b), dtype=b.dtype)
        return GaussianLaw(F @ self.mean + b, F @ self.covariance @ F.T + noise)

    def log_evidence(self, A: Tensor, y: Tensor, noise_std: float) -> float:
        """log p(y) for y = A x + noise_std n, A (m, d), y (m,)."""
        cov = A @ self.covariance @ A.T + noise_std**2 * torch.eye(len(y), dtype=y.dtype)
        gap = y - A @ self.mean
        square = gap @ torch.linalg.solve(cov, gap)
        return float(-0.5 * (square + torch.logdet(2 * math.pi * cov)))

    def posterior(self, A: Tensor, y: Tensor, noise_std: float) -> "GaussianLaw":
        """Law of x given y = A x + noise_std n, in information form."""
        precision = torch.linalg.inv(self.covariance)
        covariance = torch.linalg.inv(precision + A.T @ A / noise_std**2)
        pull = precision @ self.mean + A.T @ y / noise_std**2
        return GaussianLaw(covariance @ pull, covariance)


def gaussian_chain(
    mean: Tensor,
    covariance: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    start: Literal["marginal", "noise"] = "marginal",
) -> GaussianLaw:
    """Law of x_0 under the DDIM(eta) chain of the prior N(mean, covariance).

    Arguments:
        mean: (d,) float64.
        covariance: (d, d).
        levels: decreasing noise levels, the last one data.
        eta: of the kernel; 1 is DDPM.
        start: "marginal" for priors that draw x_T exactly, as `GaussianMixture` does; "noise" for
            N(0, sigma_T^2 I), the default of a `Prior`.
    """
    eye, T = torch.eye(len(mean), dtype=mean.dtype), levels[0]
    law = GaussianLaw(torch.zeros_like(mean), T.sigma**2 * eye)
    if start == "marginal":
        law = GaussianLaw(T.alpha * mean, T.alpha**2 * covariance + T.sigma**2 * eye)
    for t, s in pairwise(levels):
        law = law.affine(*affine_step(mean, covariance, t, s, eta))
    return law


def affine_step(
    mean: Tensor, covariance: Tensor, t: Level, s: Level, eta: float = 1.0
) -> tuple[Tensor, Tensor, float]:
    """F (d, d), b (d,), v of the DDIM(eta) step x_s = F x_t + b + sqrt(v) z of N(mean, covariance)."""
    eye = torch.eye(len(mean), dtype=mean.dtype)
    noisy = t.alpha**2 * covariance + t.sigma**2 * eye
    G = t.alpha * torch.linalg.solve(noisy, covariance)
    b = mean - t.alpha * (G @ mean)
    v = eta**2 * s.sigma**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2)
    c = math.sqrt(max(0.0, s.sigma**2 - v)) / t.sigma
    pull = s.alpha - c * t.alpha
    return pull * G + c * eye, pull * b, v


@dataclass(frozen=True)
class Evidence:
    """A log-evidence and its standard error."""

    log_z: float
    se: float


@torch.no_grad()
def brute_force(
    prior: Prior,
    kernel: Kernel,
    levels: Sequence[Level],
    cost: TerminalCost,
    num_paths: int = 10**6,
    *,
    stream: str = "brute force",
    batch: int = 2**17,
) -> Evidence:
    """log E[exp(-C(x_0))] over independent paths of the base chain.

    Arguments:
        prior, kernel, levels: the chain.
        cost: called on (1, M, *E).
        num_paths: number of paths; meant for one or two dimensions and a few steps.
        stream: name of the random numbers.
        batch: paths simulated at once.
    """
    source, values = generator(stream, prior.device), []
    for begin in range(0, num_paths, batch):
        x = prior.initial(min(batch, num_paths - begin), levels[0], source)[None]
        memory = None
        for t, s in pairwise(levels):
            base = kernel.step(x, prior.denoise(x[0], t.time)[None], t, s, memory)
            z = torch.randn(x.shape, generator=source, dtype=x.dtype, device=x.device)
            x, memory = base.sample(z), base.memory
        values.append(-cost(x)[0].double().cpu())
    log_w = torch.cat(values)
    top = log_w.max()
    w = torch.exp(log_w - top)
    relative = float(w.std() / w.mean()) / num_paths**0.5
    return Evidence(float(top + w.mean().log()), relative)
