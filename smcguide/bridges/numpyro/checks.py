"""Whether a NumPyro program is what inference takes it for, tried on three particles at set-up."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import torch
from torch import Tensor

from smcguide.bridges.numpyro.batches import precision, to_jax
from smcguide.bridges.numpyro.jax_function import JaxFunction
from smcguide.bridges.numpyro.particle import Particle
from smcguide.bridges.numpyro.runs import LastSite
from smcguide.errors import InvalidInput

UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError, NotImplementedError)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
_REMEDY = (
    "Write branches on latents with jnp.where or jax.lax.cond, and computations outside JAX with "
    "jax.pure_callback and a jax.custom_vjp."
)


def why_loop(particle: Particle, arrays: Sequence[Tensor], dtype: torch.dtype) -> str | None:
    """Why the model cannot be compiled for a batch of particles; None where it can.

    Arguments:
        arrays: of particles, (M, ...) each.

    Raises:
        InvalidInput: for a model that cannot be differentiated particle by particle either.
    """
    last = LastSite()
    with precision(dtype), last:
        rows = [to_jax(a) for a in arrays]
        try:
            jax.eval_shape(jax.vmap(particle.log_probs), *rows)
        except UNTRACEABLE as error:
            reason = f"JAX cannot trace the model, {last}: {_first_line(error)}"
        else:
            return None
        try:
            jax.vjp(particle.log_probs, *(row[0] for row in rows))
        except UNTRACEABLE as error:
            raise InvalidInput(
                f"NumPyroProgram: JAX can neither trace nor differentiate the model, {last}: "
                f"{_first_line(error)} {_REMEDY}"
            ) from error
        except ValueError:
            pass  # no gradient: see has_gradient
    return reason


def has_gradient(
    particle: Particle, arrays: Sequence[Tensor], dtype: torch.dtype, loop: bool
) -> bool:
    """Whether JAX can differentiate the model; not where it calls back a simulator, for example."""

    def slope(*row: jax.Array) -> Any:
        found, pull = jax.vjp(particle.log_probs, *row)
        return pull(found)

    with precision(dtype):
        row = [to_jax(a[0]) for a in arrays]
        try:
            slope(*row) if loop else jax.eval_shape(slope, *row)
        except ValueError:
            return False
    return True


def require_repeatable(
    particle: Particle,
    batched: JaxFunction,
    arrays: Sequence[Tensor],
    dtype: torch.dtype,
    loop: bool,
) -> None:
    """Log-densities of each particle alone, with other keys and the model traced once more, are the same.

    Raises:
        InvalidInput: naming the site whose log-density is not.
    """
    single = particle.log_probs if loop else jax.jit(particle.log_probs)
    with precision(dtype):
        rows = zip(*(to_jax(a) for a in arrays), strict=True)
        alone = [single(*row, key=jax.random.PRNGKey(1 + i)) for i, row in enumerate(rows)]
    for name, together in batched(*arrays).items():
        values = torch.tensor([float(found[name]) for found in alone], dtype=dtype)
        if not _close(values, together):
            raise InvalidInput(
                f"NumPyroProgram: the log-density of site {name!r} of three particles is "
                f"{values.tolist()} one by one and {together.tolist()} together. The model draws random "
                "numbers outside its sites (numpyro.prng_key, np.random), hides sites "
                "(numpyro.handlers.block), or has a jax.pure_callback that does not treat leading axes "
                "as its vmap_method says."
            )


def require_prior_independence(
    particle: Particle, log_probs: Callable[..., Any], arrays: Sequence[Tensor]
) -> None:
    """The law of theta depends neither on x nor on the choice.

    Raises:
        InvalidInput: naming the site that does.
    """
    *x, theta, choice = arrays
    theta = theta[:1].expand_as(theta)
    same_x, same_choice = [a[:1].expand_as(a) for a in x], choice[:1].expand_as(choice)
    for kind, rows in (
        ("a diffusion prior", (*x, theta, same_choice)),
        ("a discrete latent", (*same_x, theta, choice)),
    ):
        found = log_probs(*rows)
        for name in [site.name for site in particle.sites.continuous]:
            values = found[name]
            if not _close(values, values[:1].expand_as(values)):
                raise InvalidInput(
                    f"NumPyroProgram: the prior of the latent {name!r} depends on a site with {kind}. "
                    "Non-centre it: draw a standard variable and shift and scale it, for example "
                    "b = x.mean() + numpyro.sample(name, Normal(0, 1)) instead of Normal(x.mean(), 1)."
                )


def _close(values: Tensor, reference: Tensor) -> bool:
    tolerance = _TOLERANCE[values.dtype]
    return torch.allclose(values, reference, tolerance, tolerance, equal_nan=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
