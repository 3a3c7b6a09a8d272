"""The model in JAX, for one particle; its look and its transition."""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

RADIUS = 2.0
Tables = dict[str, jax.Array]


def set_precision() -> None:
    """float32, JAX's default, or float64, as the command line says."""
    jax.config.update("jax_enable_x64", sys.argv[1] == "float64")


def load(problem: str) -> tuple[Tables, Tables, Tables, Tables]:
    """All tables; those of the first level, of the other levels, and of the transitions."""
    p = {name: jnp.asarray(a) for name, a in np.load(problem).items()}
    levels = {name: p[name] for name in ("alpha", "sigma", "B", "c", "constant")}
    first, others = ({n: a[i] for n, a in levels.items()} for i in (0, slice(1, None)))
    return p, first, others, {name: p[name] for name in ("c_x", "c_D", "std")}


def value(p: Tables, level: Tables, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log psi and the denoiser's estimate."""
    alpha, m, v = level["alpha"], p["means"], p["variance"]
    total = alpha**2 * v + level["sigma"] ** 2
    logits = p["log_weights"] + (m * (alpha / total)) @ x
    mean = jax.nn.softmax(logits - alpha**2 / (2 * total) * (m**2).sum(1)) @ m
    gain = alpha * v / total
    x0_hat = gain * x + (1 - gain * alpha) * mean
    residual = level["c"] - level["B"] @ x0_hat
    return -0.5 * (residual**2).sum() - level["constant"], x0_hat


def look(p: Tables, level: Tables, x: jax.Array, gradient: bool) -> Tables:
    """x and what is seen there."""
    if not gradient:
        log_psi, x0_hat = value(p, level, x)
        return {"x": x, "x0_hat": x0_hat, "log_psi": log_psi}
    (log_psi, x0_hat), slope = jax.value_and_grad(partial(value, p, level), has_aux=True)(x)
    return {"x": x, "x0_hat": x0_hat, "log_psi": log_psi, "slope": slope}


def move(p: Tables, gradient: bool, z: jax.Array, state: Tables, inputs: Any) -> Tables:
    """The state after a transition, with its weight log_g."""
    step, level = inputs
    mean = step["c_x"] * state["x"] + step["c_D"] * state["x0_hat"]
    log_ratio = jnp.zeros((), mean.dtype)
    if gradient:
        delta = step["std"] * state["slope"]  # of the mean, in standard deviations
        delta *= jnp.minimum(1.0, RADIUS / jnp.maximum(jnp.sqrt((delta**2).sum()), 1e-30))
        log_ratio = -(delta * (z + 0.5 * delta)).sum()
        z = z + delta
    ahead = look(p, level, mean + step["std"] * z, gradient)
    return ahead | {"log_g": log_ratio + ahead["log_psi"] - state["log_psi"]}


def draw(p: Tables, level: Tables, gradient: bool, key: jax.Array) -> Tables:
    """A first state."""
    keys = random.split(key, 3)
    x0 = p["means"][random.categorical(keys[0], p["log_weights"])]
    x0 = x0 + jnp.sqrt(p["variance"]) * random.normal(keys[1], x0.shape)
    ahead = look(
        p, level, level["alpha"] * x0 + level["sigma"] * random.normal(keys[2], x0.shape), gradient
    )
    return ahead | {"log_g": ahead["log_psi"]}
