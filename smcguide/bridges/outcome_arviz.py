"""A program's posterior for ArviZ: latents and data under the program's own names.

posterior              equal-weight draws of all latents, chain by draw
posterior_predictive   new data for each of them
log_likelihood         of each entry of the data, so that `arviz.loo` works
observed_data          the data
weighted_posterior     the weighted particles (not for Markov chains)
sample_stats           as in `bridges.files`, and the log_likelihood of all data
smc                    as there

Where netCDF would mind a name, or an axis or a weight has it, the variable is called <name>_site.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smcguide.bridges.arviz import container
from smcguide.bridges.chains import chain_stats
from smcguide.bridges.datasets import dataset, datasets, how_many_draws
from smcguide.bridges.measurement import data_groups, with_total
from smcguide.bridges.outcome import Outcome
from smcguide.posterior import Posterior

_TAKEN = ("chain", "draw", "particle", "log_weight", "eve")


def outcome_to_arviz(outcome: Outcome, num_draws: int | None = None) -> Any:
    """A program's posterior as ArviZ's own container; a chain is a system, or a Markov chain.

    Arguments:
        outcome: what inference found.
        num_draws: equal-weight draws per system; default as many as particles, at most 1000. Markov
            chains are written whole.

    Raises:
        InvalidInput: for num_draws below 1.
        MissingExtra: without xarray or ArviZ.
    """
    result, (S, N) = outcome.found.result, outcome.found.log_w.shape
    groups: dict[str, Any]
    if isinstance(result, Posterior):
        num = how_many_draws(N, num_draws)
        index = result.ancestors_of_draws(num)
        groups = datasets(result, num)
        weighted = groups["weighted_posterior"][["log_weight", "eve"]]
        particles = dataset(_named(outcome.latents), ("chain", "particle"))
        groups["weighted_posterior"] = weighted.merge(particles)
    else:
        index = torch.arange(N).expand(S, N)
        groups = chain_stats(result)
    flat = (index + N * torch.arange(S)[:, None]).flatten()
    drawn = {name: a.flatten(0, 1)[flat] for name, a in outcome.latents.items()}

    def shaped(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _named({name: a.unflatten(0, index.shape) for name, a in arrays.items()})

    groups["posterior"] = dataset(shaped(drawn))
    of_data = shaped(outcome.pointwise(flat)), shaped(outcome.simulate(flat))
    groups |= data_groups(*of_data, _named(outcome.program.observed))
    return container(with_total(groups))


def _named(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays under names that they can have in a file."""
    out: dict[str, Tensor] = {}
    for name, a in arrays.items():
        key = name.replace("/", "_")
        while key in _TAKEN or key in out or re.search(r"_dim_\d+$", key):
            key += "_site"
        out[key] = a
    return out
