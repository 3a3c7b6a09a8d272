r"""T7: a likelihood of the state itself. The measurement y = A x_0 + s n gets a noise level of its own,
and psi_t(x_t) = N(v_t; F_t x_t, Om_t) compares x_t with it: no denoiser, no gradient, and with a Gaussian
base step the best proposal is known (`proposals.Adapted`). R = diag(s^2), lam = sigma / alpha.

**"zhao"** (Zhao, informative likelihoods, arXiv 2506.01083). A deterministic path v_t = alpha_t y, pushed
through the chain from the data end. From s to t, with a = alpha_t / alpha_s,

    v_t = a v_s + b n,  b^2 = sigma_t^2 - a^2 sigma_s^2        the noising of the path
    x_s = r x_t + c z                                          the reverse step, c its deviation
    F_t = a r F_s,      Om_t = a^2 (c^2 F_s F_s^T + Om_s) + b^2 I

The publication has r = 1, steps small against the noise. Here r = 1 / a, what DDIM does where the
denoiser says D = x_t / alpha_t; the recursion is then solved by F_t = A, v_t = alpha_t y and

    Om_t = alpha_t^2 ( R + A A^T sum_{s < t} (c_s / alpha_s)^2 + lam_t^2 I ),

the same on every schedule, in units of x_t / alpha_t.

**"mcgdiff"** (Cardoso et al., MCGdiff, arXiv 2308.07983). With A / s = U diag(g) V^T, coordinate i of
V^T x_0 is measured as if noised to the level tau_i where lam = 1 / g_i. In variance-preserving units,
that is for x_t / n_t and alpha_t / n_t with n^2 = alpha^2 + sigma^2, and with z_i = (U^T y / s)_i / g_i,

    psi_t = prod_{i: lam_t >= 1 / g_i} N( alpha_t z_i; (V^T x_t)_i, v_i ),
    v_i = 1 - (1 - kappa) (alpha_t / alpha_tau_i)^2,

and nothing below tau_i: the noise of the chain stands for that of the measurement. Made for little noise.
At tau_i the value is far narrower than its reason, which the last weight must undo: log Z comes out low.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor

from smcguide.conditioning import GaussianValue
from smcguide.errors import InvalidInput
from smcguide.kept import Kept
from smcguide.potentials.base import Potential
from smcguide.problem import Problem
from smcguide.records import Level, Look

_LARGEST_DENSE = 2048
_CUTOFF = 1e-9  # of the largest singular value: directions that are not measured


@dataclass(frozen=True)
class NoisedObservation(Potential):
    """A Gaussian likelihood of x_t, for linear measurements.

    Summands of the cost that are not linear Gaussian likelihoods are left to the last weight.

    Arguments:
        path: how the measurement is noised, "zhao" or "mcgdiff" (above).
        kappa: of "mcgdiff", the variance at tau_i, in (0, 1].

    Raises:
        InvalidInput: for another path or kappa; with a cost that has no linear Gaussian part, or more
            than 2048 measurements.
    """

    path: Literal["zhao", "mcgdiff"] = "zhao"
    kappa: float = 1e-4
    _laws: Any = field(default=None, init=False, repr=False)
    uses_cost = 0

    def __post_init__(self) -> None:
        if self.path not in ("zhao", "mcgdiff") or not 0 < self.kappa <= 1:
            raise InvalidInput(f"{self!r}: path must be 'zhao' or 'mcgdiff', kappa in (0, 1].")

    def check(self, cost: Any) -> None:
        linear = [c for c in cost.parts() if hasattr(c, "matrix")]
        if not linear:
            raise InvalidInput(
                f"{self!r} needs a linear measurement with Gaussian noise (LinearGaussian), got "
                f"{cost!r}. For other costs use potentials.InflatedGaussian() or potentials.Tweedie()."
            )
        if (m := sum(len(c.std) for c in linear)) > _LARGEST_DENSE:
            raise InvalidInput(
                f"{self!r}: {m} measurements need dense decompositions, the limit is "
                f"{_LARGEST_DENSE}. Use potentials.InflatedGaussian()."
            )

    def bind(self, problem: Problem) -> Self:
        self.check(problem.cost)
        bound = super().bind(problem)
        seen = _Seen(problem)
        make = partial(seen.law, self.path, self.kappa)
        object.__setattr__(bound, "_laws", Kept(make, 2 * seen.A.numel()))
        return bound

    def law(self, t: Level) -> GaussianValue:
        """psi_t as N(v; F x, Omega); at data the likelihood itself."""
        laws: Kept[Level, GaussianValue] = self._laws
        return laws[t]

    def log_value(self, look: Look) -> Tensor:
        return self.law(look.t).log_density(look.x)


class _Seen:
    """The linear part of a cost, y = A x_0 + s n, and the chain it is pushed through."""

    def __init__(self, problem: Problem) -> None:
        parts = [c for c in problem.cost.parts() if hasattr(c, "matrix")]
        S = problem.cost.num_systems or 1
        self.A = torch.cat([c.matrix(problem.event_shape) for c in parts])
        self.std = torch.cat([c.std for c in parts])
        self.y = torch.cat([c.y[:, 0].expand(S, -1) for c in parts], -1)
        down = zip(problem.levels, problem.levels[1:], problem.stds, strict=False)
        self.steps = {s: c / s.alpha for t, s, c in down if s.ratio < t.ratio and c > 0}

    def law(self, path: str, kappa: float, t: Level) -> GaussianValue:
        if t.sigma == 0:
            return self.likelihood()
        return self.mcgdiff(t, kappa) if path == "mcgdiff" else self.zhao(t)

    def likelihood(self) -> GaussianValue:
        return GaussianValue(self.A, self.y, torch.diag(self.std**2))

    def zhao(self, t: Level) -> GaussianValue:
        walked = sum(c**2 for s, c in self.steps.items() if s.ratio < t.ratio)
        Om = torch.diag(self.std**2) + walked * self.A @ self.A.mT
        Om = t.alpha**2 * Om + t.sigma**2 * torch.eye(len(Om), dtype=Om.dtype, device=Om.device)
        return GaussianValue(self.A, t.alpha * self.y, Om)

    def mcgdiff(self, t: Level, kappa: float) -> GaussianValue:
        U, g, Vt = torch.linalg.svd(self.A / self.std[:, None], full_matrices=False)
        active = (g * t.ratio >= 1) & (g > _CUTOFF * g[0])
        n = math.hypot(t.alpha, t.sigma)
        alpha, g = t.alpha / n, g[active]
        z = (self.y / self.std) @ U[:, active] / g
        variance = 1 - (1 - kappa) * alpha**2 * (1 + 1 / g**2)  # alpha_tau^2 = 1 / (1 + 1 / g^2)
        return GaussianValue(Vt[active] / n, alpha * z, torch.diag(variance))
