r"""TARP: expected coverage of whole events by distances to random reference points.

For a reference point r that knows nothing of the truth x* beyond the data, let

    f = P(|x - r| < |x* - r|),     x ~ posterior,

the credibility of the ball around r that has the truth on its surface. Under calibration f is uniform,
so balls of credibility q hold the truth in a share q of the data sets. Unlike coordinates, distances see
the joint law. References independent of the data cannot see a posterior that is the prior; give
`references` made from the data (a point near a reconstruction, say) to see that too.

Reference: Lemos et al., "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference"
(arXiv 2302.03026).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smcguide.diagnostics.calibration.coverage import Coverage
from smcguide.diagnostics.calibration.quantities import check_truth, pits, stream
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


def tarp(
    posterior: Posterior,
    truth: Tensor,
    references: Tensor | None = None,
    *,
    levels: Sequence[float] | None = None,
    seed: int = 0,
) -> Coverage:
    """Expected coverage of events by random reference points; F = 1, named "tarp".

    Arguments:
        posterior: of S data sets (systems), weighted particles.
        truth: (S, *E), what each data set was made from.
        references: (S, *E) points that depend on nothing but the data and randomness; by default each
            set has the truth of another one, a draw from the prior. Distances are Euclidean: coordinates
            of different units should be scaled before.
        levels: credibilities, by default 0.05, ..., 0.95.
        seed: of references and ties.

    Raises:
        InvalidInput: for truths or references that do not fit, and for one data set without references.
    """
    truth = check_truth(posterior, truth)
    if references is None:
        references = _others(truth, seed)
    elif tuple(references.shape) != tuple(truth.shape):
        raise InvalidInput(
            f"references have shape {tuple(references.shape)}; expected {tuple(truth.shape)}: one for "
            "each data set."
        )
    centre = references.to(truth.device)[:, None].double()

    def distance(x: Tensor) -> Tensor:
        return (x - centre).reshape(*x.shape[:2], -1).norm(dim=-1)

    return Coverage.of(pits(posterior, truth, {"tarp": distance}, seed), ("tarp",), levels)


def _others(truth: Tensor, seed: int) -> Tensor:
    """For each set the truth of another one: a random cycle through all of them."""
    if len(truth) < 2:
        raise InvalidInput(
            "tarp: the default references are truths of other data sets; there is one data set. "
            "Simulate several, or give references."
        )
    cycle = torch.randperm(len(truth), generator=stream(seed, "references"))
    out = torch.empty_like(truth)
    out[cycle] = truth[cycle.roll(1)]
    return out
