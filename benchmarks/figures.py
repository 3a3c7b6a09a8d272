"""Tables and figures of `methods.py`, and their place in the documentation."""

import math
from pathlib import Path

import page
from matplotlib.ticker import LogLocator
from measuring import Row
from page import line as _line

from smcguide.plots.panels import COLOURS, new_figure

BEGIN, END = page.markers("methods")
PREAMBLE = """\
Every method spends the same number of network evaluations (NFE), a forward and a backward pass
counting one each: as many as `Bootstrap` with the N particles and K steps shown. A method whose
particles cost more has fewer of them; column NFE is what it really spent, relative to that. The
rehearsal of the prior is the same for all and not counted.

* Bias, spread: mean error of log Z over all systems and runs; standard deviation over the runs of
  one system. RMS: root mean square error.
* Z ratio: mean of Z-hat / Z minus 1, with its standard error; CV: coefficient of variation of Z-hat.
  Z is the data law's: part of a bias is that of the discretised chain, common to all.
* SW: sliced Wasserstein distance between as many draws as the reference has particles and exact
  samples, over that between two sets of exact samples (1 is perfect).
* Forward, backward: passes per particle and step. s: seconds for all systems and runs.
* `-`: has no evidence."""
COLUMNS = [
    "method", "N", "bias", "spread", "Z ratio", "CV", "SW", "ESS/N", "forward", "backward", "NFE", "s",
]  # fmt: skip
DEFAULT = "default"
FARTHEST = 50  # error of log Z that a figure shows; beyond it an arrow points outwards


def number(value: float, form: str = ".2f") -> str:
    """A number short enough for a table; `-` for NaN."""
    if math.isnan(value):
        return "-"
    wide = math.isinf(value) or abs(value) >= 1000
    return f"{value:.1e}" if wide else format(value, form)


def table(rows: list[Row]) -> str:
    """The rows of one problem in Markdown."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    for r in (r for r in rows if "N" in r):
        ratio = number(r["ratio"], "+.3f")
        ratio += "" if ratio == "-" else f" ± {number(r['ratio_se'], '.3f')}"
        lines.append(
            _line([
                r["method"], str(r["N"]), number(r["bias"], "+.3f"), number(r["spread"], ".3f"), ratio,
                number(r["cv"]), number(r["sw"]), number(r["ess"]), number(r["forward"]),
                number(r["backward"]), number(r["budget"]), number(r["seconds"], ".1f"),
            ])
        )  # fmt: skip
    for said, failed in (("Does not apply", False), ("All particles lost", True)):
        names = [r["method"] for r in rows if "N" not in r and r.get("failed", False) is failed]
        lines += ["", f"{said}: {', '.join(names)}."] if names else []
    return "\n".join(lines)


def by_problem(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each problem, in the order of their first appearance."""
    groups: dict[str, list[Row]] = {}
    for r in rows:
        groups.setdefault(r["problem"], []).append(r)
    return groups


def summary(rows: list[Row]) -> str:
    """For each problem the three best methods in log Z and in sliced Wasserstein, and the default."""
    lines = ["| problem | best RMS | default | best SW | default |", "|" + "---|" * 5]
    for name, group in by_problem(rows).items():
        cells = [name]
        for key in ("rms", "sw"):
            known = [r for r in group if not math.isnan(r.get(key, math.nan))]
            others = [r for r in known if r["method"] != DEFAULT]
            best = sorted(others, key=lambda r: r[key])[:3]
            cells.append("; ".join(f"{r['method']} {number(r[key])}" for r in best))
            cells += [number(r[key]) for r in known if r["method"] == DEFAULT][:1] or ["-"]
        lines.append(_line(cells))
    return "\n".join(lines)


def figure(rows: list[Row], title: str, path: Path) -> None:
    """Error of log Z (mean, spread) and sliced Wasserstein ratio (mean, standard deviation)."""
    shown = [r for r in rows if "N" in r]
    fig = new_figure(8.5, 1.3 + 0.23 * len(shown))
    left, right = fig.subplots(1, 2, sharey=True)
    for y, r in enumerate(shown):
        colour = COLOURS[1] if r["method"] == DEFAULT else COLOURS[0]
        style = {"fmt": "o", "ms": 4.5, "lw": 1.6, "capsize": 2.5, "color": colour}
        if abs(r["bias"]) > FARTHEST:
            side = math.copysign(FARTHEST, r["bias"])
            left.plot(side, y, "<" if side < 0 else ">", ms=6, color=colour)
        elif not math.isnan(r["bias"]):
            left.errorbar(r["bias"], y, xerr=r["spread"], **style)
        low = min(r["sw_sd"], 0.9 * r["sw"])  # a logarithmic axis has no zero
        right.errorbar(r["sw"], y, xerr=[[low], [r["sw_sd"]]], **style)
    left.axvline(0, color="0.4", lw=0.8, zorder=0)
    right.axvline(1, color="0.4", lw=0.8, zorder=0)
    reach = [abs(r["bias"]) + r["spread"] for r in shown if not math.isnan(r["bias"])]
    if max(reach, default=0) > 2:
        left.set_xscale("symlog", linthresh=0.1, linscale=0.5)
        left.xaxis.set_major_formatter("{x:g}")
        low, high = left.get_xlim()
        left.set_xlim(max(low, -1.3 * FARTHEST), min(high, 1.3 * FARTHEST))
    if max(r["sw"] for r in shown) > 4:
        right.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter("{x:g}")
        right.minorticks_off()
    left.set_yticks(range(len(shown)), [r["method"] for r in shown], fontsize=9)
    left.set_ylim(len(shown) - 0.4, -0.6)
    left.set_xlabel("error of log Z: mean, spread of runs", fontsize=9)
    right.set_xlabel("sliced Wasserstein ratio (1 is exact)", fontsize=9)
    for ax in (left, right):
        for y in range(0, len(shown), 2):
            ax.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=-1)
        ax.tick_params(axis="x", labelsize=9)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    fig.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)


def insert(text: str, docs: Path) -> None:
    """Put text between the markers of a file.

    Raises:
        ValueError: if the file does not hold each marker exactly once, in order.
    """
    page.insert("methods", text, docs)


def render(rows: list[Row], docs: Path) -> None:
    """Figures into images/ beside the page, tables into the page."""
    parts = [PREAMBLE, summary(rows)]
    for name, group in by_problem(rows).items():
        path = docs.parent / "images" / f"methods_{name}.png"
        sizes = "N = {particles}, K = {steps}; systems: {systems}, runs of each: {replicates}."
        caption = "{about}. ".format(**group[0]) + sizes.format(**group[0])
        figure(group, group[0]["about"], path)
        parts.append(f"### {name}\n\n{caption}\n\n{table(group)}\n\n![{name}](images/{path.name})")
    insert("\n\n".join(parts), docs)
