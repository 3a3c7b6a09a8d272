"""The result of a run: weighted particles that answer questions.

Answers carry a leading axis of systems S exactly when systems were asked for (num_systems, or one
observation per system). Weights are kept to the end: equal-weight draws are an explicit call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.answers import Answers
from smcguide.evidence import POOL, WITHHELD, chan_lai, olsson_douc, standard_error
from smcguide.exactness import EXACT
from smcguide.exports import Exports


@dataclass(frozen=True, eq=False)
class Posterior(Answers, Exports):
    """Weighted particles of S systems, with the history of their weights.

    Attributes:
        x: (S, N, *E) particles.
        log_w: (S, N) float64 final log-weights.
        eves: (S, N) index of each particle's ancestor in the initial population.
        log_z: (S,) log-evidence.
        bound: (S,) lower bound of log Z, mean of -(C + path KL); NaN where resampling happened.
        trace: name -> (S, K + 1): ess, resampled, log_evidence, unique_ancestors, unique_eves, ...
        times: (K + 1,) times of the states.
        recorded: name -> (S, K + 1, ...), what the run was asked to record.
        evaluations: total number of network_forward, network_backward and cost evaluations.
        settings: what was run, as text and numbers.
        parameters: unknown parameters of the cost, name -> (S, N, ...), see `marginal`.
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
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    has_systems: bool = True
    are_replicates: bool = True

    def __repr__(self) -> str:
        S, N = self.log_w.shape
        best = f"log Z {float(self.log_z[0]):.3f}" if S == 1 else f"{S} systems"
        return (
            f"Posterior({best}, {N} particles of shape {tuple(self.x.shape[2:])}, {self.exactness}; "
            ".summary() says more)"
        )

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
    def exactness(self) -> str:
        """What may be claimed of this result, from the parts that made it; see `smcguide.exactness`."""
        return str(self.settings.get("exactness", EXACT))

    @property
    def log_evidence(self) -> Tensor:
        """log Z (S,), or a scalar; NaN where `exactness` says that there is none."""
        return self._answer(self.log_z)

    def standard_error(self) -> tuple[Tensor, str]:
        """Standard errors of log Z (S,), and the name of the estimator."""
        if bool(self.log_z.isnan().all()):
            return self.log_z, WITHHELD
        if "pooled_se" in self.settings:
            return torch.full_like(self.log_z, self.settings["pooled_se"]), POOL
        return standard_error(
            self.log_z,
            weights.normalise(self.log_w),
            self.eves,
            self.trace["resampled"].sum(1),
            multinomial=self._is_multinomial,
            replicates=self.are_replicates,
        )

    @property
    def _is_multinomial(self) -> bool:
        """Whether every event that joined families was a plain multinomial resampling."""
        said = {name: str(self.settings.get(name, "")) for name in ("resampler", "move")}
        plain = "waste_free=True" not in said["move"] and "start" not in self.settings
        return plain and said["resampler"].startswith("Multinomial")

    def expect_se(
        self, f: Callable[[Tensor], Tensor] = lambda x: x, lag: int | None = None
    ) -> Tensor:
        """Standard error of `expect(f)`, by default of the mean, from the families of this run.

        Chan-Lai's estimate; Olsson-Douc's, with families of `lag` generations (None: the longest memory
        that is alive), if the run recorded "ancestors". NaN where all particles are one family.
        """
        values = f(self.x.flatten(0, 1)).unflatten(0, self.x.shape[:2])
        W = weights.normalise(self.log_w)
        if "ancestors" in self.recorded:
            return self._answer(olsson_douc(values, W, self.recorded["ancestors"], lag)[0].sqrt())
        return self._answer(chan_lai(values, W, self.eves).sqrt())

    @property
    def log_evidence_se(self) -> Tensor:
        """Standard error of each log Z; NaN if it cannot be told. See `log_evidence_method`."""
        return self._answer(self.standard_error()[0])

    @property
    def log_evidence_method(self) -> str:
        """Which estimator `log_evidence_se` used."""
        return self.standard_error()[1]

    @property
    def ess(self) -> Tensor:
        """Effective sample size of the final weights (S,), or a scalar."""
        return self._answer(weights.ess(self.log_w))

    @property
    def dtm_bound(self) -> Tensor:
        """Variational lower bound of log Z; NaN unless the run never resampled."""
        return self._answer(self.bound)

    def pooled(self) -> "Posterior":
        """Replicate systems as one population of S N particles, each system weighted by its Z.

        Raises:
            InvalidInput: if the systems are different problems.
        """
        from smcguide.results import pooled

        return pooled(self)

    def unweighted(self) -> "Posterior":
        """The particles with equal weights: what a guidance method without weights would report. Labelled
        biased, without log Z."""
        from smcguide.results import unweighted

        return unweighted(self)

    def summary(self) -> str:
        """A few lines: evidence, ESS, survivors, cost."""
        from smcguide.results import summary

        return summary(self)
