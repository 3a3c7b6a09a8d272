"""What ArviZ wants beside the draws: the data, their likelihood, new data, and the prior.

prior                  draws of the prior through the run's own noise levels, as many
prior_predictive       new data of those
posterior_predictive   new data of the draws
log_likelihood         of each entry of the data at each draw, so that `arviz.loo` works
observed_data          the data
constant_data          noise_std of each entry, and which entries of an event a mask selects

The formulas are the cost's own methods. The data are called y; y_0, y_1, ... where several likelihoods
are added up. With one observation per system they have the axis `chain`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from smcguide.bridges.datasets import dataset, labelled
from smcguide.bridges.netcdf import to_numpy
from smcguide.costs.base import TerminalCost, as_cost
from smcguide.costs.gaussian import GaussianLikelihood
from smcguide.draws import draw, rehearse
from smcguide.errors import InvalidInput
from smcguide.kernels.matched import MatchedDDPM
from smcguide.posterior import Posterior
from smcguide.priors.base import Prior


@runtime_checkable
class Likelihood(Protocol):
    """A `TerminalCost` that knows its data.

    Attributes:
        y: (S, 1, m) data, S = 1 where all systems have the same.
        obs_shape: shape of one observation, of m entries.
    """

    y: Tensor
    obs_shape: tuple[int, ...]

    def pointwise(self, x0: Tensor) -> Tensor:
        """Log-likelihood (S, N, m) of each entry of y, for x0 (S, N, *E)."""

    def simulate(self, x0: Tensor, generator: Generator) -> Tensor:
        """New data (S, N, m)."""


def data_groups(
    log_likelihood: Mapping[str, Tensor],
    predictive: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    lead: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The three groups of data: what is (chain, draw, ...), and the data themselves, (*lead, ...)."""
    return {
        "posterior_predictive": dataset(predictive),
        "log_likelihood": dataset(log_likelihood),
        "observed_data": dataset(observed, lead),
    }


def with_total(groups: Mapping[str, Any]) -> dict[str, Any]:
    """The same groups; `sample_stats` then has the log-likelihood of all data."""
    pointwise = groups["log_likelihood"]
    own = [axis for axis in pointwise.dims if axis not in ("chain", "draw")]
    total = sum(pointwise.sum(own).data_vars.values())
    return {**groups, "sample_stats": groups["sample_stats"].assign(log_likelihood=total)}


def _whose(num_systems: int | None) -> str:
    return f"data of {num_systems} systems" if num_systems else "the same data for all systems"


def likelihoods(cost: TerminalCost | Callable[[Tensor], Tensor], like: Posterior) -> dict[str, Any]:
    """The summands of a cost that know their data, by name, where the posterior's particles are.

    Raises:
        InvalidInput: for a cost without any, and for one that does not fit the posterior.
    """
    cost = as_cost(cost).to(like.x.device)
    found = [part for part in cost.parts() if isinstance(part, Likelihood)]
    if not found:
        raise InvalidInput(
            f"to_arviz: the cost {cost!r} is a number without data: predictions and pointwise "
            "log-likelihoods need a TerminalCost with y, obs_shape, pointwise and simulate, such as "
            "LinearGaussian or GaussianLikelihood. Leave out cost= to export the rest."
        )
    expected = None if like.are_replicates else len(like.x)
    if cost.num_systems != expected:
        raise InvalidInput(
            f"to_arviz: the run had {_whose(expected)}, the cost has {_whose(cost.num_systems)}. "
            "Give the cost of the run."
        )
    cost.check(tuple(like.x.shape[2:]), like.x[0, 0])
    return {"y": found[0]} if len(found) == 1 else {f"y_{i}": c for i, c in enumerate(found)}


@torch.no_grad()
def measurement_groups(
    posterior: Posterior, parts: Mapping[str, Any], x: Tensor, generator: Generator
) -> dict[str, Any]:
    """Groups of data for draws x (S, D, *E), see `likelihoods`."""
    log_likelihood, predictive, observed = {}, {}, {}
    constants: dict[str, Any] = {}
    for name, part in parts.items():
        shape = (*x.shape[:2], *part.obs_shape)
        log_likelihood[name] = part.pointwise(x).reshape(shape)
        predictive[name] = part.simulate(x, generator).reshape(shape)
        y = part.y.reshape(-1, *part.obs_shape)
        observed[name] = y[0] if posterior.are_replicates else y
        if isinstance(part, GaussianLikelihood):
            axes = tuple(f"{name}_dim_{i}" for i in range(len(part.obs_shape)))
            std = part.std.reshape(part.obs_shape)
            constants[f"{name}_noise_std"] = axes, to_numpy(std), {}
            if part.selected is not None:
                constants[f"{name}_selected"] = axes, to_numpy(part.selected), {}
    lead = () if posterior.are_replicates else ("chain",)
    groups = data_groups(log_likelihood, predictive, observed, lead)
    return groups | ({"constant_data": labelled(constants)} if constants else {})


@torch.no_grad()
def prior_groups(
    prior: Prior, posterior: Posterior, parts: Mapping[str, Any], num: int, generator: Generator
) -> dict[str, Any]:
    """The group `prior` of num draws per system, so that a chain can be taken from all groups, and
    `prior_predictive` of the parts of the cost, if given."""
    S = len(posterior.x)
    x = _prior_draws(prior, posterior, S * num, generator).unflatten(0, (S, num))
    groups = {"prior": dataset({"x0": x})}
    if parts:
        made = {name: c.simulate(x, generator) for name, c in parts.items()}
        shaped = {name: a.reshape(S, num, *parts[name].obs_shape) for name, a in made.items()}
        groups["prior_predictive"] = dataset(shaped)
    return groups


def _prior_draws(prior: Prior, posterior: Posterior, num: int, generator: Generator) -> Tensor:
    """(num, *E) draws by the chain of `sample`'s default kernel through the noise levels of the run; of a
    grid that goes back up, the way down counts."""
    event, times = tuple(posterior.x.shape[2:]), posterior.times.tolist()
    if tuple(prior.event_shape) != event:
        raise InvalidInput(
            f"to_arviz: the prior has events of shape {tuple(prior.event_shape)}, the posterior {event}. "
            "Give the prior of the run."
        )
    down = [t for k, t in enumerate(times) if t < min(times[:k], default=math.inf)]
    if len(down) < 2 or down[-1] != times[-1]:
        raise InvalidInput(
            "to_arviz: prior= needs a run of a diffusion, whose times fall from noise to data; those of "
            f"this one go from {times[0]} to {times[-1]}."
        )
    prior = prior.to(posterior.x.device, posterior.x.dtype)
    levels = [prior.schedule.level(t) for t in down]
    return draw(prior, MatchedDDPM().bind(rehearse(prior)), levels, num, generator)
