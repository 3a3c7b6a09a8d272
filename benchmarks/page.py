"""What benchmarks put into the documentation: Markdown between markers, numbers with their spread, and
the name of the machine."""

import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import smcguide as sg

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median and, where there are several values, the quartiles."""
    if len(values) == 1:
        return format(values[0], form)
    low, middle, high = (format(v, form) for v in statistics.quantiles(values, n=4))
    return f"{middle} ({low} to {high})"


def markers(name: str) -> tuple[str, str]:
    """Between them lies what the benchmark of that name writes."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def place(name: str, docs: Path) -> str:
    """The markers of that name in a file, and all between them.

    Raises:
        ValueError: if the file does not hold each marker exactly once, in order.
    """
    page, (begin, end) = docs.read_text(), markers(name)
    found = re.findall(f"{begin}.*?{end}", page, re.S)
    if len(found) != 1 or page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"{docs} must hold {begin} and, after it, {end}, once each.")
    return found[0]


def insert(name: str, text: str, docs: Path) -> None:
    """Put text between the markers of a file.

    Raises:
        ValueError: if the file does not hold each marker exactly once, in order.
    """
    begin, end = markers(name)
    old = place(name, docs)
    docs.write_text(docs.read_text().replace(old, f"{begin}\n\n{text.strip()}\n\n{end}"))


def machine() -> str:
    """Versions and devices."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    name = (names or [platform.processor() or platform.machine()])[0]
    known = [
        f"smcguide {sg.__version__}", f"torch {torch.__version__}", f"Python {platform.python_version()}",
        f"{name}, {os.cpu_count()} processors",
    ]  # fmt: skip
    if torch.cuda.is_available():
        known.append(torch.cuda.get_device_name())
    return ", ".join(known)
