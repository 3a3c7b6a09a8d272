r"""Gaussian mixtures: a prior for which everything is known. Internals are float64.

    p(x_0) = sum_k w_k N(m_k, S_k),     x_t | k ~ N(alpha m_k, alpha^2 S_k + sigma^2 I)

With S_k = U_k diag(v_k) U_k^T and responsibilities r_k(x_t), the denoiser is

    D(x) = sum_k r_k [ m_k + U_k diag(alpha v_k / (alpha^2 v_k + sigma^2)) U_k^T (x - alpha m_k) ].
"""

from typing import Self

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.kept import Kept
from smcguide.priors.base import Prior, require_float
from smcguide.priors.components import Components, ManyShapes, OneShape
from smcguide.priors.conjugate import condition
from smcguide.randomness import normals
from smcguide.records import Level
from smcguide.rehearsal import Moments
from smcguide.schedules import VP, Schedule
from smcguide.weights import log_sum_exp


class GaussianMixture(Prior):
    """Mixture of K Gaussians with its exact denoiser, marginals, posterior and evidence.

    Arguments:
        weights: (K,) nonnegative, normalised here.
        means: (K, *E); their dtype (float32 or float64) is that of the particles.
        covariances: (d, d) shared or (K, d, d), d = prod(E); exclusive with `scale`.
        scale: standard deviation, a float or (K,) for isotropic components.
        schedule: noise schedule, default VP().

    Raises:
        InvalidInput: shapes that do not fit, negative weights, covariances not positive.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor | None = None,
        scale: float | Tensor | None = None,
        *,
        schedule: Schedule | None = None,
    ) -> None:
        if means.ndim < 2:
            raise InvalidInput(
                f"GaussianMixture: means of shape {tuple(means.shape)}; expected (K, *E)."
            )
        self.schedule = schedule or VP()
        self.event_shape = tuple(means.shape[1:])
        self.dtype = require_float(means.dtype, "GaussianMixture")
        self.device = means.device
        self._m = means.detach().flatten(1).double()
        K, d = self._m.shape
        w = torch.as_tensor(weights, dtype=torch.float64, device=self.device)
        if w.shape != (K,) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
            raise InvalidInput(
                f"GaussianMixture: weights must be {K} nonnegative numbers, one per mean "
                f"(means have shape {tuple(means.shape)}), got shape {tuple(w.shape)}."
            )
        self._log_w = torch.log(w / w.sum())
        self._v, self._U = self._spectrum(covariances, scale, K, d)
        self._remember()

    def _spectrum(
        self, cov: Tensor | None, scale: float | Tensor | None, K: int, d: int
    ) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues (1 or K, d) and eigenvectors (1 or K, d, d), None for isotropic."""
        if (cov is None) == (scale is None):
            raise InvalidInput(
                "GaussianMixture: give either covariances or scale, not both or none."
            )
        if scale is not None:
            s = torch.as_tensor(scale, dtype=torch.float64, device=self.device)
            if s.shape not in [(), (K,)] or not bool((s >= 0).all()):
                raise InvalidInput(f"GaussianMixture: scale must be >= 0, a float or ({K},).")
            return (s**2).reshape(-1, 1).expand(-1, d), None
        full = torch.as_tensor(cov, dtype=torch.float64, device=self.device)
        if full.shape not in [(d, d), (K, d, d)]:
            raise InvalidInput(
                f"GaussianMixture: covariances must be ({d}, {d}) or ({K}, {d}, {d}) over flattened "
                f"events, got {tuple(full.shape)}."
            )
        v, U = torch.linalg.eigh(full.reshape(-1, d, d))
        if float(v.min()) < -1e-9 * float(v.max()):
            raise InvalidInput(
                f"GaussianMixture: a covariance has eigenvalue {float(v.min()):.3g}."
            )
        return v.clamp(min=0), U

    def _remember(self) -> None:
        """A table of levels, on the device of the means."""
        numbers = 2 * (self._m.numel() + self._v.numel())
        self._at: Kept[Level, Components] = Kept(self._components, numbers)

    def _components(self, t: Level) -> Components:
        shape = (self._log_w, self._m)
        if len(self._v) > 1:
            return ManyShapes(*shape, self._v, self._U, t)
        return OneShape(*shape, self._v[0], None if self._U is None else self._U[0], t)

    def denoise(self, x: Tensor, t: float) -> Tensor:
        D = self._at[self.schedule.level(t)].denoise(x.flatten(1).double())
        return D.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Log-density (M,) float64 of the noised marginal at time t (t = 0: the data law)."""
        return self._at[self.schedule.level(t)].log_prob(x.flatten(1).double())

    def score(self, x: Tensor, t: float) -> Tensor:
        """Gradient of log p_t at x, (M, *E), for t > 0."""
        level = self.schedule.level(t)
        return (level.alpha * self.denoise(x, t) - x) / level.sigma**2

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws (num, *E) from the data law."""
        if generator is None:
            generator = torch.Generator(self.device).manual_seed(0)
        k = torch.multinomial(self._log_w.exp(), num, replacement=True, generator=generator)
        z = normals((num, self._m.shape[1]), generator, torch.float64)
        z = z * self._v.expand(len(self._m), -1)[k].sqrt()
        if self._U is not None:
            U = self._U[0] if len(self._U) == 1 else self._U[k]
            z = z @ U.T if U.ndim == 2 else torch.einsum("me,mde->md", z, U)
        return (self._m[k] + z).reshape(num, *self.event_shape).to(self.dtype)

    exact_draws = sample

    def initial(self, num: int, t: Level, generator: torch.Generator) -> Tensor:
        return t.alpha * self.sample(num, generator) + super().initial(num, t, generator)

    def log_initial_ratio(self, x: Tensor, t: Level) -> Tensor:
        noise = torch.distributions.Normal(x.new_zeros((), dtype=torch.float64), t.sigma)
        return self.log_prob(x, t.time) - noise.log_prob(x.flatten(1).double()).sum(-1)

    def _covariances(self) -> Tensor:
        if self._U is None:
            return torch.diag_embed(self._v)
        return torch.einsum("kde,ke,kfe->kdf", self._U, self._v, self._U)

    def moments(self) -> Moments:
        w, mean = self._log_w.exp(), self._log_w.exp() @ self._m
        centred = self._m - mean
        if len(mean) > 1024:  # the diagonal only
            own = self._v if self._U is None else torch.einsum("kde,ke->kd", self._U**2, self._v)
            return Moments(mean, w @ (own.expand(len(w), -1) + centred**2))
        within = self._covariances()
        within = within[0] if len(within) == 1 else torch.einsum("k,kde->de", w, within)
        v, U = torch.linalg.eigh(within + centred.T @ (w[:, None] * centred))
        return Moments(mean, v.clamp(min=0), U)

    def posterior(self, A: Tensor, y: Tensor, noise_std: float | Tensor) -> "GaussianMixture":
        """Law of x_0 given y = A x_0 + noise_std n, exactly.

        A: (m, d) over flattened events.  y: (m,).  noise_std: a float or (m,), positive.
        """
        log_w, means, cov = condition(self._log_w, self._m, self._covariances(), A, y, noise_std)
        means = means.reshape(-1, *self.event_shape)
        cov = cov[0] if len(cov) == 1 else cov
        post = GaussianMixture(torch.softmax(log_w, 0), means, cov, schedule=self.schedule)
        return post.to(dtype=self.dtype)

    def log_evidence(self, A: Tensor, y: Tensor, noise_std: float | Tensor) -> Tensor:
        """log p(y) for y = A x_0 + noise_std n, exactly; arguments as in `posterior`."""
        log_w, _, _ = condition(self._log_w, self._m, self._covariances(), A, y, noise_std)
        return log_sum_exp(log_w)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        moved = super().to(device, dtype)
        moved._m, moved._log_w = self._m.to(moved.device), self._log_w.to(moved.device)
        moved._v = self._v.to(moved.device)
        moved._U = None if self._U is None else self._U.to(moved.device)
        moved._remember()
        return moved

    def __repr__(self) -> str:
        K = len(self._m)
        return f"{type(self).__name__}({K} components, event {self.event_shape}, {self.schedule})"
