"""The model in torch, run by Pyro's `SMCFilter`. Argument: float32, or float64.

Pyro forgets the evidence; it is put together from the weights before each step, in a run that is not
timed.
"""

import sys
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from protocol import repeated, serve, timed
from pyro.infer import SMCFilter
from pyro.infer.smcfilter import _systematic_sample
from torch import Tensor

RADIUS = 2.0


class Guided:
    """The chain with its weights."""

    def __init__(self, problem: str, gradient: bool) -> None:
        tables = np.load(problem).items()
        self.p = {name: torch.as_tensor(a, dtype=torch.get_default_dtype()) for name, a in tables}
        self.gradient = gradient

    def look(self, k: int, x: Tensor) -> dict[str, Tensor]:
        p, alpha, sigma = self.p, self.p["alpha"][k], self.p["sigma"][k]
        m, v = p["means"], p["variance"]
        total = alpha**2 * v + sigma**2
        bias = p["log_weights"] - alpha**2 / (2 * total) * m.square().sum(1)
        r = torch.softmax(torch.addmm(bias[:, None], m * (alpha / total), x.T), 0).T
        mean, gain = r @ m, alpha * v / total
        x0_hat = gain * x + (1 - gain * alpha) * mean
        residual = p["c"][k] - x0_hat @ p["B"][k].T
        log_psi = -0.5 * residual.square().sum(1) - p["constant"][k]
        if not self.gradient:
            return {"x": x, "x0_hat": x0_hat, "log_psi": log_psi}
        g = residual @ p["B"][k]
        pulled = (r * (g @ m.T)) @ m - mean * (mean * g).sum(1, keepdim=True)
        slope = gain * g + (1 - gain * alpha) * (alpha / total) * pulled
        return {"x": x, "x0_hat": x0_hat, "log_psi": log_psi, "slope": slope}

    def means(self, k: int, state: Any) -> tuple[Tensor, Tensor]:
        """Of the chain's transition and of the proposal."""
        p = self.p
        mean = p["c_x"][k] * state["x"] + p["c_D"][k] * state["x0_hat"]
        if not self.gradient or p["std"][k] == 0:
            return mean, mean
        delta = p["std"][k] * state["slope"]
        norm = delta.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return mean, mean + p["std"][k] * delta * (RADIUS / norm).clamp(max=1.0)

    def init(self, state: Any) -> None:
        state.update(self.look(0, self.draw_first()))
        pyro.factor("g_first", state["log_psi"])

    def draw_first(self) -> Tensor:
        p, alpha = self.p, self.p["alpha"][0]
        which = pyro.sample("which", dist.Categorical(logits=p["log_weights"]))
        std = (alpha**2 * p["variance"] + p["sigma"][0] ** 2).sqrt()
        return pyro.sample("x_first", dist.Normal(alpha * p["means"][which], std).to_event(1))

    def draw(self, k: int, mean: Tensor) -> Tensor:
        std = self.p["std"][k].clamp(min=1e-12)  # the last step has none
        return pyro.sample(f"x_{k}", dist.Normal(mean, std).to_event(1))

    def step(self, state: Any, k: int) -> None:
        x, before = self.draw(k, self.means(k, state)[0]), state["log_psi"]
        state.update(self.look(k + 1, x))
        pyro.factor(f"g_{k}", state["log_psi"] - before)


class Proposal:
    """Pyro's guide."""

    def __init__(self, model: Guided) -> None:
        self.model = model

    def init(self, state: Any) -> None:
        self.model.draw_first()

    def step(self, state: Any, k: int) -> None:
        self.model.draw(k, self.model.means(k, state)[1])


class Counted(SMCFilter):
    """With the evidence."""

    log_z = 0.0

    def _update_weights(self, model_trace: Any, guide_trace: Any) -> None:
        before = self.state._log_weights.clone()
        super()._update_weights(model_trace, guide_trace)
        log_w = before.clone()
        for trace, sign in ((model_trace, 1), (guide_trace, -1)):
            sites = (s for s in trace.nodes.values() if s["type"] == "sample" and "log_prob" in s)
            for site in sites:
                log_w += sign * site["log_prob"]
        self.log_z += float(log_w.logsumexp(0) - before.logsumexp(0))


model = cache(Guided)


@torch.no_grad()
def run(kind: type[SMCFilter], guided: Guided, num: int, seed: int) -> SMCFilter:
    """One run to the end."""
    pyro.set_rng_seed(seed)
    smc_filter = kind(guided, Proposal(guided), num, 0, ess_threshold=0.5)
    smc_filter.init()
    for k in range(len(guided.p["std"])):
        smc_filter.step(k)
    return smc_filter


def smc(problem: str, gradient: bool, num: int, seed: int) -> dict[str, Any]:
    """One run to the end, and again for its evidence."""
    guided = model(problem, gradient)
    seconds, state = timed(lambda: run(SMCFilter, guided, num, seed).state)
    mean = torch.softmax(state._log_weights, 0) @ state["x"]
    log_z = run(Counted, guided, num, seed).log_z
    return {"seconds": seconds, "log_z": log_z, "mean": mean.tolist()}


def resample(scheme: str, weights: str, calls: int) -> dict[str, float]:
    """Log-weights to ancestors."""
    log_w = torch.as_tensor(np.load(weights), dtype=torch.get_default_dtype())
    return repeated(lambda: _systematic_sample(torch.softmax(log_w, -1)), calls)


if __name__ == "__main__":
    torch.set_default_dtype(getattr(torch, sys.argv[1]))
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    serve(("pyro-ppl", "torch"), {"smc": smc, "resampling": resample}, ("systematic",))
