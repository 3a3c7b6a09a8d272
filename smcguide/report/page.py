"""One HTML page about one run or several: verdict first, then what was run, pictures, numbers, and how to
do it again. The page holds everything it shows, asks the network for nothing and runs no program.

All that comes from results (names, settings, findings) is text: the template escapes it.
"""

import os
import platform
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import torch

import smcguide
from smcguide.bridges.places import check_place
from smcguide.diagnostics.verdict import DOUBTFUL, NOTE, SERIOUS, Verdict, verdict
from smcguide.errors import InvalidInput, MissingExtra
from smcguide.exactness import BIASED, EXACT, LIMIT, SEARCH
from smcguide.posterior import Posterior
from smcguide.report import tables
from smcguide.report.figures import Picture, evidence_picture, pictures
from smcguide.report.recipe import recipe
from smcguide.report.words import among

CLAIMS = {
    EXACT: "For the discretised chain the evidence Z is unbiased for any number of particles, and "
    "expectations become right as particles are added.",
    LIMIT: "Right only in the limit of more particles, iterations or steps: something in the method "
    "adapts to what it sees.",
    BIASED: "A heuristic: weights are missing, particles need not follow the posterior, and log Z is "
    "withheld.",
    SEARCH: "An optimiser: particles are candidates, not samples, and log Z is withheld.",
}

GOOD = "good"
SYMBOLS = {SERIOUS: "✖", DOUBTFUL: "▲", NOTE: "●", GOOD: "✔"}


@dataclass(frozen=True)
class Section:
    """What the page says of one run.

    Attributes:
        name, anchor: its title, and the target of links to it.
        verdict: its findings, and what was not checked.
        grade, headline: the worst severity or "good", and the verdict in a few words.
        exactness, claim: the class of the method, and what that means.
        settings, systems, answers: tables; answers None where events are large.
        pictures: in order; none of a run with broken numbers.
        recipe: a Python program.
    """

    name: str
    anchor: str
    verdict: Verdict
    grade: str
    headline: str
    exactness: str
    claim: str
    settings: tables.Table
    systems: tables.Table
    answers: tables.Table | None
    pictures: tuple[Picture, ...]
    recipe: str


def write_report(posteriors: Posterior | Mapping[str, Posterior], path: str | Path) -> None:
    """Write one self-contained HTML page about one run, or about several, compared.

    Arguments:
        posteriors: a result, or name -> result in the order of the page.
        path: of the file; one that is there is replaced once the new one is complete.

    Raises:
        InvalidInput: for anything but results, no result at all, or a path where no file can be.
        MissingExtra: without matplotlib or jinja2.
    """
    named = {"Run": posteriors} if isinstance(posteriors, Posterior) else posteriors
    fits = isinstance(named, Mapping) and len(named) > 0
    if not fits or any(not isinstance(post, Posterior) for post in named.values()):
        raise InvalidInput(
            "write_report: expected a Posterior, or a dictionary name -> Posterior with at least one, "
            f"got {reprlib.repr(named)}."
        )
    path = Path(path)
    check_place("write_report", path)
    text = _page({str(name): post for name, post in named.items()})
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _page(posteriors: Mapping[str, Posterior]) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("jinja2", "plots", "Writing a report") from error
    environment = Environment(
        loader=PackageLoader("smcguide.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sections = [_section(f"run-{i}", *item) for i, item in enumerate(posteriors.items(), 1)]
    several = len(sections) > 1
    grades = {section.name: _worst(section.grade) for section in sections}
    return environment.get_template("page.html").render(
        title=f"{among(len(sections), 'run')} compared" if several else sections[0].name,
        sections=sections,
        symbols=SYMBOLS,
        several=several,
        comparison=tables.comparison(posteriors, grades) if several else None,
        differences=tables.differences(posteriors) if several else None,
        caution=_caution(posteriors),
        evidence=evidence_picture(posteriors) if several else None,
        versions=f"smcguide {smcguide.__version__}, torch {torch.__version__} and Python "
        f"{platform.python_version()}",
    )


def _section(anchor: str, name: str, posterior: Posterior) -> Section:
    judged, sound = verdict(posterior), _has_finite_numbers(posterior)
    return Section(
        name, anchor, judged, *_headline(judged),
        posterior.exactness, CLAIMS.get(posterior.exactness, ""),
        tables.settings(posterior), tables.systems(posterior),
        tables.answers(posterior) if sound else None,
        tuple(pictures(posterior)) if sound else (), recipe(posterior),
    )  # fmt: skip


def _has_finite_numbers(posterior: Posterior) -> bool:
    """Whether particles are finite, and weights of every system can be normalised."""
    best = posterior.log_w.amax(1)  # NaN where a weight is
    return bool(best.isfinite().all()) and bool(posterior.x.isfinite().all())


def _headline(judged: Verdict) -> tuple[str, str]:
    """The worst severity that matters, and the verdict in a few words."""
    serious, doubtful = (len(judged.of(severity)) for severity in (SERIOUS, DOUBTFUL))
    if serious:
        return SERIOUS, f"Not to be trusted: {among(serious, 'serious finding')}"
    if doubtful:
        return DOUBTFUL, f"To be used with care: {among(doubtful, 'doubtful finding')}"
    return GOOD, "Nothing found that speaks against it"


def _worst(grade: str) -> str:
    return f"{SYMBOLS[grade]} {'none' if grade == GOOD else grade}"


def _caution(posteriors: Mapping[str, Posterior]) -> str | None:
    """What forbids a comparison of log Z."""
    differ = [
        part for part in ("prior", "cost")
        if len({str(post.settings.get(part)) for post in posteriors.values()}) > 1
    ]  # fmt: skip
    if not differ:
        return None
    return (
        f"These runs differ in {' and '.join(differ)}: their log Z answer different questions. Only runs "
        "of the same prior and cost say by their log Z which method is right."
    )
