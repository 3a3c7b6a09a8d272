"""A NumPyro model with its data as a program for smcguide's inference.

The model is run for one particle at a time inside JAX with all its latents substituted; its log-densities
are summed by site name, so that a prior site's own is never asked for, and jit and vmap make of it a
function of all particles.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import torch
from torch import Tensor

from smcguide.bridges.numpyro.batches import Batched, precision, to_jax
from smcguide.bridges.numpyro.checks import (
    has_gradient,
    require_prior_independence,
    require_repeatable,
    why_loop,
)
from smcguide.bridges.numpyro.classify import Placeholder
from smcguide.bridges.numpyro.jax_function import JaxFunction
from smcguide.bridges.numpyro.particle import Particle
from smcguide.bridges.numpyro.runs import Model, own
from smcguide.bridges.numpyro.setup import first_runs
from smcguide.bridges.program import LogProbs, Program
from smcguide.errors import InvalidInput

_DRAWS = 256  # particles drawn at once


class NumPyroProgram(Program):
    """A NumPyro model and the arguments it is called with.

    Prior sites are those drawn from a `DiffusionPrior`, whatever its mask, and placeholders. Data are the
    observed sites, conditioned ones among them, and `numpyro.factor`. Values of `numpyro.param` are the
    initial ones. All is computed in the dtype of the prior: in float32, as is usual in JAX, or in
    float64 for a prior in float64, whatever JAX's global switch.

    Particles are evaluated together with `jax.vmap`, or one after the other where JAX cannot trace the
    model (`loop_reason`, and a UserWarning). A model that JAX cannot differentiate, since it calls back a
    simulator for example, has values only.

    Arguments:
        model: a NumPyro model.
        args, kwargs: what it is called with.
        placeholder: sites whose distribution stands for a diffusion prior; None for one that is known
            to others only, of the whole site.

    Raises:
        InvalidInput: naming the site and the remedy, for a subsampled plate, a mutable, a site marked for
            enumeration, a latent that is scaled, masked or without density, data that do not fit, a
            support or a set of sites that depends on latents, a continuous latent whose prior depends
            on x or a discrete one, more than 4096 joint values of the discrete ones, log-densities that
            are random, and for a model without prior or data.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        placeholder: Placeholder | None = None,
    ) -> None:
        named = {name: own(a) for name, a in (kwargs or {}).items()}
        run = Model(model, tuple(own(a) for a in args), named)
        first = first_runs(run, placeholder or {})
        self._sites, self._dtype = first.sites, first.dtype
        self.priors, self.size = first.sites.priors, first.sites.size
        self.choices = torch.from_numpy(first.sites.choices())
        self.observed = {n: torch.tensor(v) for n, v in first.sites.observed.items()}
        self.example = {name: values[0].clone() for name, values in first.x.items()}
        particle = Particle(run, first.sites, {n: v.numpy() for n, v in self.example.items()})
        picked = torch.linspace(0, len(self.choices) - 1, len(first.theta)).long()
        arrays = self._arrays(first.x, first.theta, self.choices[picked])
        self.loop_reason = why_loop(particle, arrays, self._dtype)
        loop = self.loop_reason is not None
        self._compile(particle, loop, has_gradient(particle, arrays, self._dtype, loop))
        log_probs = JaxFunction(particle.log_probs, loop=loop)
        require_repeatable(particle, log_probs, arrays, self._dtype, loop)
        require_prior_independence(particle, log_probs, arrays)
        with precision(self._dtype):
            self._is_normal = bool(particle.normals(*(to_jax(a[0]) for a in arrays)))
        if loop:
            warnings.warn(
                f"The program is run for one particle after the other: {self.loop_reason}",
                UserWarning,
                stacklevel=2,
            )

    def _compile(self, particle: Particle, loop: bool, smooth: bool) -> None:
        self._totals = JaxFunction(particle.totals, loop=loop, has_gradient=smooth)
        self._pointwise = JaxFunction(particle.pointwise, loop=loop)
        self._normals = JaxFunction(particle.normals, loop=loop, has_gradient=smooth)
        self._constrain = Batched(particle.constrain, loop=loop)
        self._draw = Batched(particle.draw, _DRAWS, loop, one_size=True)
        self._simulate = Batched(particle.simulate, loop=loop)

    def log_probs(self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor) -> LogProbs:
        return LogProbs(*self._totals(*self._arrays(x, theta, choice)).double().unbind(1))

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        if self.size == 0:
            return torch.zeros(num, 0, dtype=torch.float64)
        (theta,) = self._draw([_words(num, generator)], self._dtype)
        if not bool(theta.isfinite().all()):
            names = [site.name for site in self._sites.continuous]
            raise InvalidInput(
                f"NumPyroProgram: draws of the latents {names} lie on the boundary of their support "
                f"in {self._dtype}. Use priors with less mass there, or draw the logarithm instead."
            )
        return theta.double()

    def constrain(self, theta: Tensor, choice: Tensor) -> dict[str, Tensor]:
        self._require_rows(theta, choice)
        arrays = [theta.to(self._dtype), choice.to(self._dtype)]
        return self._named(self._constrain, arrays, self._sites.latents)

    def pointwise(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            found = self._pointwise(*self._arrays(x, theta, choice))
        return {name: found[name].double() for name in self.observed}

    def normals(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]] | None:
        if not self._is_normal:
            return None
        found = self._normals(*self._arrays(x, theta, choice))
        return {name: (found[name][:, 0], found[name][:, 1]) for name in self.observed}

    def simulate(
        self,
        x: Mapping[str, Tensor],
        theta: Tensor,
        choice: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        arrays = self._arrays(x, theta, choice)
        arrays = [_words(len(theta), generator), *arrays]
        return self._named(self._simulate, arrays, list(self.observed))

    def _named(
        self, function: Batched, arrays: Sequence[Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        leaves = function(arrays, self._dtype)
        found = jax.tree.unflatten(function.structure, leaves)
        return {name: found[name] for name in names}  # JAX sorts names

    def _arrays(self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor) -> list[Tensor]:
        """What a `Particle` takes, in order, in the dtype of the computation."""
        self._require_rows(theta, choice)
        for name, site in self.priors.items():
            found = tuple(x[name].shape) if name in x else None
            if found != (len(theta), *site.shape):
                raise InvalidInput(
                    f"NumPyroProgram: site {name!r} needs values of shape (M, *{site.shape}), with "
                    f"M = {len(theta)} as theta has; got {found or 'none'}."
                )
        return [a.to(self._dtype) for a in (*(x[name] for name in self.priors), theta, choice)]

    def _require_rows(self, theta: Tensor, choice: Tensor) -> None:
        expected = (self.size, self.choices.shape[1])
        if theta.shape[1:] + choice.shape[1:] != expected or len(theta) != len(choice):
            raise InvalidInput(
                f"NumPyroProgram: theta and choice need shapes (M, {expected[0]}) and (M, "
                f"{expected[1]}), got {tuple(theta.shape)} and {tuple(choice.shape)}."
            )


def _words(num: int, generator: torch.Generator) -> Tensor:
    """(num, 2) random int32, a key for each particle."""
    size = (num, 2)
    return torch.randint(-(2**31), 2**31, size, generator=generator, dtype=torch.int32)
