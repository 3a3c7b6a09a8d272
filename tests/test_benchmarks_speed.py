"""The benchmarks of speed: the floor and the rows they compare, their tables and place on the page; and
that of invented samples. Nothing here is timed."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import smcguide as sg

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import growth
import hallucination
import overhead
import page
import processes
import speed
import step
import systems
import turns

F64 = torch.float64
PAGE = "# Page\n\nbefore\n\n{}\n\nafter\n".format(
    "\n\nbetween\n\n".join(
        f"{begin}\nold {name}\n{end}"
        for name in speed.PARTS
        for begin, end in [page.markers(f"speed:{name}")]
    )
)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table in Markdown, without the line under the header."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
            assert set(cells[1]) == {"---"} and len({len(row) for row in cells}) == 1
            found.append([cells[0], *cells[2:]])
    return found


def is_spread(cell: str) -> bool:
    """Median (quartile to quartile), in order."""
    middle, low, to, high = cell.replace("**", "").split()
    return to == "to" and float(low[1:]) <= float(middle) <= float(high[:-1])


# ---- overhead ------------------------------------------------------------------------------------


def test_the_floor_resamples_each_system_and_adds_noise() -> None:
    floor = step.Floor(3, 20_000, 2)
    floor.x += 10.0 * torch.arange(3, dtype=F64)[:, None, None]  # systems far apart
    floor.log_w = floor.x[..., 0].clone()  # moves the mean by 1
    before, w = floor.x, torch.softmax(floor.log_w, -1)[..., None]
    floor()
    mean = (w * before).sum(1)
    variance = (w * (before - mean[:, None]).square()).sum(1) + 0.1**2
    torch.testing.assert_close(floor.x.mean(1), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(floor.x.var(1), variance, atol=0.03, rtol=0)
    assert (mean - before.mean(1))[:, 0].min() > 0.9
    families = [(x.round(decimals=9).unique(dim=0)).shape[0] for x in (before[0], floor.x[0])]
    assert families[1] == 20_000  # noise for each, not for each family


def test_the_libraries_step_resamples_at_every_step_in_the_dtype_asked_for() -> None:
    seen = []

    class Watched(sg.resamplers.Systematic):
        def __call__(self, log_w, generator, num=None):
            seen.append(tuple(log_w.shape))
            return super().__call__(log_w, generator, num)

    advance = step.library(2, 30, 3, "Bootstrap", Watched(), torch.float32)
    for _ in range(4):
        advance()
    assert seen == [(2, 30)] * 4


def test_a_case_is_measured_without_the_time_of_its_network() -> None:
    case = overhead.Case(1, 50, 4, "DTM", overhead.RESAMPLERS[0], torch.float32)
    floors, ratios = overhead.measure(case, 0.0)
    assert len(floors) == len(ratios) == 5
    assert all(math.isfinite(v) for v in floors + ratios)


def test_passes_of_a_network_are_counted_and_taken_off() -> None:
    found = {name: step.passes(name) for name in step.PROPOSALS | step.OTHERS}
    assert [found[name] for name in step.PROPOSALS] == [(1, 0), (1, 1), (2, 1)]
    assert found["DTM, 3 iterations"] == (4, 3) and found["CleanGradient"] == (1, 0)
    calls = 0

    class Counting(step.Multiple):
        def denoise(self, x: torch.Tensor, t: float) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().denoise(x, t)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "Multiple", Counting)
        for name, (forward, _) in found.items():
            bare = step.network(1, 10, 2, name, F64, "cpu")
            calls = 0
            bare()
            assert calls == forward, name


def test_turns_are_taken_in_order_by_all() -> None:
    said: list[str] = []
    times = turns.interleaved([lambda: said.append("a"), lambda: said.append("b")], 0.0, 3)
    assert said == ["a", "b"] * 4  # once to warm up
    assert [len(t) for t in times] == [3, 3]


def test_the_goal_is_missed_in_bold() -> None:
    case = overhead.Case(1, 10**4, 8, "Bootstrap", overhead.RESAMPLERS[0], torch.float32)
    cells = {r: overhead.cell({case: ([1.0], [r] * 3)}, case) for r in (0.59, 0.61)}
    assert cells == {0.59: "0.59 (0.59 to 0.59)", 0.61: "**0.61** (0.61 to 0.61)"}
    small, double = case._replace(N=10**3), case._replace(dtype=F64)
    assert "**" not in overhead.cell({small: ([1.0], [3.0] * 3)}, small)
    assert "**" not in overhead.cell({double: ([1.0], [0.9] * 3)}, double)
    assert overhead.cell({}, case) == ""


def test_the_full_run_has_the_sizes_and_parts_that_were_asked_for() -> None:
    there = list(overhead.cases(False, "cpu"))
    for N in (10**3, 10**4, 10**5, 10**6):
        for dtype in (torch.float32, F64):
            for proposal in step.PROPOSALS:
                assert [(c.S, c.N, c.d, c.proposal, c.dtype) for c in there].count(
                    (1, N, 8, proposal, dtype)
                ) >= 1
    assert {(c.S, c.d) for c in there} == {(S, d) for S in (1, 64) for d in (8, 800)}
    of_each = {type(p).__name__ for p in (step.PROPOSALS | step.OTHERS).values()}
    parts = ("Proposal", "Published", "Scale", "Step", "Constant", "LineSearch", "Normalised",
             "PerResidual", "Powers")  # fmt: skip
    assert of_each == set(sg.proposals.__all__).difference(parts)
    assert {c.proposal for c in there} == {*step.PROPOSALS, *step.OTHERS}
    resamplers = {type(c.resampler).__name__ for c in there}
    assert resamplers == {n for n in sg.resamplers.__all__ if n != "Resampler"}


# ---- systems and growth --------------------------------------------------------------------------


def test_slopes_are_those_of_powers() -> None:
    sizes = [1, 10, 100]
    grown = growth.Growth("a", "b", "N", sizes, [[n**p for n in sizes] for p in (1.0, 2.0, 0.5)])
    assert grown.slopes == pytest.approx([1.0, 2.0, 0.5])
    assert grown.medians == [1.0, 10.0, 100.0]
    assert grown.row() == ["a, b", "N", "1.00 (0.50 to 2.00)", "1: 1, 10: 10, 100: 100"]


def test_errors_of_many_estimates() -> None:
    error = torch.log(torch.tensor([1.0, 3.0, 2.0, 2.0], dtype=F64))
    torch.testing.assert_close(
        systems.pooled(error, 2), torch.log(torch.tensor([2.0, 2.0], dtype=F64))
    )
    assert systems.rms(torch.arange(16.0))[0] == pytest.approx(0.5**0.5)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A short run of systems.py: what it returned, what it drew."""
    figure = tmp_path_factory.mktemp("systems") / "s.png"
    return systems.main(["--fast", "--figure", str(figure)]), figure


