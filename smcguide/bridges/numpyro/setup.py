"""The first runs of a NumPyro program: what its sites are, and whether they are the same every time.

Prior sites get rough draws of their priors, by a chain of a few steps, so that setting up costs next to
nothing whatever the prior's network.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpyro.primitives import Messenger
from torch import Tensor

from smcguide.bridges.numpyro.batches import precision, to_jax, to_torch
from smcguide.bridges.numpyro.checks import UNTRACEABLE
from smcguide.bridges.numpyro.classify import Placeholder, classify, prior_site
from smcguide.bridges.numpyro.runs import LastSite, Model, require_same_sites
from smcguide.bridges.numpyro.sites import Sites
from smcguide.draws import draw
from smcguide.errors import InvalidInput
from smcguide.grids import karras
from smcguide.kernels import DDPM
from smcguide.priors.base import Prior

_NUM_RUNS, _NUM_STEPS = 3, 8


@dataclass(frozen=True)
class FirstRuns:
    """What three runs of a program show.

    Attributes:
        sites: the same in each.
        x: values of each prior site, (3, *shape).
        theta: (3, p).
        dtype: to work in, float64 where a prior site has it.
    """

    sites: Sites
    x: Mapping[str, Tensor]
    theta: Tensor
    dtype: torch.dtype


def first_runs(model: Model, placeholder: Placeholder) -> FirstRuns:
    """Runs a program with all latents drawn.

    Raises:
        InvalidInput: for models that cannot be treated, naming the site and the remedy.
    """
    supply = _RoughDraws(placeholder)
    with suppress(*UNTRACEABLE), supply:  # for the dtype, without computing anything
        jax.eval_shape(lambda: len(model.trace(jax.random.PRNGKey(0), {})))
    dtype = None
    while dtype != supply.dtype:
        dtype, runs = supply.dtype, []
        for supply.run in range(_NUM_RUNS):
            runs.append(_run(model, placeholder, supply))
    every = [sites for sites, _ in runs]
    with precision(dtype):
        _require_same_spaces(every)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(values for _, values in runs))
        theta = to_torch(jax.jit(jax.vmap(every[0].theta))(stacked))
        x = {name: to_torch(stacked[name]) for name in every[0].priors}
    return FirstRuns(every[0], x, theta, dtype)


class _RoughDraws(Messenger):  # type: ignore[misc, unused-ignore]
    """Gives the prior sites their values, another draw in every run.

    Attributes:
        run: which run it is.
        dtype: the widest of the prior sites seen so far, at least float32.
    """

    def __init__(self, placeholder: Placeholder) -> None:
        super().__init__()
        self._placeholder = placeholder
        self._draws: dict[str, Tensor] = {}
        self.run = 0
        self.dtype = torch.float32

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["value"] is not None:
            return
        site = prior_site(msg, self._placeholder)
        if site is None or site.prior is None:
            return
        if site.prior.dtype == torch.float64:
            self.dtype = torch.float64
        if msg["name"] not in self._draws:
            self._draws[msg["name"]] = _rough_draws(site.prior, site.batch_shape)
        msg["value"] = to_jax(self._draws[msg["name"]][self.run])

    def postprocess_message(self, msg: Any) -> None:
        if msg.get("name") in self._placeholder and jnp.result_type(msg["value"]) == jnp.float64:
            self.dtype = torch.float64


def _rough_draws(prior: Prior, batch_shape: tuple[int, ...]) -> Tensor:
    """(3, *batch_shape, *E) on the CPU."""
    generator = torch.Generator(prior.device).manual_seed(0)
    levels = [prior.schedule.level(float(t)) for t in karras(_NUM_STEPS)(prior.schedule)]
    shape = (_NUM_RUNS, *batch_shape)
    x = draw(prior, DDPM(), levels, math.prod(shape), generator)
    return x.reshape(*shape, *prior.event_shape).cpu()


def _run(
    model: Model, placeholder: Placeholder, supply: _RoughDraws
) -> tuple[Sites, dict[str, jax.Array]]:
    """Sites of one run, and values of the prior sites and the continuous ones."""
    last = LastSite()
    with precision(supply.dtype):
        try:
            with supply, last:
                trace = model.trace(jax.random.PRNGKey(supply.run), {})
        except NotImplementedError as error:
            raise InvalidInput(
                f"NumPyroProgram: the model cannot be drawn from: it fails {last}. Every latent needs "
                "a distribution with draws; an improper one has none."
            ) from error
        except jax.errors.JaxRuntimeError as error:
            if "incompatible size" not in str(error):
                raise
            raise InvalidInput(
                f"NumPyroProgram: JAX has met a NumPy array of the model, {last}, in another precision "
                f"than {supply.dtype}. Make it a JAX array, jnp.asarray(a), or give the prior in "
                "float32, prior.to(dtype=torch.float32)."
            ) from error
        sites = classify(trace, placeholder)
        names = [*sites.priors, *(site.name for site in sites.continuous)]
        return sites, {name: jnp.asarray(trace[name]["value"]) for name in names}


def _require_same_spaces(runs: Sequence[Sites]) -> None:
    """Supports do not depend on what was drawn.

    Raises:
        InvalidInput: naming the site whose support does.
    """
    for run in runs[1:]:
        require_same_sites(runs[0].names, run.names)
    for labels in zip(*(run.discrete for run in runs), strict=True):
        if len({label.values for label in labels}) > 1:
            raise InvalidInput(
                f"NumPyroProgram: the values of the discrete site {labels[0].name!r} depend on other "
                "latents. Give it all values that are possible, with probability zero where not."
            )

    def values(u: float) -> list[Any]:
        return [{s.name: s.transform(jnp.full(s.shape, u)) for s in run.continuous} for run in runs]

    for first, *others in jax.jit(lambda: (values(-0.5), values(0.5)))():
        for name, value in first.items():
            if not all(np.array_equal(value, other[name]) for other in others):
                raise InvalidInput(
                    f"NumPyroProgram: the support of site {name!r} depends on other latents. "
                    "Reparametrise it: draw on a fixed support and scale, for example "
                    "high * numpyro.sample(name, Uniform(0, 1)) instead of Uniform(0, high)."
                )
