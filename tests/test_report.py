"""The report: one page that holds everything, says the truth, and can be read by everyone."""

import base64
import dataclasses
import functools
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch

import smcguide as sg
from smcguide import cli, plots
from smcguide.cli.report import names
from smcguide.diagnostics.verdict import DOUBTFUL, NOTE, SERIOUS, Finding, Verdict, verdict
from smcguide.report import alternatives, tables, write_report
from smcguide.report.page import _headline
from smcguide.report.recipe import ROOMS, as_python, recipe

EVIL = "<script>alert('no')</script>"


def problem(event=(3,)):
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, *event), scale=1.0)
    d = torch.Size(event).numel()
    return prior, sg.costs.LinearGaussian(torch.eye(d)[:1], torch.ones(1), 0.2)


@functools.cache
def run(event=(3,), seed=0, **options):
    options = {"num_particles": 64, "num_steps": 5, "record": ("ancestors",)} | options
    return sg.sample(*problem(event), seed=seed, **options)


def broken():
    """One particle has all the weight."""
    post = run()
    log_w = torch.full_like(post.log_w, -1e3)
    log_w[:, 7] = 0
    return dataclasses.replace(post, log_w=log_w)


def undrawable(post, what="nan"):
    """The same with numbers that no picture can show."""
    log_w, x = post.log_w.clone(), post.x.clone()
    if what == "infinite":
        x[0, 0, 0] = torch.inf
    else:
        log_w[0, : None if what == "dead" else 1] = -torch.inf if what == "dead" else torch.nan
    return dataclasses.replace(post, log_w=log_w, x=x)


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.inside = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The page of one run of two systems of images."""
    path = tmp_path_factory.mktemp("report") / "images.html"
    write_report(run((1, 4, 4), num_systems=2, num_particles=256), path)
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The page of three runs of one problem; one is broken, one has no evidence, names are hostile."""
    path = tmp_path_factory.mktemp("report") / "several.html"
    note = dataclasses.replace(run(seed=1), settings={**run(seed=1).settings, EVIL: EVIL})
    runs = {
        "gradient": note,
        EVIL: broken(),
        "$\\broken$": undrawable(run(), "infinite").unweighted(),
    }
    write_report(runs, path)
    return path


@pytest.fixture(params=["images", "several"])
def page(request):
    return Page(request.getfixturevalue(request.param))


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing(page):
    """No program, nothing but data addresses and links within; and the page forbids itself more."""
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name])
    style = re.search("<style>(.*?)</style>", page.source, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy
    assert len(page.source) < 1e6


def test_pictures_are_whole_and_have_texts_with_numbers(page):
    found = page.all("img")
    assert len(found) >= 4
    for image in found:
        kind, data = re.fullmatch("data:image/([a-z+]+);base64,(.+)", image["src"]).groups()
        content = base64.b64decode(data, validate=True)
        assert content[:4] == b"\x89PNG" if kind == "png" else b"</svg>" in content
        assert len(image["alt"]) > 60 and re.search(r"\d", image["alt"])
        assert int(image["width"]) > 100 and int(image["height"]) > 50


def test_everyone_can_find_their_way(page):
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption")) >= 2
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    targets = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for a in page.all("a")} <= targets


def test_the_verdict_comes_first_with_evidence_and_remedy(several):
    page = Page(several)
    findings = verdict(broken()).findings
    assert findings and findings[0].severity == "serious"
    for finding in findings:
        for said in (finding.title, finding.evidence, finding.remedy, finding.severity):
            assert " ".join(said.split()) in page.text
    own = page.text[page.text.index("Verdict") :]
    assert own.index("Verdict") < own.index("What was run") < own.index("How to reproduce it")
    assert "Not to be trusted" in page.text and "✖ serious" in page.text


