"""A posterior for ArviZ: `InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x.

ArviZ summarises equal-weight draws, so the group `posterior` holds a resample; the weighted
particles are in `weighted_posterior`, the history of the run in `smc` (see `bridges.files`). The data
and the prior come from the cost and the prior of the run, where they are given (see
`bridges.measurement`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from smcguide.bridges.datasets import datasets
from smcguide.bridges.measurement import (
    likelihoods,
    measurement_groups,
    prior_groups,
    with_total,
)
from smcguide.bridges.seal import sealed
from smcguide.costs.base import TerminalCost
from smcguide.diagnostics.inputs import require_posterior
from smcguide.errors import InvalidInput, MissingExtra
from smcguide.posterior import Posterior
from smcguide.priors.base import Prior


def to_arviz(
    posterior: Posterior,
    num_draws: int | None = None,
    *,
    prior: Prior | None = None,
    cost: TerminalCost | Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Any:
    """A posterior as ArviZ's own container; see `Posterior.to_arviz`."""
    require_posterior("to_arviz", posterior)
    if prior is not None and not isinstance(prior, Prior):
        raise InvalidInput(
            f"to_arviz: prior must be the Prior of the run, got {type(prior).__name__}."
        )
    parts = {} if cost is None else likelihoods(cost, posterior)
    groups: dict[str, Any] = datasets(posterior, num_draws, seed)
    index = torch.from_numpy(groups["sample_stats"]["particle"].values).to(posterior.x.device)
    # a stream of its own: that of the seed itself chose the draws
    generator = torch.Generator(posterior.x.device).manual_seed(seed + 1)
    if parts:
        x = posterior.x[torch.arange(len(index), device=index.device)[:, None], index]
        groups = with_total(groups | measurement_groups(posterior, parts, x, generator))
    if prior is not None:
        groups |= prior_groups(prior, posterior, parts, index.shape[1], generator)
    return container(sealed(groups))


def container(groups: Mapping[str, Any]) -> Any:
    """ArviZ's container of xarray datasets, group name -> dataset; "/" holds the attributes.

    Raises:
        MissingExtra: without ArviZ.
    """
    try:
        import arviz
    except ImportError as error:
        raise MissingExtra("arviz", "arviz", "to_arviz") from error
    if int(arviz.__version__.split(".")[0]) >= 1:
        from xarray import DataTree

        return DataTree.from_dict(dict(groups))
    members = {name: group for name, group in groups.items() if name != "/"}
    return arviz.InferenceData(attrs=groups["/"].attrs, **members)
