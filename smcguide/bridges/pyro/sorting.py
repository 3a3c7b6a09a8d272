"""Which site of a Pyro program is what, and which sites a particle method cannot have."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Delta, Independent, MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistributionMixin
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from smcguide.bridges.program import PriorSite
from smcguide.bridges.pyro.prior import diffusion_of
from smcguide.bridges.pyro.sites import Choice, Parameter, Sites
from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior

_LARGEST_TABLE = 4096

Site = Any  # Pyro's own message
Placeholder = Mapping[str, Prior | None]


def refusal(name: str, problem: str, remedy: str) -> InvalidInput:
    """The error for a site that cannot be."""
    return InvalidInput(f"Site {name!r}: {problem}. {remedy}")


def sort(trace: Any, placeholder: Placeholder) -> Sites:
    """The sites of one run of a program.

    Raises:
        InvalidInput: for a site that a particle method cannot have; for a program without a diffusion
            prior or without data.
    """
    nodes = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    priors, parameters, choices, observed = {}, [], [], {}
    for name, site in nodes.items():
        _check(name, site)
        if site_is_subsample(site) or site_is_factor(site) or site["infer"].get("_deterministic"):
            continue
        if site["is_observed"]:
            observed[name] = _data(name, site)
        elif prior_of(name, site["fn"], placeholder) is not None or name in placeholder:
            priors[name] = _prior_site(name, site, placeholder)
        elif _support(name, site).is_discrete:
            choices.append(_choice(name, site))
        else:
            parameters.append(_parameter(name, site))
    sites = Sites(priors, tuple(parameters), tuple(choices), observed)
    _check_whole(sites, nodes, placeholder)
    return sites


def prior_of(name: str, fn: object, placeholder: Placeholder) -> Prior | None:
    """The diffusion prior at a site, if any."""
    return placeholder[name] if name in placeholder else diffusion_of(fn)


def _check(name: str, site: Site) -> None:
    fn = site["fn"]
    if site_is_subsample(site) and len(site["value"]) < fn.size:
        raise refusal(
            name,
            f"the plate takes {len(site['value'])} of its {fn.size} elements, so the likelihood "
            "is an estimate and the weights would be wrong",
            "Use the whole plate: pyro.plate(name, size) without subsample_size or subsample.",
        )
    if site["is_observed"] and diffusion_of(fn) is not None:
        raise refusal(
            name,
            "it has a diffusion prior and is observed",
            "Leave it to inference, or give its value to the program as an argument.",
        )
    if site["infer"].get("enumerate") is not None:
        raise refusal(
            name,
            "it is marked for Pyro's enumeration",
            "smcguide sums over discrete latents itself: remove config_enumerate or "
            "infer={'enumerate': ...}.",
        )


def _data(name: str, site: Site) -> Tensor:
    value, shape = torch.as_tensor(site["value"]).detach(), tuple(site["fn"].shape())
    pairs = zip(reversed(shape), reversed(value.shape), strict=False)
    # a larger common shape would count numbers more than once
    if len(shape) > value.dim() or any(a not in (1, b) for a, b in pairs):
        raise refusal(
            name,
            f"data of shape {tuple(value.shape)} do not fit a distribution of shape {shape}",
            "Reshape the data or what the distribution is made of.",
        )
    return value


def _prior_site(name: str, site: Site, placeholder: Placeholder) -> PriorSite:
    fn, prior = site["fn"], prior_of(name, site["fn"], placeholder)
    if bool((torch.as_tensor(site["scale"]) != 1).any()):
        raise refusal(
            name,
            f"its log-density is scaled by {site['scale']}, and a diffusion prior has no power",
            "Put poutine.scale around the likelihood only.",
        )
    if prior is None:
        return PriorSite(None, tuple(fn.batch_shape), tuple(fn.event_shape))
    shape, event = tuple(site["value"].shape), tuple(prior.event_shape)
    batch = shape[: len(shape) - len(event)]
    if batch + event != shape:
        raise refusal(
            name,
            f"its values have shape {shape} and the diffusion prior has events of shape {event}",
            "The last axes of the site must be the prior's event.",
        )
    return PriorSite(prior, batch, event)


def _support(name: str, site: Site) -> Any:
    fn = site["fn"]
    if not isinstance(fn, TorchDistributionMixin) or isinstance(_innermost(fn), Delta):
        raise refusal(
            name,
            f"a latent with {type(fn).__name__} has no density",
            "Use pyro.deterministic for what is computed from other sites, and a distribution with "
            "log_prob for what is unknown.",
        )
    return fn.support


def _innermost(fn: Any) -> Any:
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def _parameter(name: str, site: Site) -> Parameter:
    value, support = site["value"].detach(), site["fn"].support
    try:
        transform = biject_to(support)
        u = transform.inv(value)
        transform.log_abs_det_jacobian(u, value)
    except NotImplementedError as error:
        raise refusal(
            name,
            f"torch has no bijection from R^n to {support}",
            "Build the value from latents that have one: real, positive, interval, simplex or "
            "corr_cholesky.",
        ) from error
    return Parameter(name, value.shape, value.dtype, transform, u.shape)


def _choice(name: str, site: Site) -> Choice:
    fn = _innermost(site["fn"])
    try:
        if not fn.has_enumerate_support:
            raise NotImplementedError
        support = fn.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise refusal(
            name,
            f"the values of {type(fn).__name__} cannot be listed",
            "Use a discrete latent with finitely many values, e.g. Categorical over a truncated "
            "range, or a continuous one.",
        ) from error
    value = site["value"]
    return Choice(name, value.shape, value.dtype, support.reshape(-1, *fn.event_shape).detach())


def _check_whole(sites: Sites, nodes: Mapping[str, Site], placeholder: Placeholder) -> None:
    names = ", ".join(repr(name) for name in nodes) or "none"
    for name in placeholder:
        if name not in sites.priors:
            what = "observed" if name in nodes else "absent"
            raise refusal(
                name, f"a prior was given for it and it is {what}", f"The sites are: {names}."
            )
    if not sites.priors:
        raise InvalidInput(
            f"No site of the program has a diffusion prior (sites: {names}). Use pyro.sample('x', "
            "DiffusionPrior(prior).mask(False)), or say which site has one."
        )
    if not any(s["is_observed"] and not s["infer"].get("_deterministic") for s in nodes.values()):
        raise InvalidInput(
            f"The program observes nothing (sites: {names}). Give data: pyro.sample(..., obs=y), "
            "pyro.condition or pyro.factor."
        )
    count = 1
    for choice in sites.choices:
        count *= choice.num_values
        if count > _LARGEST_TABLE:
            raise refusal(
                choice.name,
                f"{choice.elements} elements with {len(choice.support)} values each bring the "
                f"joint values of the discrete latents to {count}; at most {_LARGEST_TABLE} can "
                "be summed over",
                "Sum out elements by hand in the likelihood (a mixture), or make them continuous.",
            )
