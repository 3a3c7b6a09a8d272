"""The model in numpy, run by `particles`. States in float64, normals from numpy's Generator."""

from functools import cache
from typing import Any

import numpy as np
import particles
from particles import resampling
from protocol import repeated, serve, timed

RADIUS = 2.0


class Guided(particles.FeynmanKac):
    """A particle is one row: x, the denoiser's estimate, log psi and, if asked, its gradient."""

    def __init__(self, problem: str, gradient: bool) -> None:
        self.p = dict(np.load(problem))
        self.gradient = gradient
        self.d = self.p["means"].shape[1]
        super().__init__(len(self.p["alpha"]))

    def seed(self, seed: int) -> None:
        np.random.seed(seed)  # noqa: NPY002, the library's resampling draws from it
        self.rng = np.random.default_rng(seed)

    def look(self, k: int, x: np.ndarray) -> np.ndarray:
        p, alpha, sigma = self.p, self.p["alpha"][k], self.p["sigma"][k]
        m, v = p["means"], p["variance"]
        total = alpha**2 * v + sigma**2
        logits = x @ (m * (alpha / total)).T
        logits += p["log_weights"] - alpha**2 / (2 * total) * (m**2).sum(1)
        logits -= logits.max(1, keepdims=True)
        r = np.exp(logits, out=logits)
        r /= r.sum(1, keepdims=True)
        mean, gain = r @ m, alpha * v / total
        x0_hat = gain * x + (1 - gain * alpha) * mean
        residual = p["c"][k] - x0_hat @ p["B"][k].T
        log_psi = -0.5 * (residual**2).sum(1, keepdims=True) - p["constant"][k]
        if not self.gradient:
            return np.concatenate([x, x0_hat, log_psi], 1)
        g = residual @ p["B"][k]
        pulled = (r * (g @ m.T)) @ m - mean * (mean * g).sum(1, keepdims=True)
        slope = gain * g + (1 - gain * alpha) * (alpha / total) * pulled
        return np.concatenate([x, x0_hat, log_psi, slope], 1)

    def M0(self, N: int) -> np.ndarray:
        p, shape = self.p, (N, self.d)
        which = self.rng.choice(len(p["means"]), N, p=np.exp(p["log_weights"]))
        x0 = p["means"][which] + np.sqrt(p["variance"]) * self.rng.standard_normal(shape)
        return self.look(0, p["alpha"][0] * x0 + p["sigma"][0] * self.rng.standard_normal(shape))

    def M(self, t: int, xp: np.ndarray) -> np.ndarray:
        p, d, k = self.p, self.d, t - 1
        mean = p["c_x"][k] * xp[:, :d] + p["c_D"][k] * xp[:, d : 2 * d]
        z, std = self.rng.standard_normal(mean.shape), p["std"][k]
        self.log_ratio = 0.0
        if self.gradient and std > 0:
            delta = std * xp[:, 2 * d + 1 :]  # of the mean, in standard deviations
            norm = np.sqrt((delta**2).sum(1, keepdims=True))
            delta *= np.minimum(1.0, RADIUS / np.maximum(norm, 1e-30))
            self.log_ratio = -(delta * (z + 0.5 * delta)).sum(1)
            z += delta
        return self.look(t, mean + std * z)

    def logG(self, t: int, xp: np.ndarray, x: np.ndarray) -> np.ndarray:
        log_psi = x[:, 2 * self.d]
        return log_psi if t == 0 else self.log_ratio + log_psi - xp[:, 2 * self.d]


model = cache(Guided)


def smc(problem: str, gradient: bool, num: int, seed: int) -> dict[str, Any]:
    """One run to the end."""
    fk = model(problem, gradient)
    fk.seed(seed)
    algorithm = particles.SMC(fk=fk, N=num, resampling="systematic", ESSrmin=0.5)
    seconds, _ = timed(algorithm.run)
    mean = algorithm.W @ algorithm.X[:, : fk.d]
    return {"seconds": seconds, "log_z": float(algorithm.logLt), "mean": mean.tolist()}


def resample(scheme: str, weights: str, calls: int) -> dict[str, float]:
    """Log-weights to ancestors."""
    log_w, choose = np.load(weights), resampling.rs_funcs[scheme]
    return repeated(lambda: choose(resampling.exp_and_normalise(log_w)), calls)


SCHEMES = ("systematic", "stratified", "multinomial", "residual", "ssp", "killing")

if __name__ == "__main__":
    serve(("particles", "numpy", "numba"), {"smc": smc, "resampling": resample}, SCHEMES)
