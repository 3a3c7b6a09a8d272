"""Runs of a Pyro program with given latents: log-densities by site, one run per particle or batched.

`poutine.condition` marks latents as observed, so everything is summed by name. What poutine.scale and
masks change about a latent's log-density is counted with the observations: theta and j keep the
normalised laws they are drawn from, and the sum is Pyro's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent, MaskedDistribution, Normal
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from smcguide.bridges.pyro.sites import Sites, Values
from smcguide.bridges.pyro.sorting import Site, refusal
from smcguide.errors import InvalidInput


@contextmanager
def without_validation() -> Iterator[None]:
    """Validation branches on values, which batched particles cannot; Pyro's and torch's flags are
    as they were afterwards."""
    before = torch.distributions.Distribution._validate_args
    try:
        with pyro.validation_enabled(False):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def each(f: Callable[[Values], Values], values: Values, batched: bool) -> Values:
    """f of each of M particles, stacked; values (M, ...)."""
    if batched:
        return torch.func.vmap(f)(values)
    M = len(next(iter(values.values())))
    rows = [f({name: v[i] for name, v in values.items()}) for i in range(M)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class Runs:
    """A program with its arguments and what its sites are; values are those of one particle."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sites: Sites

    def log_densities(self, values: Values) -> Values:
        """(2,) float64 of each site but x: the normalised log-density if it is a latent, then what
        else it adds to the log-joint. All latents are given."""
        trace = self._trace(self.model, values)
        terms: Values = {}
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site):
                continue
            if name not in values and not site["is_observed"]:
                raise comes_and_goes(name)
            if name not in self.sites.priors:
                terms[name] = _terms(site, name in values)
        for name in values:
            if name not in trace.nodes:
                raise comes_and_goes(name)
        return terms

    def pointwise(self, values: Values) -> Values:
        """Log-likelihood of each entry of each observed site."""
        trace = self._trace(self.model, values)
        return {name: _log_prob(_site(trace, name)) for name in self.sites.observed}

    def normals(self, values: Values) -> Values | None:
        """Mean and standard deviation (2, *shape) of each observed site, if all are plain normals."""
        out: Values = {}
        for name, site in self._trace(self.model, values).nodes.items():
            is_other = site["type"] != "sample" or site_is_subsample(site)
            if is_other or name in self.sites.priors or site["infer"].get("_deterministic"):
                continue
            if not _is_plain(site):
                return None
            if name in values:
                continue
            fn = site["fn"]
            while isinstance(fn, Independent):
                fn = fn.base_dist
            if not isinstance(fn, Normal):
                return None
            out[name] = torch.stack([a.expand(site["value"].shape) for a in (fn.loc, fn.scale)])
        return out

    def simulate(self, values: Values) -> Values:
        """New data."""
        blank = _AsData(self.sites.observed)(poutine.uncondition(self.model))
        trace = self._trace(blank, values)
        return {name: torch.as_tensor(_site(trace, name)["value"]) for name in self.sites.observed}

    def parameters(self, x: Mapping[str, Tensor]) -> Values:
        """A draw of theta's sites."""
        trace = self._trace(self.model, dict(x))
        return {p.name: _site(trace, p.name)["value"] for p in self.sites.parameters}

    def _trace(self, model: Callable[..., Any], values: Values) -> Any:
        conditioned = poutine.condition(model, values)
        return poutine.trace(conditioned).get_trace(*self.args, **self.kwargs)


class _AsData(Messenger):  # type: ignore[misc, unused-ignore]
    """Gives data their full shape where the distribution is meant to be broadcast."""

    def __init__(self, observed: Values) -> None:
        super().__init__()
        self._observed = observed

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self._observed:
            shape = self._observed[msg["name"]].shape
            msg["fn"] = msg["fn"].expand(shape[: len(shape) - msg["fn"].event_dim])


def comes_and_goes(name: str) -> InvalidInput:
    """The error for a site that is not always there."""
    return refusal(
        name,
        "some runs of the program have it and some do not",
        "Every run must have the same latents and data: draw it always, use it where needed.",
    )


def _site(trace: Any, name: str) -> Site:
    if name not in trace.nodes:
        raise comes_and_goes(name)
    site: Site = trace.nodes[name]
    return site


def _log_prob(site: Site) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    scaled: Tensor = scale_and_mask(log_prob, site["scale"], site["mask"])  # type: ignore[no-untyped-call, unused-ignore]
    return scaled


def _terms(site: Site, is_latent: bool) -> Tensor:
    if not is_latent:
        counted = _log_prob(site).double().sum()
        return torch.stack([torch.zeros_like(counted), counted])
    own: Tensor = _unmasked(site["fn"]).log_prob(site["value"]).double().sum()
    rest = torch.zeros_like(own) if _is_plain(site) else _log_prob(site).double().sum() - own
    return torch.stack([own, rest])


def _is_plain(site: Site) -> bool:
    """Whether a site's log-density is neither scaled nor masked."""
    scale, masked = site["scale"], _unmasked(site["fn"]) is not site["fn"]
    return not masked and site["mask"] is None and not isinstance(scale, Tensor) and scale == 1


def _unmasked(fn: Any) -> Any:
    """A distribution without the masks in it; itself if there are none."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, Independent) and _unmasked(fn.base_dist) is not fn.base_dist:
        return Independent(_unmasked(fn.base_dist), fn.reinterpreted_batch_ndims)
    return fn
