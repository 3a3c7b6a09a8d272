"""`smcguide report`: result files in, one page out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from smcguide.bridges.places import check_place
from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior
from smcguide.report import write_report


def run_report(files: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page about the runs in `files`, and say where.

    Arguments:
        files: written by `Posterior.save`; runs are named after them.
        out: the page; default the first file's name with the ending .html.

    Returns:
        The path of the page.

    Raises:
        InvalidInput: for files that are missing, damaged or of another kind, and places where the page
            cannot be.
        MissingExtra: without the extras `arviz` and `plots`.
    """
    out = files[0].with_suffix(".html") if out is None else out
    if out.resolve() in {file.resolve() for file in files}:
        raise InvalidInput(f"report: {str(out)!r} is a run; give the page another name.")
    check_place("report", out)
    posteriors = {name: _load(file) for name, file in zip(names(files), files, strict=True)}
    try:
        write_report(posteriors, out)
    except OSError as error:
        raise InvalidInput(f"report: cannot write {str(out)!r}: {error.strerror}.") from error
    what = "1 run" if len(files) == 1 else f"{len(files)} runs, compared"
    print(f"{out}  {what}, {out.stat().st_size / 1e3:,.0f} kB")
    return out


def _load(file: Path) -> Posterior:
    try:
        return Posterior.load(file)
    except FileNotFoundError as error:
        raise InvalidInput(f"report: there is no file {str(file)!r}.") from error


def names(files: Sequence[Path]) -> list[str]:
    """A distinct name for each file: its stem; with its folder where stems are equal; numbered where
    that does not help."""
    stems = Counter(file.stem for file in files)
    names = [
        f"{file.resolve().parent.name}/{file.stem}" if stems[file.stem] > 1 else file.stem
        for file in files
    ]
    count = Counter(names)
    return [f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(names, 1)]
