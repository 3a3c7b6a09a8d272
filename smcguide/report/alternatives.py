"""What the pictures of a report show, in sentences with numbers, for those who do not see them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from smcguide import weights
from smcguide.diagnostics.tails import pareto_k
from smcguide.plots import panels
from smcguide.posterior import Posterior
from smcguide.report.words import among, interval, number, span, tail


def of_posterior(posterior: Posterior) -> str:
    """Sizes, and the range of mean and standard deviation."""
    S, N, *event = posterior.x.shape
    mean, std = posterior.mean(), posterior.std()
    begin = f"{N} weighted particles in {among(S, 'system')}."
    if len(event) >= 2:
        size = " by ".join(map(str, event))
        return (
            f"{begin} Images of {size}: posterior mean, standard deviation and five draws. The mean "
            f"lies between {span(mean)}, the standard deviation is at most {number(std.max())}."
        )
    if panels.is_curve(event, None):
        return (
            f"{begin} Signals of {event[0]} values: posterior mean, 90 % band and five draws. The mean "
            f"lies between {span(mean)}, the standard deviation is at most {number(std.max())}."
        )
    flat = zip(mean.reshape(S, -1)[0], std.reshape(S, -1)[0], strict=True)
    some = [f"{number(m)} with standard deviation {number(s)}" for m, s in list(flat)[:6]]
    return f"{begin} Weighted histograms. Means of the first coordinates: {', '.join(some)}."


def of_pairs(posterior: Posterior, axes: np.ndarray) -> str:
    """The strongest correlation among the unknowns that `plots.plot_pairs` drew into `axes`."""
    names = [ax.get_xlabel() for ax in axes[-1]]
    N = posterior.log_w.shape[1]
    unknowns = [a[0].reshape(N, -1).double() for a in (*posterior.parameters.values(), posterior.x)]
    columns = torch.cat(unknowns, 1)[:, : len(names)]
    text = f"Weighted histograms of {', '.join(names)} in the first system."
    if len(names) == 1:
        return text
    W = weights.normalise(posterior.log_w)[0]
    covariance = torch.cov(columns.T, aweights=W, correction=0)
    scale = covariance.diagonal().clamp_min(1e-300).sqrt()
    correlation = (covariance / scale[:, None] / scale).tril(-1)
    i, j = divmod(int(correlation.abs().argmax()), len(names))
    return (
        f"{text} Scatter plots of each pair: the strongest correlation is "
        f"{number(correlation[i, j], 2)}, of {names[j]} and {names[i]}."
    )


def of_run(posterior: Posterior) -> str:
    """ESS, resamplings, survivors and evidence."""
    trace, (S, N) = posterior.trace, posterior.log_w.shape
    ess = trace["ess"]
    lines = [
        f"Over {ess.shape[1] - 1} steps the effective sample size is never below "
        f"{number(ess.min())} of {N} and ends at {interval(weights.ess(posterior.log_w))}.",
        f"Resamplings{' per system' if S > 1 else ''}: {interval(trace['resampled'].sum(1))}.",
        f"{interval(trace['unique_eves'][:, -1])} of {N} initial particles have descendants left.",
    ]
    if bool(posterior.log_z.isfinite().any()):
        lines.append(f"The log evidence ends at {interval(posterior.log_z)}.")
    return " ".join(lines)


def of_weights(posterior: Posterior) -> str:
    """The largest weight, and the tail."""
    W, N = weights.normalise(posterior.log_w), posterior.log_w.shape[1]
    return (
        f"Final weights of {N} particles in {among(len(W), 'system')}. The largest weight is "
        f"{number(W.max())}, an equal share would be {number(torch.tensor(1 / N))}. Pareto k is "
        f"{tail(pareto_k(posterior.log_w).max())} at worst; above 0.7 averages are unreliable."
    )


def of_genealogy(posterior: Posterior) -> str:
    """How many lines of descent are left, and since when it is one."""
    eves, N = posterior.trace["unique_eves"][0].long(), posterior.log_w.shape[1]
    once = (eves == 1).nonzero()
    end = f"Only one is left after step {int(once[0])}." if len(once) else "They have not merged."
    return (
        f"Lines of descent of the final particles of the first system over {len(eves) - 1} steps: "
        f"{int(eves[-1])} of {N} initial particles have descendants. {end}"
    )


def of_evidence(posteriors: Mapping[str, Posterior]) -> str:
    """log Z of each run."""
    each = "; ".join(f"{name}: {_evidence_of(post)}" for name, post in posteriors.items())
    return f"Log evidence of {among(len(posteriors), 'run')}. {each}."


def _evidence_of(posterior: Posterior) -> str:
    se: Tensor = posterior.standard_error()[0]
    if len(se) > 1:
        return f"{interval(posterior.log_z)} over {len(se)} systems"
    return f"{number(posterior.log_z[0])} plus or minus {number(se[0])}"