def test_tables_hold_the_numbers_of_the_run(images):
    page, post = Page(images), run((1, 4, 4), num_systems=2, num_particles=256)
    assert "Event 1 x 4 x 4 numbers" in page.text and f"Seed {post.settings['seed']}" in page.text
    assert f"{post.evaluations['network_forward']:,} of network forward" in page.text
    for s in range(2):
        se = float(post.log_evidence_se[s])
        z = f"{float(post.log_z[s]):.2f} ± {se:.2f}".replace("-", "\N{MINUS SIGN}")
        events = int(post.trace["resampled"][s].sum())
        row = rf"{s} {re.escape(z)} {float(post.ess[s]):.1f} \d+ % \S+ \S+ "
        row += rf"{len(post.eves[s].unique())} {events} "
        assert re.search(row, page.text), row
    assert "s.e. over" not in page.text and post.log_evidence_method in page.text


def test_answers_of_few_unknowns_are_a_table(several):
    mean, std = run(seed=1).mean()[0], run(seed=1).std()[0]
    assert f"x[0] {float(mean):.3g} {float(std):.3g} " in Page(several).text


def test_withheld_evidence_is_said_to_be_withheld(several):
    page = Page(several)
    assert "0 withheld" in page.text and "Exactness: biased." in page.text


def test_what_files_say_is_text(several):
    page = Page(several)
    assert page.text.count(EVIL) >= 4  # the name in headings and tables, and the setting
    assert "<script" not in page.source


