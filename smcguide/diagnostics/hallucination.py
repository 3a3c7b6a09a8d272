r"""Hallucinations by mode interpolation: particles whose predicted clean event will not settle.

A smooth network bridges the gap between two neighbouring modes of the data, where the exact denoiser
jumps. A particle caught on the bridge sees a prediction x0_hat(x_t) that moves with every bit of
noise, one inside a mode sees a constant. So along the ancestral line of each final particle

    h = mean over coordinates of  Var over the late levels of  x0_hat(x_t)

is large where the model invents. It says nothing about inventions that the model is sure of.

Which levels are "late" matters more than anything else: those where sigma / alpha is below a fifth or so
of the distance between neighbouring modes. Earlier, all particles still choose their mode, which counts
as variance, and h ranks the wrong way round. Area under the ROC curve for small networks that learned
modes at distance 1, runs of karras(100), the range over three trainings and two ancestral kernels
(`benchmarks/hallucination.py`):

    last share of the steps          0.1          0.15         0.2          0.25         0.5
    sigma / alpha at its start       0.05         0.12         0.24         0.45         5.6
    three modes on the line          0.81-0.98    0.95-0.98    0.94-0.97    0.83-0.89    0.37-0.45
    nine modes in the plane          0.82-0.87    0.91-0.95    0.88-0.92    0.68-0.77    0.39-0.50

Reference: Aithal, Maini, Lipton, Kolter, "Understanding Hallucinations in Diffusion Models through
Mode Interpolation" (arXiv 2406.09358).
"""

import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


def hallucination(posterior: Posterior, last: float = 0.15) -> Tensor:
    """How much each particle's predicted clean event still moved in the last steps.

    Arguments:
        posterior: of a run with record=("x0_hat", "ancestors"); the ancestors may be left out where
            nothing was resampled.
        last: share of the steps that count, in (0, 1]; see the module docstring. At least two do.

    Returns:
        (S, N) float64, or (N,) without systems, in squared units of the events. To filter, give the
        particles above a threshold log-weight -inf.

    Raises:
        InvalidInput: for a run without these records, or another `last`.
    """
    if not 0 < last <= 1:
        raise InvalidInput(
            f"hallucination: last must be a share of the steps in (0, 1], got {last}."
        )
    missing = [name for name in _needed(posterior) if name not in posterior.recorded]
    if missing:
        raise InvalidInput(
            f"hallucination: the run did not record {missing}; it recorded "
            f"{sorted(posterior.recorded)}. Run it with record=('x0_hat', 'ancestors')."
        )
    predictions = posterior.recorded["x0_hat"]
    steps = predictions.shape[1] - 1
    if steps < 2:
        raise InvalidInput("hallucination: a run of one step has no trajectory of predictions.")
    first = steps - max(2, round(last * steps))  # row K holds the events themselves, no prediction
    ancestors = posterior.recorded.get("ancestors")
    own = torch.arange(predictions.shape[2], device=predictions.device)
    line = own.expand(len(predictions), -1)
    systems = torch.arange(len(predictions), device=own.device)[:, None]
    found = []
    for k in range(steps - 1, first - 1, -1):
        line = line if ancestors is None else ancestors[:, k + 1].gather(1, line)
        found.append(predictions[systems, k, line].double())
    variance = torch.stack(found).var(0, correction=0)
    return posterior._answer(variance.flatten(2).mean(-1))


def _needed(posterior: Posterior) -> tuple[str, ...]:
    """The records without which the ancestral lines cannot be followed."""
    resampled = bool(posterior.trace["resampled"].any())
    return ("x0_hat", "ancestors") if resampled else ("x0_hat",)
