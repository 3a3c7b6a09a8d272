r"""Simulation-based calibration: ranks of the truth among draws of the posterior.

Where x* comes from the prior and y from the likelihood, x* and draws from p(x | y) have one law, so the
rank of f(x*) among n draws is uniform on 0, ..., n for every function f, also for one that knows y:
ranks of log p(y | x) see a sampler that ignores the data, whose coordinates have uniform ranks.

Draws are taken without replacement as far as the weights allow: particles in random order, then n
equally spaced points of their summed weights. For equal weights no particle is drawn twice, and N
independent draws of the exact posterior, N >= n, have exactly uniform ranks; draws with replacement
would repeat themselves, and the truth would lie outside all of them too often.

References: Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based Calibration"
(arXiv 1804.06788); Modrak et al., "Simulation-Based Calibration Checking for Bayesian Computation: The
Choice of Test Quantities Shapes Sensitivity" (arXiv 2211.02383).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.calibration.quantities import (
    Statistic,
    check_truth,
    coordinates,
    evaluate,
    stream,
)
from smcguide.diagnostics.calibration.ranks import Ranks, ranks_among
from smcguide.errors import InvalidInput, check_counts
from smcguide.posterior import Posterior


def sbc_ranks(
    posterior: Posterior,
    truth: Tensor,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_draws: int = 99,
    seed: int = 0,
) -> Ranks:
    """Ranks of the truths of S data sets among draws of their posteriors.

    Arguments:
        posterior: of S data sets (systems).
        truth: (S, *E), what each data set was made from.
        statistics: name -> function (S, n, *E) -> (S, n), which may hold the data (S, 1, ...); the
            coordinates by default.
        num_draws: n, at most the number of particles.
        seed: of draws and ties.

    Raises:
        InvalidInput: for truths that do not fit the posterior, and for more draws than particles.
    """
    truth, (S, N) = check_truth(posterior, truth), posterior.log_w.shape
    check_counts({"num_draws": (num_draws, 1)})
    if num_draws > N:
        raise InvalidInput(
            f"sbc_ranks: num_draws={num_draws} of {N} particles. Repeated draws have the truth outside "
            "of them too often: use at most as many draws as particles."
        )
    device = posterior.x.device
    generator = stream(seed, "draws", device)
    order = torch.rand(S, N, generator=generator, device=device, dtype=torch.float64).argsort(-1)
    u = torch.rand(S, 1, generator=generator, device=device, dtype=torch.float64)
    points = (torch.arange(num_draws, device=device) + u) / num_draws
    index = order.gather(1, weights.inverse_cdf(posterior.log_w.gather(1, order), points))
    x = posterior.x[torch.arange(S, device=device)[:, None], index]
    functions = statistics or coordinates(tuple(posterior.x.shape[2:]))
    both = torch.cat([truth[:, None], x], 1)
    values = evaluate(functions, both, index.new_ones(both.shape[:2], dtype=torch.bool))
    return ranks_among(
        dict(zip(functions, values[:, 0].unbind(-1), strict=True)),
        dict(zip(functions, values[:, 1:].unbind(-1), strict=True)),
        seed,
    )