def test_different_problems_are_not_compared_by_evidence(several, tmp_path):
    assert "answer different questions" not in Page(several).text
    other = sg.sample(problem()[0], lambda x: x.square().sum(-1), num_particles=8, num_steps=2)
    runs = {name: undrawable(post) for name, post in (("a", run()), ("b", other))}
    write_report(runs, tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert "These runs differ in cost" in page.text
    assert "Num particles 64 8" in page.text and "Trigger ess" not in page.text.split("Verdict")[0]


def test_the_same_run_is_the_same_page(images, tmp_path):
    write_report(run(num_systems=2, event=(1, 4, 4), num_particles=256), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == images.read_bytes()


@pytest.mark.parametrize("what", ["nan", "dead", "infinite"])
def test_broken_numbers_are_not_drawn(what, tmp_path):
    write_report(undrawable(run(), what), tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert not page.all("img") and "are not finite numbers" in page.text
    assert "Nothing found" not in page.text


@pytest.mark.parametrize("wrong", [{}, [], None, {"a": 1}, {"a": "run.nc"}])
def test_anything_but_results_is_refused_and_writes_nothing(wrong, tmp_path):
    with pytest.raises(sg.InvalidInput, match="write_report: expected a Posterior"):
        write_report(wrong, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_a_missing_package_is_named_with_its_extra(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(sg.MissingExtra, match=r"pip install 'smcguide\[plots\]'"):
        run().report(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


# ---- how to reproduce ----------------------------------------------------------------------------


def test_the_recipe_repeats_the_run():
    post = run((2,), seed=4, num_systems=2, trigger=sg.triggers.at_steps((1, 3)))
    program = re.sub(r"(?m)^(prior|cost) = .*$", "", recipe(post))
    names = dict(zip(("prior", "cost"), problem((2,)), strict=True))
    exec(program, names)  # its own parts, no file's
    again = names["posterior"]
    assert torch.equal(again.x, post.x) and torch.equal(again.log_w, post.log_w)
    assert torch.equal(again.recorded["ancestors"], post.recorded["ancestors"])


def test_parts_with_defaults_become_code_that_makes_them():
    made = []
    for room in ROOMS.values():
        for kind in vars(getattr(sg, room)).values():
            if not isinstance(kind, type) or not kind.__module__.startswith(f"smcguide.{room}"):
                continue
            try:
                part = kind()
            except (TypeError, sg.InvalidInput):  # a base class, or one that wants to be told more
                continue
            assert repr(eval(as_python(repr(part), room), {"sg": sg})) == repr(part)
            made.append(part)
    assert len(made) > 40


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('x')", "Systematic(__import__('os'))", "print(1)", "Systematic", "1 +",
     "LinearGaussian(y (32,), 4 systems)", "InvalidInput('a')", "\0", "[f for f in ()]", "(" * 5000],
)  # fmt: skip
def test_what_is_no_part_of_ours_never_becomes_code(text):
    assert as_python(text, "resamplers") is None


def test_gaps_are_one_line_each():
    settings = {**run().settings, "prior": "a\nb = 1", "proposal": "mine()\nimport os"}
    program = recipe(dataclasses.replace(run(), settings=settings))
    assert (
        "prior = ...  # a b = 1\n" in program and "proposal=...,  # mine() import os\n" in program
    )
    compile(program, "recipe", "exec")


# ---- the command line ----------------------------------------------------------------------------


def call(monkeypatch, *arguments):
    """Run the command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["smcguide", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.nc"
    run(record=(), num_particles=256).save(path)
    return path


def test_the_command_writes_next_to_the_run_and_says_so(monkeypatch, capsys, saved):
    assert call(monkeypatch, saved) == 0
    out = saved.with_suffix(".html")
    assert re.fullmatch(rf"{re.escape(str(out))}  1 run, \d+ kB\n", capsys.readouterr().out)
    assert "<h1>run</h1>" in Page(out).source


def test_several_files_make_one_page(monkeypatch, capsys, saved, tmp_path):
    other = tmp_path / "other.nc"
    undrawable(run(), "infinite").save(other)
    assert call(monkeypatch, saved, other, "-o", tmp_path / "a.html") == 0
    assert "a.html  2 runs, compared, " in capsys.readouterr().out
    assert re.findall("<h2>(.*)</h2>", Page(tmp_path / "a.html").source)[1:] == ["run", "other"]


def test_runs_with_equal_names_are_told_apart(tmp_path):
    a, b, c = tmp_path / "one" / "run.nc", tmp_path / "two" / "run.nc", tmp_path / "two" / "best.nc"
    assert names([a]) == ["run"] and names([a, c]) == ["run", "best"]
    assert names([a, b, c]) == ["one/run", "two/run", "best"]
    assert names([a, b, b]) == ["one/run", "two/run (2)", "two/run (3)"]


def test_expected_errors_are_one_line_and_write_nothing(monkeypatch, saved, tmp_path):
    text, cut, folder = (tmp_path / name for name in ("text.nc", "cut.nc", "folder"))
    text.write_text("not a run")
    cut.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    folder.mkdir()
    cases = {
        (tmp_path / "none.nc",): "none.nc",
        (text,): "text.nc",
        (cut,): "cut.nc",
        (folder,): "folder",
        (saved, "-o", saved): "give the page another name",
        (saved, "-o", folder / "no" / "a.html"): "cannot write",
        (saved, "-o", folder): "cannot write",
    }
    before = saved.read_bytes()
    for arguments, expected in cases.items():
        said = call(monkeypatch, *arguments)
        assert isinstance(said, str), arguments
        assert said.startswith("smcguide: ") and expected in said and "\n" not in said
    assert saved.read_bytes() == before and not list(folder.iterdir())
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".nc"}


# ---- in a browser --------------------------------------------------------------------------------

PHONE = 360, 780  # of a frame: a window cannot be so narrow
PROBE = """<script>
addEventListener("load", () => parent.postMessage(JSON.stringify({
  width: innerWidth, needed: document.documentElement.scrollWidth,
  images: [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth]),
  headline: document.querySelector(".headline").getBoundingClientRect().top,
  page: getComputedStyle(document.body).backgroundColor,
  card: getComputedStyle(document.querySelector(".canvas")).backgroundColor,
}), "*"));
</script></body>"""
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body><script>
addEventListener("message", event => { document.body.dataset.seen = event.data; });
</script><iframe src="page.html" width="@W" height="@H"></iframe></body>"""


def browse(path, folder, *options):
    """The DOM of a page in a browser, and what the console said."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no chromium here")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
            "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000",
            *options, "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(("which", "dark"), [("images", False), ("several", True)])
def test_a_browser_on_a_phone_shows_all_of_it(which, dark, request, tmp_path):
    source = request.getfixturevalue(which).read_text(encoding="utf-8")
    open_page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    (tmp_path / "page.html").write_text(open_page.replace("</body>", PROBE), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        FRAME.replace("@W", str(PHONE[0])).replace("@H", str(PHONE[1]))
    )
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, _ = browse(tmp_path / "frame.html", tmp_path, theme)
    seen = json.loads(html.unescape(re.search('data-seen="(.*?)"', dom)[1]))
    assert seen["width"] == seen["needed"] == PHONE[0]  # nothing sticks out
    assert len(seen["images"]) == source.count("<img")
    for complete, natural, shown in seen["images"]:
        assert complete and natural > 0 and 200 < shown <= PHONE[0]
    assert which == "several" or 0 < seen["headline"] < PHONE[1]  # on the first screen
    assert (seen["page"] == "rgb(255, 255, 255)") != dark
    assert seen["card"] == "rgb(255, 255, 255)"


def test_a_browser_has_nothing_to_complain_about(several, tmp_path):
    dom, console = browse(several, tmp_path)
    assert 'class="headline"' in dom and not console
    loud = tmp_path / "loud.html"  # what a complaint would look like: the page forbids programs
    loud.write_text(several.read_text(encoding="utf-8").replace("</body>", PROBE))
    _, console = browse(loud, tmp_path)
    assert "Content Security Policy" in console[0]


# ---- what the page says of one run ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("severities", "grade", "words"),
    [
        ((), "good", "Nothing found"),
        ((NOTE,), "good", "Nothing found"),
        ((DOUBTFUL,), DOUBTFUL, "with care: 1 doubtful finding"),
        ((SERIOUS,), SERIOUS, "Not to be trusted: 1 serious finding"),
        ((SERIOUS, SERIOUS, DOUBTFUL), SERIOUS, "Not to be trusted: 2 serious findings"),
    ],
)
def test_one_serious_finding_is_enough(severities, grade, words):
    judged = Verdict(tuple(Finding(s, "", "", "", "") for s in severities))
    found, said = _headline(judged)
    assert found == grade and words in said


def many(log_w, x=None):
    """A result of one step with these log-weights (S, N)."""
    S, N = log_w.shape
    log_z = torch.zeros(S, dtype=torch.float64)
    trace = {"ess": torch.ones(S, 2), "resampled": torch.zeros(S, 2, dtype=torch.bool)}
    x = torch.zeros(S, N, 1) if x is None else x
    eves = torch.arange(N).expand(S, N)
    return sg.Posterior(x, log_w.double(), eves, log_z, log_z, trace, torch.tensor([1.0, 0.0]))


def test_of_many_systems_the_worst_are_shown():
    """ESS falls with the index: the first three of 63 systems are the best, and left out."""
    S, N = 63, 30
    log_w = torch.linspace(0, 3, S)[:, None] * torch.linspace(-1, 1, N)
    table = tables.systems(many(log_w))
    assert [row[0] for row in table.rows] == [str(s) for s in range(3, S)]
    assert "The 60 of 63 systems with the smallest ESS" in table.caption


def test_correlations_of_pictures_are_weighted():
    """Without weights the four corners are uncorrelated; with them two of the corners count."""
    x = torch.tensor([[[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]])
    post = many(torch.tensor([[0.9, 0.9, 0.1, 0.1]]).log(), x)
    said = alternatives.of_pairs(post, plots.plot_pairs(post))
    assert "the strongest correlation is 0.8, of x[0] and x[1]" in said


def test_a_place_where_no_page_can_be_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)  # whoever starts to work would miss it
    with pytest.raises(sg.InvalidInput, match=r"cannot write .* there is no folder '.*missing'"):
        run().report(tmp_path / "missing" / "a.html")
    with pytest.raises(sg.InvalidInput, match=r"cannot write .* it is a folder"):
        run().report(tmp_path)
    assert not list(tmp_path.iterdir())
