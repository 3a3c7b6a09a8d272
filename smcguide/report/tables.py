"""The tables of a report: text in rows, ready to be escaped and shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from smcguide import weights
from smcguide.diagnostics.tails import pareto_k
from smcguide.exactness import has_evidence
from smcguide.posterior import Posterior
from smcguide.report.words import among, fixed, interval, number, tail

MOST_ROWS, MOST_COORDINATES, LONGEST = 60, 8, 1500

_LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it holds, and where its numbers come from.
        columns: their titles.
        rows: one text per column each.
        are_numbers: whether the columns after the first hold numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    are_numbers: bool = True


def systems(posterior: Posterior) -> Table:
    """Per system: log Z and its error, ESS, k-hat, survivors, resamplings; the worst if too many."""
    S, N = posterior.log_w.shape
    ess, k_hat = weights.ess(posterior.log_w), pareto_k(posterior.log_w)
    largest = weights.normalise(posterior.log_w).amax(1)
    events = posterior.trace["resampled"].sum(1)
    shown = range(S) if S <= MOST_ROWS else sorted(ess.argsort()[:MOST_ROWS].tolist())
    rows = tuple(
        (
            str(s), _evidence(posterior, s), fixed(ess[s], 1),
            f"{fixed(100 * ess[s] / N, 0)} %", tail(k_hat[s]), number(largest[s], 2),
            str(len(posterior.eves[s].unique())), str(int(events[s])),
        )
        for s in shown
    )  # fmt: skip
    many = f" The {MOST_ROWS} of {S} systems with the smallest ESS." if S > MOST_ROWS else ""
    return Table(
        f"Evidence and weights of {among(S, 'system')} of {N:,} particles. Standard errors of log Z: "
        f"{posterior.log_evidence_method}. Pareto k above 0.7: averages are unreliable.{many}",
        ("System", "log Z ± s.e.", "ESS", "ESS / N", "Pareto k", "Largest weight",
         "Initial ancestors left", "Resamplings"),
        rows,
    )  # fmt: skip


def answers(posterior: Posterior) -> Table | None:
    """Mean, deviation and quantiles of unknown parameters, and of events that have few coordinates."""
    named = {f"parameter {name}": posterior.marginal(name) for name in posterior.parameters}
    if posterior.x[0, 0].numel() <= MOST_COORDINATES:
        named["x"] = posterior
    rows = [row for name, law in named.items() for row in _coordinates(name, law)][:MOST_ROWS]
    if not rows:
        return None
    titles = ("Mean", "s.d.", *(f"{q:.0%} quantile" for q in _LEVELS))
    return Table("Weighted answers, per coordinate.", ("Quantity", *titles), tuple(rows))


def _coordinates(name: str, law: Posterior) -> list[tuple[str, ...]]:
    """One row per system and coordinate."""
    S, size = len(law.x), law.x[0, 0].numel()
    numbers = torch.cat([law.mean()[None], law.std()[None], law.quantile(_LEVELS)])
    numbers = numbers.reshape(2 + len(_LEVELS), S, size)
    rows = []
    for s in range(S):
        for i in range(min(size, MOST_COORDINATES)):
            index = f"[{i}]" if size > 1 else ""
            where = f", system {s}" if law.has_systems else ""
            rows.append((f"{name}{index}{where}", *(number(v) for v in numbers[:, s, i])))
    return rows


def settings(posterior: Posterior) -> Table:
    """What was run, as the result knows it."""
    S, N, *event = posterior.x.shape
    kind = "independent replicates" if posterior.are_replicates else "one observation each"
    rows: list[tuple[str, Any]] = [
        ("Systems", f"{S:,}" + (f", {kind}" if S > 1 else "")),
        ("Particles per system", f"{N:,}"),
        ("Event", " x ".join(map(str, event)) + " numbers" if event else "1 number"),
        ("Steps", f"{posterior.trace['ess'].shape[1] - 1:,}"),
    ]
    counts = [f"{v:,} of {n.replace('_', ' ')}" for n, v in posterior.evaluations.items()]
    rows += [("Evaluations", ", ".join(counts))] if counts else []
    shown_elsewhere = ("exactness", "num_particles")
    rows += [(_title(n), v) for n, v in posterior.settings.items() if n not in shown_elsewhere]
    if posterior.recorded:
        rows.append(("Recorded", ", ".join(posterior.recorded)))
    text = tuple((name, _short(value)) for name, value in rows)
    return Table("Sizes, cost and settings of this run.", ("What", "Value"), text, False)


def comparison(posteriors: Mapping[str, Posterior], verdicts: Mapping[str, str]) -> Table:
    """One row per run, worst case over its systems."""
    rows = tuple(
        (
            name, verdicts[name], interval(post.log_z) if len(post.log_z) > 1 else _evidence(post, 0),
            f"{fixed(weights.ess(post.log_w).min(), 1)} of {post.log_w.shape[1]:,}",
            tail(pareto_k(post.log_w).max()),
            str(min(len(e.unique()) for e in post.eves)),
            interval(post.trace["resampled"].sum(1)),
            f"{sum(v for k, v in post.evaluations.items() if k.startswith('network')):,}",
        )
        for name, post in posteriors.items()
    )  # fmt: skip
    return Table(
        "The runs side by side. Of several systems: the smallest ESS, the largest Pareto k, the fewest "
        "ancestors, and the range of log Z.",
        ("Run", "Worst finding", "log Z ± s.e.", "Smallest ESS", "Largest Pareto k",
         "Fewest ancestors left", "Resamplings", "Network evaluations"),
        rows,
    )  # fmt: skip


def differences(posteriors: Mapping[str, Posterior]) -> Table | None:
    """The settings in which runs differ; None where they do not."""
    runs = [{"systems": str(len(post.x))} | dict(post.settings) for post in posteriors.values()]
    names = dict.fromkeys(name for run in runs for name in run)
    rows = []
    for name in names:
        values = [_short(run.get(name, "none")) for run in runs]
        if len(set(values)) > 1:
            rows.append((_title(name), *values))
    if not rows:
        return None
    caption = "Settings in which the runs differ; all others are the same."
    return Table(caption, ("Setting", *posteriors), tuple(rows), False)


def _evidence(posterior: Posterior, system: int) -> str:
    if not has_evidence(posterior.exactness):
        return "withheld"
    se = posterior.standard_error()[0][system]
    return f"{fixed(posterior.log_z[system], 2)} ± {fixed(se, 2)}"


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
