"""The result of a run: weighted particles that answer questions.

Answers carry a leading axis of systems S exactly when systems were asked for (num_systems, or one
observation per system); sizes are never guessed. Weights are kept to the end: equal-weight draws are
an explicit call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.evidence import standard_error
from smcguide.records import Particles, StepInfo


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weighted particles of S systems, with the history of their weights.

    Attributes:
        x: (S, N, *E) particles.
        log_w: (S, N) float64 final log-weights.
        eves: (S, N) index of each particle's ancestor in the initial population.
        log_z: (S,) log-evidence.
        bound: (S,) variational lower bound of log Z, the mean of -(C + path KL); NaN where
            resampling happened or the model has none.
        trace: name -> (S, K + 1): ess, resampled, log_evidence, unique_ancestors, unique_eves, ...
        times: (K + 1,) times of the states.
        recorded: name -> (S, K + 1, ...), what the run was asked to record.
        evaluations: total number of network_forward, network_backward and cost evaluations.
        settings: what was run, as text and numbers.
        has_systems: whether answers carry the axis S.
        are_replicates: whether the systems are replicates of one problem.
    """

    x: Tensor
    log_w: Tensor
    eves: Tensor
    log_z: Tensor
    bound: Tensor
    trace: Mapping[str, Tensor]
    times: Tensor
    recorded: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    has_systems: bool = True
    are_replicates: bool = True

    @classmethod
    def from_run(cls, particles: Particles, trace: Sequence[StepInfo], **about: Any) -> "Posterior":
        """The posterior of a final population and its trace."""
        names = ("ess", "resampled", "log_evidence", "unique_ancestors", "unique_eves")
        rows = {name: torch.stack([getattr(info, name) for info in trace], 1) for name in names}
        rows |= {n: torch.stack([i.report[n] for i in trace], 1) for n in trace[-1].report}
        kept = {n: torch.stack([i.recorded[n] for i in trace], 1) for n in trace[-1].recorded}
        log_z, carry = trace[-1].log_evidence, particles.carry
        bound = torch.full_like(log_z, math.nan)
        if "path_kl" in carry:
            elbow = (carry["log_psi"] - carry["path_kl"]).mean(1)
            bound = torch.where(rows["resampled"].any(1), bound, elbow)
        times = torch.tensor([info.time for info in trace], dtype=torch.float64)
        return cls(
            particles.x, particles.log_w, particles.eve, log_z, bound, rows, times, kept, **about
        )

    def _answer(self, a: Tensor, axis: int = 0) -> Tensor:
        return a if self.has_systems else a.select(axis, 0)

    # ---- numbers ---------------------------------------------------------------------------------

    @property
    def particles(self) -> Tensor:
        """(S, N, *E), or (N, *E) without systems."""
        return self._answer(self.x)

    @property
    def log_weights(self) -> Tensor:
        """Unnormalised log-weights (S, N), or (N,)."""
        return self._answer(self.log_w)

    @property
    def weights(self) -> Tensor:
        """Normalised weights (S, N), or (N,)."""
        return self._answer(weights.normalise(self.log_w))

    @property
    def log_evidence(self) -> Tensor:
        """log Z (S,), or a scalar."""
        return self._answer(self.log_z)

    def _standard_error(self) -> tuple[Tensor, str]:
        return standard_error(
            self.log_z,
            weights.normalise(self.log_w),
            self.eves,
            self.trace["resampled"].sum(1),
            multinomial=str(self.settings.get("resampler", "")).startswith("Multinomial"),
            replicates=self.are_replicates,
        )

    @property
    def log_evidence_se(self) -> Tensor:
        """Standard error of each log Z; NaN if it cannot be told. See `log_evidence_method`."""
        return self._answer(self._standard_error()[0])

    @property
    def log_evidence_method(self) -> str:
        """Which estimator `log_evidence_se` used."""
        return self._standard_error()[1]

    @property
    def ess(self) -> Tensor:
        """Effective sample size of the final weights (S,), or a scalar."""
        return self._answer(weights.ess(self.log_w))

    @property
    def dtm_bound(self) -> Tensor:
        """Variational lower bound of log Z; NaN unless the run never resampled."""
        return self._answer(self.bound)

    # ---- questions -------------------------------------------------------------------------------

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Posterior expectation of f: (M, *E) -> (M, *F); returns (S, *F), or (*F)."""
        values = f(self.x.flatten(0, 1)).unflatten(0, self.x.shape[:2]).double()
        W = weights.normalise(self.log_w)
        values = torch.where(_like(W, values) > 0, values, 0.0)  # a dead particle may be anything
        return self._answer((_like(W, values) * values).sum(1))

    def mean(self) -> Tensor:
        """Posterior mean, float64."""
        return self.expect(lambda x: x)

    def std(self) -> Tensor:
        """Posterior standard deviation of each coordinate."""
        mean = self.mean() if self.has_systems else self.mean()[None]
        square = (self.x.double() - mean[:, None]).square().flatten(0, 1)
        return self.expect(lambda x: square).sqrt()

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Weighted quantiles of each coordinate, (len(q), S, *E); without the first axis for a float.

        Raises:
            InvalidInput: for q outside [0, 1].
        """
        levels = torch.as_tensor(q, dtype=torch.float64, device=self.x.device)
        if not bool(((levels >= 0) & (levels <= 1)).all()):
            raise InvalidInput(f"quantile: levels must be in [0, 1], got {q}.")
        x, order = self.x.flatten(2).mT.sort(-1)
        W = weights.normalise(self.log_w)[:, None].expand(x.shape).gather(-1, order)
        cdf = W.cumsum(-1)
        points = levels.reshape(-1).expand(*x.shape[:2], -1).contiguous()
        index = torch.searchsorted((cdf / cdf[..., -1:]).contiguous(), points).clamp(max=x.shape[-1] - 1)
        out = x.gather(-1, index).movedim(-1, 0).unflatten(-1, self.x.shape[2:] or (1,))
        out = out if self.x.ndim > 2 else out[..., 0]
        return self._answer(out if levels.ndim else out[0], 1 if levels.ndim else 0)

    def ancestors_of_draws(self, num: int, seed: int = 0) -> Tensor:
        """Indices (S, num) of equal-weight draws: stratified, in random order."""
        generator = torch.Generator(self.x.device).manual_seed(seed)
        u = torch.rand(
            len(self.x), num, generator=generator, dtype=torch.float64, device=self.x.device
        )
        order = torch.rand(u.shape, generator=generator, device=self.x.device).argsort(-1)
        points = (torch.arange(num, device=u.device) + u) / num
        return weights.inverse_cdf(self.log_w, points).gather(-1, order)

    def draws(self, num: int, seed: int = 0) -> Tensor:
        """Equal-weight draws (S, num, *E), or (num, *E)."""
        index = self.ancestors_of_draws(num, seed)
        systems = torch.arange(len(self.x), device=index.device)[:, None]
        return self._answer(self.x[systems, index])

    def get_samples(self, num_samples: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """Equal-weight draws as a dictionary, by default as many as particles."""
        return {"x0": self.draws(num_samples or self.x.shape[1], seed)}

    def get_weighted_samples(self) -> tuple[dict[str, Tensor], Tensor]:
        """The particles as a dictionary, and their log-weights."""
        return {"x0": self.particles}, self.log_weights

    def pooled(self) -> "Posterior":
        """Replicate systems as one population of S N particles, each system weighted by its Z.

        Raises:
            InvalidInput: if the systems are different problems.
        """
        if not self.are_replicates:
            raise InvalidInput("pooled: the systems have different observations; there is no pool.")
        S, N = self.log_w.shape
        within = self.log_w - weights.log_mean_exp(self.log_w)[:, None]
        log_w = (self.log_z[:, None] + within).reshape(1, -1)
        eves = (self.eves + N * torch.arange(S, device=self.eves.device)[:, None]).reshape(1, -1)
        trace = {name: a.double().mean(0, keepdim=True) for name, a in self.trace.items()}
        trace["resampled"] = trace["resampled"] > 0
        return Posterior(
            self.x.flatten(0, 1)[None], log_w, eves, weights.log_mean_exp(log_w),
            self.bound.mean(0, keepdim=True), trace, self.times, {}, self.evaluations,
            {**self.settings, "pooled": S}, has_systems=False,
        )  # fmt: skip

    # ---- for people ------------------------------------------------------------------------------

    def summary(self) -> str:
        """A few lines: evidence, ESS, survivors, cost."""
        se = self._standard_error()[0]
        lines = ["system    log Z +- s.e.          ESS   ancestors   resampled"]
        rows = zip(self.log_z, se, weights.ess(self.log_w), strict=True)
        for s, (z, e, n) in enumerate(rows):
            kept, times = int(self.eves[s].unique().numel()), int(self.trace["resampled"][s].sum())
            lines.append(f"{s:6d} {z:10.3f} +- {e:<7.3f} {n:10.1f} {kept:11d} {times:11d}")
        lines.append(f"{self.x.shape[1]} particles per system; s.e. by {self.log_evidence_method}")
        lines.append(", ".join(f"{k} {v}" for k, v in {**self.evaluations, **self.settings}.items()))
        return "\n".join(lines)

    def to_arviz(self, num_draws: int | None = None) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x); needs the extra `arviz`."""
        from smcguide.bridges.arviz import to_arviz

        return to_arviz(self, num_draws)

    def save(self, path: str | Path) -> None:
        """Write a netCDF file that `Posterior.load`, xarray and ArviZ open; needs the extra `arviz`."""
        from smcguide.bridges.netcdf import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "Posterior":
        """Read a file written by `save`, onto the CPU."""
        from smcguide.bridges.netcdf import load

        return load(Path(path))

    def plot(self) -> Any:
        """A figure of the posterior and of the run; needs the extra `plots`."""
        from smcguide.plots import plot_posterior

        return plot_posterior(self)


def _like(W: Tensor, values: Tensor) -> Tensor:
    """Weights (S, N) with singleton axes to multiply values (S, N, *F)."""
    return W.reshape(*W.shape, *[1] * (values.ndim - 2))
