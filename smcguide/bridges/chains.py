"""Chains for ArviZ: `InferenceData` with ArviZ 0.x, `xarray.DataTree` with 1.x.

Chains and draws are ArviZ's own: R-hat and effective sample size mean what they say, R-hat where the
chains have the same target. The container writes itself to a file, `to_arviz().to_netcdf(path)`.
"""

from typing import Any

from smcguide.bridges.arviz import container
from smcguide.bridges.datasets import attributes, dataset
from smcguide.chains import Chains, ParameterChains


def chains_to_arviz(chains: Chains) -> Any:
    """Groups `posterior` (x0) and `sample_stats` (log_evidence, changed by step).

    Raises:
        MissingExtra: without xarray or ArviZ.
    """
    return container({**chain_stats(chains), "posterior": dataset({"x0": chains.x})})


def parameters_to_arviz(chains: ParameterChains) -> Any:
    """Groups `posterior` (theta, x0) and `sample_stats` (log_evidence, log_prior, accepted).

    Raises:
        MissingExtra: without xarray or ArviZ.
    """
    draws = {"theta": chains.theta, "x0": chains.x}
    return container({**chain_stats(chains), "posterior": dataset(draws)})


def chain_stats(chains: Chains | ParameterChains) -> dict[str, Any]:
    """The group `sample_stats`, and the attributes "/"."""
    if isinstance(chains, Chains):
        stats = dataset({"log_evidence": chains.log_z, "changed": chains.changed})
        stats = stats.rename(changed_dim_0="step")
    else:
        stats = dataset({
            "log_evidence": chains.log_z, "log_prior": chains.log_prior, "accepted": chains.accepted,
        })  # fmt: skip
    about = {"evaluations": chains.evaluations, "settings": chains.settings}
    return {"/": attributes(about), "sample_stats": stats}
