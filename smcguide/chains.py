"""Results of Markov chains: draws of equal weight, correlated along each chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from smcguide.exactness import LIMIT


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains of paths, by `particle_gibbs`. S chains with n draws each, paths of K transitions.

    Attributes:
        x: (S, n, *E) last states of the paths, x_0 of a diffusion.
        log_z: (S, n) log-evidence estimates of the sweeps. A run along a path sees that path's weight
            for free: these are not unbiased, and no substitute for `run`. They show how far apart runs
            are.
        changed: (S, n, K + 1) bool, whether a sweep replaced the path's state at each time.
        times: (K + 1,) times of the states.
        paths: (S, n, K + 1, *E), where asked for.
        evaluations: total number of network_forward, network_backward and cost evaluations.
        settings: what was run, as text and numbers.
        are_replicates: whether the chains have the same target.
    """

    x: Tensor
    log_z: Tensor
    changed: Tensor
    times: Tensor
    paths: Tensor | None = None
    evaluations: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    are_replicates: bool = True

    def __repr__(self) -> str:
        S, n = self.log_z.shape
        return f"Chains({S} chains of {n} draws of shape {tuple(self.x.shape[2:])}; .summary() says more)"

    @property
    def exactness(self) -> str:
        """What may be claimed of these chains; see `smcguide.exactness`."""
        return str(self.settings.get("exactness", LIMIT))

    @property
    def update_rate(self) -> Tensor:
        """(K + 1,) how often a sweep replaced the path's state at each time, the first draw left out.
        Near 0 at the noisy end means too few particles: the chain sees few beginnings."""
        return self.changed[:, 1:].double().mean((0, 1))

    def draws(self) -> Tensor:
        """All draws (S n, *E); (S, n, *E) where each chain has its own target."""
        return self.x.flatten(0, 1) if self.are_replicates else self.x

    def mean(self) -> Tensor:
        """Posterior mean (*E), float64; (S, *E) where each chain has its own target."""
        return self.draws().double().mean(0 if self.are_replicates else 1)

    def std(self) -> Tensor:
        """Posterior standard deviation of each coordinate, shaped like the mean."""
        return self.draws().double().std(0 if self.are_replicates else 1)

    def summary(self) -> str:
        """A few lines: how the paths change, log Z of the sweeps, cost and settings."""
        rate = self.changed[:, 1:].double().mean(1)
        lines = ["chain   replaced at the start   and at the end   log Z of sweeps (biased)"]
        rows = zip(rate[:, 0], rate[:, -1], self.log_z.double(), strict=True)
        for s, (first, last, z) in enumerate(rows):
            spread = f"{z.mean():.3f}, sd {z.std(unbiased=False):.3f}"
            lines.append(f"{s:5d} {first:23.2f} {last:16.2f}   {spread}")
        return "\n".join([*lines, f"{self.x.shape[1]} draws per chain", *_footer(self)])

    def to_arviz(self) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x), chain by draw; needs the extra `arviz`."""
        from smcguide.bridges.chains import chains_to_arviz

        return chains_to_arviz(self)


@dataclass(frozen=True, eq=False)
class ParameterChains:
    """Chains of parameters with a draw of the event each, by `pmmh`. C chains with n draws each.

    Attributes:
        theta: (C, n, p) float64 parameters.
        x: (C, n, *E) events: pairs (theta, x) are draws of the joint posterior.
        log_z: (C, n) log-evidence estimate that the current parameters were accepted with.
        log_prior: (C, n) log prior density of the current parameters.
        accepted: (C, n) bool, whether the candidate was accepted.
        evaluations: total number of network_forward, network_backward and cost evaluations.
        settings: what was run, as text and numbers.
    """

    theta: Tensor
    x: Tensor
    log_z: Tensor
    log_prior: Tensor
    accepted: Tensor
    evaluations: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        C, n, p = self.theta.shape
        return f"ParameterChains({C} chains of {n} draws of {p} parameters; .summary() says more)"

    @property
    def exactness(self) -> str:
        """What may be claimed of these chains; see `smcguide.exactness`."""
        return str(self.settings.get("exactness", LIMIT))

    @property
    def acceptance_rate(self) -> Tensor:
        """(C,) fraction of candidates accepted. Without noise in log Z about 0.25 to 0.45 is good; a
        standard deviation of log Z above 2 or so keeps it near 0: use more particles."""
        return self.accepted.double().mean(1)

    def draws(self) -> Tensor:
        """All parameters (C n, p)."""
        return self.theta.flatten(0, 1)

    def mean(self) -> Tensor:
        """Posterior mean of the parameters (p,)."""
        return self.draws().mean(0)

    def std(self) -> Tensor:
        """Posterior standard deviation of each parameter (p,)."""
        return self.draws().std(0)

    def summary(self) -> str:
        """A few lines: mean and deviation per parameter, acceptance, cost and settings."""
        lines = ["parameter       mean         sd"]
        rows = zip(self.mean(), self.std(), strict=True)
        lines += [f"{i:9d} {m:10.4g} {s:10.4g}" for i, (m, s) in enumerate(rows)]
        rates = ", ".join(f"{rate:.2f}" for rate in self.acceptance_rate)
        counts = f"{self.theta.shape[0]} chains with {self.theta.shape[1]} draws"
        return "\n".join([*lines, f"{counts}, acceptance {rates}", *_footer(self)])

    def to_arviz(self) -> Any:
        """InferenceData (ArviZ 0.x) or DataTree (1.x), chain by draw; needs the extra `arviz`."""
        from smcguide.bridges.chains import parameters_to_arviz

        return parameters_to_arviz(self)


def _footer(chains: Chains | ParameterChains) -> list[str]:
    lines = [f"exactness: {chains.exactness}"]
    lines.append("evaluations: " + ", ".join(f"{k} {v}" for k, v in chains.evaluations.items()))
    return lines + [f"{k}: {v}" for k, v in chains.settings.items() if k != "exactness"]
