"""Can the particles of a Pyro program be evaluated at once, and have they a density at all?

A few particles are evaluated one after the other, again, with latents exchanged, and batched. A program
whose log-density is random or whose theta depends on x or j is refused; one that cannot be batched, or
has other values then, is evaluated one particle after the other.
"""

import traceback
from collections.abc import Iterator
from pathlib import Path

import pyro
import torch

import smcguide
from smcguide.bridges.pyro.runs import Runs, each
from smcguide.bridges.pyro.sites import Values
from smcguide.bridges.pyro.sorting import refusal

_ROUNDING = {True: 1e-9, False: 1e-3}  # of sums in double and in single precision
_LIBRARIES = tuple(Path(str(lib.__file__)).parent for lib in (torch, pyro, smcguide))
_REASONS = (  # what torch says, and what it means
    ("control flow", "it branches on a latent in Python, where torch.where would do"),
    (".item()", "it makes a Python number of a latent"),
    ("data pointer", "it takes the numbers out of a latent (numpy, tolist)"),
    ("inplace", "it writes a latent into another tensor in place, where torch.stack would do"),
    ("setup_context", "a torch.autograd.Function in it has no rule for vmap"),
    ("dynamic shape", "the shape of a result depends on a latent"),
    ("random", "it draws random numbers"),
)


def examine(runs: Runs, x: Values, rest: Values) -> str | None:
    """Why particles cannot be batched, None if they can.

    Arguments:
        runs: the program.
        x: values of the prior sites, (M, *shape).
        rest: values of all other latents, (M, *shape).

    Raises:
        InvalidInput: for a random log-density, for a theta that depends on x or j.
    """
    data = [v for v in (x | rest | runs.sites.observed).values() if v.is_floating_point()]
    tolerance = _ROUNDING[all(v.dtype == torch.float64 for v in data)]
    terms = each(runs.log_densities, x | rest, batched=False)
    again = each(runs.log_densities, x | rest, batched=False)
    for name in _different(terms, again, tolerance):
        raise refusal(
            name,
            "two evaluations with the same latents differ, so weights would be random",
            "Draw random numbers with pyro.sample only and keep no state between runs (dropout: "
            "module.eval()).",
        )
    _check_theta(runs, x, rest, terms, tolerance)
    try:
        batched = each(runs.log_densities, x | rest, batched=True)
    except Exception as error:  # whatever vmap cannot do
        return _reason(error)
    for name in _different(terms, batched, tolerance):
        return f"site {name!r} has other values under torch.func.vmap"
    return None


def _check_theta(runs: Runs, x: Values, rest: Values, terms: Values, tolerance: float) -> None:
    theta = [p.name for p in runs.sites.parameters]
    if not theta:
        return
    values = {name: v if name in theta else v.roll(1, 0) for name, v in (x | rest).items()}
    exchanged = each(runs.log_densities, values, batched=False)
    for name in _different({n: terms[n][:, :1] for n in theta}, exchanged, tolerance):
        raise refusal(
            name,
            "its prior depends on a diffusion latent or a discrete one",
            "Draw a standard variable and transform it: for Normal(f(x), s), draw e ~ Normal(0, 1) "
            "and use f(x) + s * e (for missing data, mask the likelihood instead of obs_mask).",
        )


def _different(a: Values, b: Values, tolerance: float) -> Iterator[str]:
    """Names of the sites of a whose values in b are others."""
    for name, value in a.items():
        other = b[name][:, : value.shape[1]]
        if not torch.allclose(value, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            yield name


def _reason(error: Exception) -> str:
    text = str(error)
    known = [meaning for symptom, meaning in _REASONS if symptom in text]
    reason = known[0] if known else f"{type(error).__name__}: {text.partition(chr(10))[0]}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(folder in Path(frame.filename).parents for folder in _LIBRARIES):
            return f"{reason} ({Path(frame.filename).name}:{frame.lineno}: {frame.line})"
    return reason
