"""Published methods that choose among candidates, as keyword arguments of `sg.sample`.

All score a candidate by the cost of its denoised estimate, a black box. `nested` keeps the weight that
makes the choice exact; the others are searches and biased samplers, labelled so, without log Z.
"""

from functools import partial
from typing import Any, Literal

from smcguide.candidates import Candidates
from smcguide.grids import karras
from smcguide.kernels import DDPM
from smcguide.potentials import Tweedie
from smcguide.presets.baseline import Preset
from smcguide.proposals import Bootstrap
from smcguide.triggers import ess_below, never


def _chosen(num_steps: int, num: int, block: int, **rule: Any) -> Preset:
    return {
        "proposal": Bootstrap(),
        "potential": Tweedie(1.0),
        "kernel": DDPM(),
        "times": karras(num_steps),
        "trigger": never(),
        "wrap": partial(Candidates, num=num, block=block, **rule),
    }


def svdd(
    num: int = 10,
    temperature: float = 1.0,
    rule: Literal["softmax", "argmax"] = "softmax",
    num_steps: int = 100,
) -> Preset:
    """Derivative-Free Guidance with Soft Value-Based Decoding (arXiv 2408.08252).

    One of `num` children by exp(value / temperature), at every step. The released code takes the best
    (rule="argmax").
    """
    if rule == "argmax":
        return _chosen(num_steps, num, 1, rule=rule)
    return _chosen(num_steps, num, 1, weighted=False, temperature=temperature)


def scg(num: int = 16, num_steps: int = 100) -> Preset:
    """Symbolic Music Generation with Non-Differentiable Rule Guided Diffusion (arXiv 2402.14285).

    The best of `num` noises at every step (published: in the last three quarters of the run).
    """
    return _chosen(num_steps, num, 1, rule="argmax")


def code(num: int = 5, block: int = 5, num_steps: int = 100) -> Preset:
    """CoDe: Blockwise Control for Denoising Diffusion Models (arXiv 2502.00968).

    The best of `num` continuations of `block` steps.
    """
    return _chosen(num_steps, num, block, rule="argmax")


def best_of_n(num: int = 16, num_steps: int = 100) -> Preset:
    """Best-of-n: Theoretical guarantees on the best-of-n alignment policy (arXiv 2401.01879).

    The best of `num` whole runs.
    """
    return _chosen(num_steps, num, num_steps, rule="argmax")


def nested(num: int = 4, block: int = 1, num_steps: int = 100) -> Preset:
    """Nested Sequential Monte Carlo Methods (arXiv 1502.02536): candidates with their exact weight.

    The proposal and the potential are left to `sg.sample`.
    """
    return {
        "kernel": DDPM(),
        "times": karras(num_steps),
        "trigger": ess_below(0.5),
        "wrap": partial(Candidates, num=num, block=block),
    }
