"""One particle of a NumPyro program inside JAX. Functions of arrays only, for vmap, jit and gradients:

x       one array per prior site, in the program's order
theta   (p,) unconstrained
choice  (q,)
words   (2,) int32, random
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import ExpandedDistribution, Independent, Normal

from smcguide.bridges.numpyro.runs import Model, require_same_sites
from smcguide.bridges.numpyro.sites import Sites


@dataclass(frozen=True)
class Particle:
    """Questions to a program about one particle.

    Attributes:
        model, sites: the program.
        x: some value of each prior site.
    """

    model: Model
    sites: Sites
    x: Mapping[str, Any]

    def log_probs(self, *x_theta_choice: jax.Array, key: jax.Array | None = None) -> dict[str, Any]:
        """Log-density of every site but the prior sites, a number each; that of a continuous latent on
        unconstrained space. The key should not matter."""
        given, jacobians = self._given(x_theta_choice)
        found = self._entries(given, key)
        return {name: jnp.sum(v) + jacobians.get(name, 0.0) for name, v in found.items()}

    def totals(self, *x_theta_choice: jax.Array) -> jax.Array:
        """Log-density of all continuous latents, all discrete ones, and the data, (3,)."""
        found, sites = self.log_probs(*x_theta_choice), self.sites
        groups = (
            [site.name for site in sites.continuous],
            [site.name for site in sites.discrete],
            [*sites.observed, *sites.factors],
        )
        return jnp.stack([jnp.sum(jnp.stack([0.0, *(found[n] for n in g)])) for g in groups])

    def pointwise(self, *x_theta_choice: jax.Array) -> dict[str, Any]:
        """Log-likelihood of the entries of each observed site with data."""
        found = self._entries(self._given(x_theta_choice)[0])
        return {name: found[name] for name in self.sites.observed}

    def normals(self, *x_theta_choice: jax.Array) -> dict[str, Any]:
        """Mean and standard deviation (2, *shape) of each observed site with data; nothing unless all of
        them are plain normals and there is no factor."""
        trace = self.model.trace(jax.random.PRNGKey(0), self._given(x_theta_choice)[0])
        found = {name: _moments(trace[name]) for name in self.sites.observed}
        plain = not self.sites.factors and all(a is not None for a in found.values())
        return found if plain else {}

    def constrain(self, theta: jax.Array, choice: jax.Array) -> dict[str, Any]:
        """Latents in the program's space."""
        return self.sites.values(theta, choice)[0]

    def draw(self, words: jax.Array) -> jax.Array:
        """Theta from its prior, (p,)."""
        trace = self.model.trace(_key(words), {**self.sites.params, **self.x})
        return self.sites.theta(
            {site.name: trace[site.name]["value"] for site in self.sites.continuous}
        )

    def simulate(self, words: jax.Array, *x_theta_choice: jax.Array) -> dict[str, Any]:
        """New values of the observed sites with data."""
        trace = self.model.new_data(_key(words), self._given(x_theta_choice)[0])
        return {name: trace[name]["value"] for name in self.sites.observed}

    def _given(self, arrays: tuple[jax.Array, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values of params and latents by name, and log-Jacobians."""
        *x, theta, choice = arrays
        values, jacobians = self.sites.values(theta, choice)
        places = dict(zip(self.sites.priors, x, strict=True))
        return {**self.sites.params, **places, **values}, jacobians

    def _entries(self, given: Mapping[str, Any], key: jax.Array | None = None) -> dict[str, Any]:
        key = jax.random.PRNGKey(0) if key is None else key
        found = self.model.log_probs(key, given, self.sites.priors)
        require_same_sites(self.sites.names, set(found))
        return {name: value for name, value in found.items() if name not in self.sites.priors}


def _moments(site: Mapping[str, Any]) -> jax.Array | None:
    fn = base = site["fn"]
    while isinstance(base, Independent | ExpandedDistribution):
        base = base.base_dist
    if not isinstance(base, Normal) or site.get("scale") is not None:
        return None
    both = (fn.mean, jnp.sqrt(fn.variance))
    return jnp.stack([jnp.broadcast_to(a, jnp.shape(site["value"])) for a in both])


def _key(words: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.PRNGKey(words[0]), words[1])