def test_time_and_error_are_fitted_against_every_size(grown) -> None:
    found, figure = grown
    assert figure.stat().st_size > 10_000
    kinds = {(g.unit, g.axis) for g in found}
    assert kinds == {
        (u, a) for u in ("seconds", "error of log Z") for a in ("N", "d", "S", "steps")
    }
    assert all(math.isfinite(s) for g in found for s in g.slopes)


def test_the_error_falls_as_it_should(grown) -> None:
    slopes = {g.axis: statistics.median(g.slopes) for g in grown[0] if g.unit == "error of log Z"}
    assert slopes["N"] == pytest.approx(-0.5, abs=0.15)
    assert slopes["S"] == pytest.approx(-0.5, abs=0.25)
    assert slopes["steps"] == pytest.approx(-1.0, abs=0.25)
    assert slopes["d"] > 0.3


# ---- processes -----------------------------------------------------------------------------------


def test_one_process_measures_runs_and_selection(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    processes.main(["--fast", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum("one population" in name for name in found) == 2
    assert sum("moves" in name for name in found) == 2
    assert not any("islands" in name for name in found)
    assert 0 < processes.selection(1000) < 1000


def test_two_processes_are_started_and_compared() -> None:
    two = processes.started(2, fast=True)
    one = {f"{k} components, one population": 3.0 for k in (5, 25)} | {"selection": 0.5}
    runs, others = processes.together([[one, two]] * 3)
    assert set(runs) == {f"{k} components, {kind}" for k in (5, 25) for kind in processes.KINDS}
    for name, (alone, both, efficiency) in runs.items():
        assert both == (two[name],) * 3 and alone == (3.0,) * 3
        assert efficiency[0] == pytest.approx(3.0 / 2 / two[name])
    assert others["selection"] == [0.5] * 3 and len(others) == 3


# ---- invented samples ----------------------------------------------------------------------------


def test_inventions_are_the_draws_far_from_every_mode() -> None:
    modes = torch.tensor([[-1.0], [0.0], [1.0]])
    prior = sg.priors.GaussianMixture(torch.ones(3), modes, scale=hallucination.STD)
    rate, found = hallucination.areas(prior, modes[:2], sg.kernels.DDIM(1.0), 400, 0)
    assert rate == pytest.approx(1 / 3, abs=0.12)
    assert len(found) == len(hallucination.SHARES) and all(0 <= a <= 1 for a in found)


def test_the_short_run_trains_and_prints_a_table(capsys) -> None:
    hallucination.main(["--fast", "--draws", "200"])
    [[header, row]] = tables(capsys.readouterr().out)
    assert header[:2] == ["modes", "invented"] and row[0] == "line"
    assert all(0 <= float(v) <= 1 for cell in row[2:] for v in cell.split(" to "))


# ---- the page ------------------------------------------------------------------------------------


def between(text: str, name: str) -> str:
    begin, end = page.markers(f"speed:{name}")
    return text[text.index(begin) + len(begin) : text.index(end)].strip()


def test_one_command_writes_tables_machine_and_figure(tmp_path: Path, capsys) -> None:
    docs = tmp_path / "benchmarks.md"
    docs.write_text(PAGE)
    assert speed.main(["--fast", "--write", "--only", "overhead", "--docs", str(docs)]) == 0
    said = capsys.readouterr()
    assert "overhead: done" in said.err and said.out == ""
    text = docs.read_text()
    written = between(text, "overhead")
    single, double, resamplers = tables(written)
    for t in (single, double):
        assert t[0] == ["S", "N", "d", "floor, ms", "Bootstrap", "Gradient", "DTM"]
        assert all(is_spread(cell) for row in t[1:] for cell in row[4:])
    assert len(resamplers) - 1 == len(overhead.RESAMPLERS)
    assert all(is_spread(cell) for row in resamplers[1:] for cell in row[1:])
    assert f"torch {torch.__version__}" in written and "Python 3" in written
    assert written.endswith("![overhead](images/speed_overhead.png)")
    assert (tmp_path / "images/speed_overhead.png").stat().st_size > 10_000
    begin, end = page.markers("speed:overhead")
    whole = text.replace(f"{begin}\n\n{written}\n\n{end}", f"{begin}\nold overhead\n{end}")
    assert whole == PAGE  # nothing else was touched


def test_a_part_that_fails_leaves_its_place_as_it_was(tmp_path: Path, capsys) -> None:
    scripts = {
        "overhead": "import sys; open(sys.argv[-1], 'w').write('new'); print('| half'); sys.exit(3)",
        "share": "import sys; assert '--fast' in sys.argv; print('| whole |')",
        "systems": "pass",
    }
    for name, program in scripts.items():
        (tmp_path / f"{name}.py").write_text(program)
    docs, image = tmp_path / "page.md", tmp_path / "images/speed_overhead.png"
    image.parent.mkdir()
    image.write_text("old")
    docs.write_text(PAGE)
    only = ["--only", "overhead,share,systems,memory"]
    failed = speed.main(["--fast", "--write", "--docs", str(docs), *only], scripts=tmp_path)
    assert failed == 3
    assert "not written: overhead, systems, memory" in capsys.readouterr().err
    text = docs.read_text()
    for name in ("overhead", "systems", "memory", "peers"):
        assert between(text, name) == f"old {name}"
    assert between(text, "share").startswith("| whole |\n\nMeasured with smcguide")
    assert "![" not in text and image.read_text() == "old"


def test_without_a_place_nothing_is_measured(tmp_path: Path) -> None:
    docs = tmp_path / "page.md"
    docs.write_text(PAGE.replace("<!-- speed:peers:end -->", ""))
    (tmp_path / "overhead.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w'); print('x')")
    arguments = ["--write", "--docs", str(docs), "--only", "overhead,peers"]
    with pytest.raises(ValueError, match="once each"):
        speed.main(arguments, scripts=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unknown_benchmarks_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--only", "overhead,speeed"])
    assert "'speeed'; choose from overhead, share" in capsys.readouterr().err


def test_without_write_the_tables_are_printed(tmp_path: Path, capsys) -> None:
    for name in ("share", "peers"):
        program = "import sys; print('|', *[a for a in sys.argv[1:] if 'png' not in a], '|')"
        (tmp_path / f"{name}.py").write_text(program)
    assert speed.main(["--only", "share,peers", "--environments", "there"], scripts=tmp_path) == 0
    printed = "## share\n\n| --figure |\n\n## peers\n\n| --figure --environments there |\n\n"
    assert capsys.readouterr().out == printed


def test_the_documentation_has_a_place_for_every_part() -> None:
    for name in speed.PARTS:
        page.place(f"speed:{name}", page.DOCS)


@pytest.mark.slow
def test_a_compiled_step_computes_what_the_step_does() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "compiled_step.py"
    command = [sys.executable, str(script), "--sizes", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ((names, cells),) = tables(done.stdout)
    row = dict(zip(names, map(float, cells), strict=True))
    assert row["N"] == 64 and row["difference"] < 1e-12
    assert min(row["as it is, ms"], row["compiled, ms"], row["library, ms"]) > 0
