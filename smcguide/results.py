"""How results are made: from a run, from a pool of replicates, and in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.evidence import islands
from smcguide.exactness import BIASED, EXACT, has_evidence, worst
from smcguide.posterior import Posterior
from smcguide.records import Particles, StepInfo

_WIDEST = 160  # characters of a setting that a summary shows


def collect(
    particles: Particles,
    trace: Sequence[StepInfo],
    about: Mapping[str, Any],
    recorded: Mapping[str, Tensor] | None = None,
) -> Posterior:
    """The posterior of a final population and its trace; `about` are further fields of it, `recorded`
    what was kept besides the trace."""
    names = ("ess", "resampled", "log_evidence", "unique_ancestors", "unique_eves")
    rows = {name: torch.stack([getattr(info, name) for info in trace], 1) for name in names}
    rows |= {n: torch.stack([i.report[n] for i in trace], 1) for n in trace[-1].report}
    kept = {n: torch.stack([i.recorded[n] for i in trace], 1) for n in trace[-1].recorded}
    kept |= recorded or {}
    log_z, carry = trace[-1].log_evidence, particles.carry
    if not has_evidence(about["settings"].get("exactness", EXACT)):
        log_z = torch.full_like(log_z, math.nan)
        rows["log_evidence"] = torch.full_like(rows["log_evidence"], math.nan)
    bound = torch.full_like(log_z, math.nan)
    moved = "acceptance" in carry or bool(rows.get("parameter_acceptance", bound).isfinite().any())
    if "path_kl" in carry and not moved:  # moves leave the path that was paid for
        elbow = (carry["log_psi"] - carry["path_kl"]).mean(1)
        bound = torch.where(rows["resampled"].any(1), bound, elbow)
    times = torch.tensor([info.time for info in trace], dtype=torch.float64)
    return Posterior(
        particles.x, particles.log_w, particles.eve, log_z, bound, rows, times, kept, **about
    )


def pooled(post: Posterior) -> Posterior:
    """Replicate systems as one population of S N particles, each system weighted by its Z."""
    if not post.are_replicates:
        raise InvalidInput("pooled: the systems have different observations; there is no pool.")
    S, N = post.log_w.shape
    within = post.log_w - weights.log_mean_exp(post.log_w)[:, None]
    told = has_evidence(post.exactness)  # without evidence all systems count alike
    log_w = ((post.log_z if told else torch.zeros_like(post.log_z))[:, None] + within).reshape(
        1, -1
    )
    eves = (post.eves + N * torch.arange(S, device=post.eves.device)[:, None]).reshape(1, -1)
    trace = {name: a.double().nanmean(0, keepdim=True) for name, a in post.trace.items()}
    trace["resampled"] = trace["resampled"] > 0
    about = {**post.settings, "pooled": S}
    about["pooled_se"] = float(islands(post.log_z)[1])
    log_z = weights.log_mean_exp(log_w) if told else post.log_z[:1]
    return Posterior(
        post.x.flatten(0, 1)[None], log_w, eves, log_z,
        post.bound.mean(0, keepdim=True), trace, post.times, {}, post.evaluations,
        about, {name: a.flatten(0, 1)[None] for name, a in post.parameters.items()},
        has_systems=False,
    )  # fmt: skip


def unweighted(post: Posterior) -> Posterior:
    """The same particles with equal weights: biased, and without evidence."""
    settings = {**post.settings, "exactness": worst([post.exactness, BIASED])}
    hidden = torch.full_like(post.trace["log_evidence"], math.nan)
    return replace(
        post, log_w=torch.zeros_like(post.log_w), log_z=torch.full_like(post.log_z, math.nan),
        trace={**post.trace, "log_evidence": hidden}, settings=settings,
    )  # fmt: skip


def summary(post: Posterior) -> str:
    """One row per system: evidence, ESS, survivors, resamplings; then cost and settings."""
    se = post.standard_error()[0]
    lines = ["system    log Z +- s.e.          ESS   ancestors   resampled"]
    rows = zip(post.log_z, se, weights.ess(post.log_w), strict=True)
    for s, (z, e, n) in enumerate(rows):
        kept, times = int(post.eves[s].unique().numel()), int(post.trace["resampled"][s].sum())
        lines.append(f"{s:6d} {z:10.3f} +- {e:<7.3f} {n:10.1f} {kept:11d} {times:11d}")
    lines.append(f"{post.x.shape[1]} particles per system; s.e. by {post.log_evidence_method}")
    lines.append(f"exactness: {post.exactness}")
    lines.append("evaluations: " + ", ".join(f"{k} {v}" for k, v in post.evaluations.items()))
    if bool((weights.ess(post.log_w) < 2).any()):
        lines.append(
            "warning: one particle has nearly all the weight; no number here can be trusted"
        )
    elif has_evidence(post.exactness) and any(len(e.unique()) == 1 for e in post.eves):
        lines.append(
            "warning: all particles descend from one; take more particles, another proposal, or "
            "num_systems to see the spread"
        )
    about = (f"{k}: {v}" for k, v in post.settings.items() if k != "exactness")
    lines += [line if len(line) < _WIDEST else line[:_WIDEST] + " ..." for line in about]
    return "\n".join(lines)
