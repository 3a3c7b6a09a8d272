"""The model in JAX, run by the general step of `blackjax.smc.base`, compiled as a whole. Argument:
float32, JAX's default, or float64.

That step resamples always and forgets the weights. Here each particle remembers its own, the resampler
leaves everybody in place above the threshold, and weights that the next resampling will use up are
forgotten in the same step.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import base, resampling
from jax import random
from jax_model import Tables, draw, load, move, set_precision
from protocol import repeated, serve, timed


def fires(w: jax.Array) -> jax.Array:
    """Whether the normalised weights are to be resampled."""
    return 1 / jnp.square(w).sum() < 0.5 * len(w)


def adaptive(key: jax.Array, w: jax.Array, num: int) -> jax.Array:
    return jax.lax.cond(
        fires(w),
        lambda: resampling.systematic(key, w, num),
        lambda: jnp.arange(num, dtype=jnp.int32),
    )


def weighed(particles: Tables, log_w: jax.Array) -> Tables:
    """With their weights, and what remains of those after the next resampling."""
    kept = jnp.where(fires(jax.nn.softmax(log_w)), 0.0, log_w)
    return particles | {"log_w": log_w, "kept": kept}


@cache
def compiled(problem: str, gradient: bool, num: int) -> Any:
    """key -> log Z, posterior mean."""
    p, first, others, steps = load(problem)

    def update(keys: jax.Array, particles: Tables, inputs: Any) -> tuple[Tables, None]:
        z = random.normal(keys[0], particles["x"].shape)  # all at once
        ahead = jax.vmap(partial(move, p, gradient), (0, 0, None))(z, particles, inputs)
        return weighed(ahead, particles["kept"] + ahead["log_g"]), None

    def body(state: base.SMCState, at: Any) -> tuple[base.SMCState, Any]:
        key, inputs = at
        used = fires(state.weights)
        state = state._replace(update_parameters=inputs)
        state, info = base.step(key, state, update, lambda q: q["log_w"], adaptive)
        return state._replace(update_parameters=None), (used, info.log_likelihood_increment)

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = random.split(key, 1 + len(steps["std"]))
        particles = jax.vmap(partial(draw, p, first, gradient))(random.split(keys[0], num))
        particles = weighed(particles, particles["log_g"])
        start = base.SMCState(particles, jax.nn.softmax(particles["log_w"]), None)
        state, (used, log_mean) = jax.lax.scan(body, start, (keys[1:], (steps, others)))
        log_mean = jnp.append(jax.nn.logsumexp(particles["log_w"]) - jnp.log(num), log_mean)
        log_z = (log_mean[:-1] * used).sum() + log_mean[-1]
        return log_z, state.weights @ state.particles["x"]

    return run


def smc(problem: str, gradient: bool, num: int, seed: int) -> dict[str, Any]:
    """One run to the end."""
    run = compiled(problem, gradient, num)
    seconds, (log_z, mean) = timed(lambda: jax.block_until_ready(run(random.key(seed))))
    return {"seconds": seconds, "log_z": float(log_z), "mean": mean.tolist()}


SCHEMES = ("systematic", "stratified", "multinomial", "residual")


@cache
def chooser(scheme: str) -> Any:
    """Compiled, log-weights to ancestors."""
    choose = getattr(resampling, scheme)
    return jax.jit(lambda key, log_w: choose(key, jax.nn.softmax(log_w), len(log_w)))


def resample(scheme: str, weights: str, calls: int) -> dict[str, float]:
    """Log-weights to ancestors."""
    log_w, choose = jnp.asarray(np.load(weights)), chooser(scheme)
    keys = iter(list(random.split(random.key(0), calls)))
    return repeated(lambda: choose(next(keys), log_w).block_until_ready(), calls)


if __name__ == "__main__":
    set_precision()
    serve(("blackjax", "jax"), {"smc": smc, "resampling": resample}, SCHEMES)
