"""The model in JAX, run by `cuthbert`: one particle and one key at a time, as it asks, compiled as a
whole. Argument: float32, JAX's default, or float64."""

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cuthbert import filter as run_filter
from cuthbert.smc.particle_filter import build_filter
from cuthbertlib.resampling import ess_decorator, killing, multinomial, systematic
from jax import random
from jax_model import Tables, draw, load, move, set_precision
from protocol import repeated, serve, timed


@cache
def compiled(problem: str, gradient: bool, num: int) -> Any:
    """key -> log Z, posterior mean."""
    p, first, others, steps = load(problem)

    def propagate(key: jax.Array, state: Tables, inputs: Any) -> Tables:
        return move(p, gradient, random.normal(key, state["x"].shape), state, inputs)

    smc_filter = build_filter(
        init_sample=partial(draw, p, first, gradient),
        propagate_sample=propagate,
        log_potential=lambda before, after, inputs: after["log_g"],
        n_filter_particles=num,
        resampling_fn=ess_decorator(systematic.resampling, 0.5),
    )

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = random.split(key)
        start = smc_filter.init_prepare(key=keys[0])
        log_w = start.particles["log_g"]  # the library gives the first population no weights
        log_z = jax.nn.logsumexp(log_w) - math.log(num)
        start = start._replace(log_weights=log_w, log_normalizing_constant=log_z)
        states = run_filter(smc_filter, (steps, others), start, key=keys[1])
        w = jax.nn.softmax(states.log_weights[-1])
        return states.log_normalizing_constant[-1], w @ states.particles["x"][-1]

    return run


def smc(problem: str, gradient: bool, num: int, seed: int) -> dict[str, Any]:
    """One run to the end."""
    run = compiled(problem, gradient, num)
    seconds, (log_z, mean) = timed(lambda: jax.block_until_ready(run(random.key(seed))))
    return {"seconds": seconds, "log_z": float(log_z), "mean": mean.tolist()}


SCHEMES = {"systematic": systematic, "multinomial": multinomial, "killing": killing}


def resample(scheme: str, weights: str, calls: int) -> dict[str, float]:
    """Log-weights to ancestors."""
    log_w, choose = jnp.asarray(np.load(weights)), SCHEMES[scheme].resampling
    nothing, keys = jnp.zeros((len(log_w), 0)), iter(list(random.split(random.key(0), calls)))
    return repeated(
        lambda: choose(next(keys), log_w, nothing, len(log_w))[0].block_until_ready(), calls
    )


if __name__ == "__main__":
    set_precision()
    serve(("cuthbert", "jax", "numba"), {"smc": smc, "resampling": resample}, tuple(SCHEMES))
