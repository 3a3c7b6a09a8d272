"""What a Pyro program consists of, found by running it three times before it is used."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.util import get_rng_state, set_rng_state
from torch import Generator, Tensor

from smcguide.bridges.pyro.examine import examine
from smcguide.bridges.pyro.runs import Runs, comes_and_goes, without_validation
from smcguide.bridges.pyro.sites import Sites, Values
from smcguide.bridges.pyro.sorting import Placeholder, prior_of, refusal, sort
from smcguide.draws import draw
from smcguide.grids import karras
from smcguide.kernels import DDPM
from smcguide.priors.base import Prior

_NUM_PARTICLES, _NUM_STEPS = 3, 8


def prepare(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    placeholder: Placeholder,
) -> tuple[Runs, Values, str | None]:
    """The program's runs, one value of each prior site, and why particles cannot be batched, if so.

    Pyro's parameters are initialised; global random numbers are as they were afterwards.

    Raises:
        InvalidInput: for a program that a particle method cannot treat, see `PyroProgram`.
    """
    with _kept_random_numbers():
        supply = _PriorDraws(placeholder)
        traced = poutine.trace(supply(model))
        traces = [traced.get_trace(*args, **kwargs)]  # with the user's validation
        sites = sort(traces[0], placeholder)
        with without_validation():
            for _ in range(_NUM_PARTICLES - 1):
                traces.append(traced.get_trace(*args, **kwargs))
                _check_same(sites, sort(traces[-1], placeholder))
            x = {name: _stack(traces, name) for name in sites.priors}
            rest = _latents(sites, traces)
            runs = Runs(model, args, kwargs, sites)
            reason = examine(runs, x, rest)
    return runs, {name: v[0] for name, v in x.items()}, reason


@contextmanager
def _kept_random_numbers() -> Iterator[None]:
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


class _PriorDraws(Messenger):  # type: ignore[misc, unused-ignore]
    """Gives prior sites cheap draws: exact ones where the prior can make them, else a few steps."""

    def __init__(self, placeholder: Placeholder) -> None:
        super().__init__()
        self._placeholder = placeholder
        self._count = 0

    def _pyro_sample(self, msg: Any) -> None:
        prior = prior_of(msg["name"], msg["fn"], self._placeholder)
        if prior is None or msg["is_observed"] or msg["value"] is not None:
            return
        shape, event = msg["fn"].shape(), tuple(prior.event_shape)
        batch = shape[: len(shape) - len(event)]
        if tuple(batch) + event == tuple(shape):  # else refused when the sites are sorted
            self._count += 1
            generator = Generator(prior.device).manual_seed(self._count)
            msg["value"] = _few_steps(prior, batch.numel(), generator).reshape(shape)


def _few_steps(prior: Prior, num: int, generator: Generator) -> Tensor:
    x = prior.exact_draws(num, generator)
    if x is None:
        levels = [prior.schedule.level(float(t)) for t in karras(_NUM_STEPS)(prior.schedule)]
        x = draw(prior, DDPM(), levels, num, generator)
    return x


def _stack(traces: list[Any], name: str) -> Tensor:
    return torch.stack([trace.nodes[name]["value"].detach() for trace in traces])


def _latents(sites: Sites, traces: list[Any]) -> Values:
    """Values of theta as drawn, and of discrete latents from all over their table."""
    theta = [p.unconstrain(_stack(traces, p.name)) for p in sites.parameters]
    table = sites.table()
    rows = torch.linspace(0, len(table) - 1, _NUM_PARTICLES).long()
    empty = torch.zeros(_NUM_PARTICLES, 0, dtype=torch.float64)
    return sites.constrain(torch.cat([empty, *theta], 1), table[rows])[0]


def _check_same(a: Sites, b: Sites) -> None:
    """Two runs have the same latents, but for their values."""
    for name in (a.priors.keys() ^ b.priors.keys()) | (
        {latent.name for latent in a.others} ^ {latent.name for latent in b.others}
    ):
        raise comes_and_goes(name)
    for name, site in a.priors.items():
        if site.prior is not b.priors[name].prior:
            raise refusal(
                name,
                "two runs of the program have two prior objects",
                "Build the prior once, outside of the program; it may not depend on other latents.",
            )
    others = {latent.name: latent for latent in b.others}
    for latent in a.others:
        if not latent.is_like(others[latent.name]):
            raise refusal(
                latent.name,
                "its support depends on other latents",
                "Draw it on a fixed support and transform it: for Uniform(0, b), draw "
                "u ~ Uniform(0, 1) and use b * u.",
            )
