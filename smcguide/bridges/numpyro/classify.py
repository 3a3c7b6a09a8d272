"""Reads off one run of a NumPyro model what each of its sites is to inference."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to

from smcguide.bridges.numpyro.prior import diffusion_of
from smcguide.bridges.numpyro.runs import Trace
from smcguide.bridges.numpyro.sites import Continuous, Discrete, Sites
from smcguide.bridges.program import PriorSite
from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior

Placeholder = Mapping[str, Prior | None]

_WRAPPERS = (dist.ExpandedDistribution, dist.MaskedDistribution, dist.Independent)


def prior_site(site: Mapping[str, Any], placeholder: Placeholder) -> PriorSite | None:
    """A latent site as one with a diffusion prior, None where it has none. A place held for a
    prior that is not known is one event.

    Raises:
        InvalidInput: where the site's shape does not end in the prior's event shape; for an observed
            one; for one with a scale.
    """
    name, fn = site["name"], site["fn"]
    prior = placeholder.get(name) or diffusion_of(fn)
    if prior is None and name not in placeholder:
        return None
    if site["is_observed"]:
        raise InvalidInput(
            f"NumPyroProgram: site {name!r} has a diffusion prior and is observed. It is what inference "
            "is about: leave out its obs= or its entry in numpyro.handlers.condition."
        )
    shape = (*site["kwargs"]["sample_shape"], *fn.shape())
    _require_unscaled(site)
    if prior is None:
        return PriorSite(None, (), shape)
    num_batch = len(shape) - len(prior.event_shape)
    if num_batch < 0 or shape[num_batch:] != tuple(prior.event_shape):
        raise InvalidInput(
            f"NumPyroProgram: site {name!r} has values of shape {shape}, which do not end in the "
            f"shape {tuple(prior.event_shape)} of an event of its prior. Give the site the prior's "
            "shape, with plates in front of it."
        )
    return PriorSite(prior, shape[:num_batch], tuple(prior.event_shape))


def classify(trace: Trace, placeholder: Placeholder) -> Sites:
    """Sorts the sites of a run.

    Raises:
        InvalidInput: for sites that cannot be treated, naming them and the remedy.
    """
    priors, observed, params = {}, {}, {}
    continuous, discrete, factors = [], [], []
    for name, site in trace.items():
        _refuse(site)
        if site["type"] == "param":
            params[name] = site["value"]
        elif site["type"] != "sample":
            continue
        elif (found := prior_site(site, placeholder)) is not None:
            priors[name] = found
        elif site["is_observed"] and isinstance(_base(site["fn"]), dist.Unit):
            factors.append(name)
        elif site["is_observed"]:
            observed[name] = _data(site)
        elif site["fn"].is_discrete:
            discrete.append(_discrete(site))
        else:
            continuous.append(_continuous(site))
    sites = Sites(priors, tuple(continuous), tuple(discrete), observed, tuple(factors), params)
    _require_all_kinds(sites, placeholder)
    return sites


def _refuse(site: Mapping[str, Any]) -> None:
    """Sites of no use to inference with weights."""
    name = site["name"]
    if site["type"] == "mutable":
        raise InvalidInput(
            f"NumPyroProgram: site {name!r} is a numpyro mutable, whose state particles cannot share. "
            "Freeze it: evaluate the network with its running statistics fixed."
        )
    if site["type"] == "plate" and len(site["value"]) < site["args"][0]:
        raise InvalidInput(
            f"NumPyroProgram: plate {name!r} subsamples {len(site['value'])} of {site['args'][0]}, "
            "which makes weights random and the evidence wrong. Leave out subsample_size."
        )
    if "enumerate" in site.get("infer", {}):
        raise InvalidInput(
            f"NumPyroProgram: site {name!r} has infer={{'enumerate': ...}}. Leave it out: smcguide "
            "enumerates all discrete latents itself."
        )


def _require_unscaled(site: Mapping[str, Any]) -> None:
    if site["scale"] is not None and not np.all(np.asarray(site["scale"]) == 1):
        raise InvalidInput(
            f"NumPyroProgram: the latent {site['name']!r} is inside numpyro.handlers.scale, and a power "
            "of a density is not one to draw from. Put the handler around observed sites only."
        )


def _data(site: Mapping[str, Any]) -> Any:
    value, shape = np.asarray(site["value"]), tuple(site["fn"].shape())
    if np.broadcast_shapes(value.shape, shape) != value.shape:
        raise InvalidInput(
            f"NumPyroProgram: site {site['name']!r} observes data of shape {value.shape} with a "
            f"distribution of shape {shape}, so that numbers would count more than once. Reshape the "
            "data or what the distribution is made of."
        )
    return value


def _require_density(site: Mapping[str, Any]) -> None:
    """A latent's distribution is one that can be drawn from and evaluated as it is."""
    _require_unscaled(site)
    name, fn = site["name"], site["fn"]
    while isinstance(fn, _WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution):
            raise InvalidInput(
                f"NumPyroProgram: the latent {name!r} is masked, which leaves it without a "
                "distribution where the mask is False. Mask observed sites only."
            )
        fn = fn.base_dist
    if isinstance(fn, dist.Delta):
        raise InvalidInput(
            f"NumPyroProgram: the latent {name!r} is a Delta, which has no density. Use "
            "numpyro.deterministic."
        )


def _continuous(site: Mapping[str, Any]) -> Continuous:
    _require_density(site)
    support = site["fn"].support
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise InvalidInput(
            f"NumPyroProgram: the support {support} of site {site['name']!r} has no transform to "
            "unconstrained space. Reparametrise it: numpyro.handlers.reparam."
        ) from error
    shape = tuple(transform.inverse_shape(jnp.shape(site["value"])))
    return Continuous(site["name"], shape, transform)


def _discrete(site: Mapping[str, Any]) -> Discrete:
    _require_density(site)
    name, fn = site["name"], _base(site["fn"])
    try:
        support = np.asarray(fn.enumerate_support(expand=False))
    except NotImplementedError as error:
        raise InvalidInput(
            f"NumPyroProgram: the discrete latent {name!r} ({type(fn).__name__}) has no finite list of "
            "values to enumerate. Truncate it to a Categorical, or sum it out in the model."
        ) from error
    values = tuple(float(v) for v in support.ravel())
    return Discrete(name, jnp.shape(site["value"]), jnp.asarray(site["value"]).dtype, values)


def _base(fn: Any) -> Any:
    """A distribution without what plates, masks and to_event put around it."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def _require_all_kinds(sites: Sites, placeholder: Placeholder) -> None:
    latents = [*sites.priors, *sites.latents]
    absent = sorted(placeholder.keys() - sites.priors.keys())
    if absent:
        raise InvalidInput(
            f"NumPyroProgram: the model has no latents {absent}; it has the latents {latents}."
        )
    if not sites.priors:
        raise InvalidInput(
            "NumPyroProgram: no site has a diffusion prior. Write numpyro.sample(name, "
            f"DiffusionPrior(prior)), or name the site of one of the latents {latents}."
        )
    if not sites.observed and not sites.factors:
        raise InvalidInput(
            f"NumPyroProgram: nothing is observed; the model has only the latents {latents}. Give "
            "obs= to a site (does the model get its data?) or add a numpyro.factor."
        )
