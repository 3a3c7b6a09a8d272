"""The site: every page's code runs, the figures it quotes are those of the benchmarks, it is built
without a warning and describes every public name."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import check_names  # noqa: E402 - a script of the docs folder

OWN_TESTS = {"programs", "methods"}  # tested beside what they are about
BLOCK = re.compile(r"^```(?:python|\{code-cell\})\n(.*?)^```", re.M | re.S)
OPTIONS = re.compile(r"(?:---\n.*?^---\n|:\w+: [^\n]*\n)", re.M | re.S)  # of a notebook's cell


def code(page: str) -> list[str]:
    """The Python blocks of a page, without those that are for the notebook only."""
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    return [OPTIONS.sub("", text, count=1) for text in blocks if "[remove-cell]" not in text]


def run_page(page: str) -> dict:
    scope: dict = {"__name__": page}
    for block in code(page):
        exec(compile(block, f"{page}.md", "exec"), scope)
    return scope


PAGES = [p.stem for p in sorted(DOCS.glob("*.md")) if p.stem not in OWN_TESTS and code(p.stem)]


@pytest.mark.parametrize("page", [p for p in PAGES if p != "extend"])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


EXTENSIONS = run_page("extend")
TestMomentum = EXTENSIONS["TestMomentum"]
TestPatient = EXTENSIONS["TestPatient"]
TestCounts = EXTENSIONS["TestCounts"]


def test_the_proposal_has_forty_lines_at_most() -> None:
    assert len(code("extend")[0].strip().splitlines()) <= 40


def test_the_quickstart_has_less_than_twenty_lines() -> None:
    assert len(code("quickstart")[0].strip().splitlines()) < 20


def rows(page: str) -> list[list[str]]:
    """The cells of all table rows of a page."""
    lines = (DOCS / f"{page}.md").read_text().splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]


def measured() -> dict[tuple[str, str], list[str]]:
    """(problem, method) -> N, bias, spread, SW of the benchmark's tables."""
    found, problem = {}, ""
    for line in (DOCS / "benchmarks.md").read_text().splitlines():
        problem = line[4:] if line.startswith("### ") else problem
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 12:
            found[problem, cells[0]] = [cells[1], cells[2], cells[3], cells[6]]
    return found


def test_the_figures_behind_the_choice_are_those_of_the_benchmarks() -> None:
    figures = [r for r in rows("choose") if len(r) == 7 and "benchmarks.md#" in r[1]]
    assert len(figures) > 15
    truth = measured()
    for _, link, method, *numbers in figures:
        problem = re.match(r"\[(\S+)\]", link).group(1)
        assert truth[problem, method] == numbers, (problem, method)


def test_numbers_quoted_from_other_tables_are_in_the_benchmarks() -> None:
    text = (DOCS / "choose.md").read_text()
    quoted = text[text.index("And from tables with columns of their own") :]
    numbers = re.findall(r"(?<![\w.])[+-]?\d+\.\d\d+", quoted)
    assert len(numbers) > 12
    there = (DOCS / "benchmarks.md").read_text()
    assert [n for n in numbers if n not in there] == []


def test_every_letter_of_the_choice_has_a_figure() -> None:
    text = (DOCS / "choose.md").read_text()
    decisions, figures = text.split("## The figures\n")
    cited = {
        c for group in re.findall(r"\[([a-z](?:, [a-z])*)\]", decisions) for c in group.split(", ")
    }
    given = set(re.findall(r"^(?:\| |\* )([a-z])(?: \||:)", figures, re.M))
    assert cited == given


def test_the_install_page_names_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {r[0].strip("`") for r in rows("install") if r[0].startswith("`")} == set(extras)


def build(site: Path, *options: str) -> str:
    """Build the site, warnings as errors; what was complained about."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"]
    done = subprocess.run(
        [*command, *options, str(DOCS), str(site)], env=env, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def links_beyond(site: Path) -> set[str]:
    """Styles, scripts and pictures that a reader's browser would fetch from elsewhere."""
    fetched = r"<(?:script|img|link rel=\"(?:stylesheet|preload)\")[^>]*\"((?:https?:)?//[^\"]+)\""
    return {url for page in site.rglob("*.html") for url in re.findall(fetched, page.read_text())}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site without executed pages."""
    site = tmp_path_factory.mktemp("docs") / "site"
    assert build(site, "-D", "nb_execution_mode=off") == ""
    return site


def test_the_site_builds_and_describes_every_public_name(site: Path) -> None:
    assert len(check_names.rooms()) > 20
    assert check_names.missing(site) == []
    assert links_beyond(site) == set(), "the site is to be read without a network"
    assert "<math" in (site / "concepts.html").read_text()


def test_a_name_without_a_place_is_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import smcguide as sg

    monkeypatch.setattr(sg.proposals, "__all__", [*sg.proposals.__all__, "Newcomer"])
    monkeypatch.setattr(sg.proposals, "Newcomer", object(), raising=False)
    assert check_names.missing(site) == ["smcguide.proposals.Newcomer"]


@pytest.mark.slow
def test_the_site_with_its_executed_pages_builds_without_a_warning(tmp_path: Path) -> None:
    assert build(tmp_path / "site") == ""
    assert not (DOCS / "report.html").exists()
    assert "log evidence" in (tmp_path / "site/quickstart.html").read_text()
