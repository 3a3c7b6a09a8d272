"""All benchmarks of speed, one after another, each in a process and a thread of its own.

With --write the tables of each go to its place in docs/benchmarks.md as soon as it has ended, with the
versions and the machine, and its figure to docs/images. Of one that fails nothing is written, and the
exit status says so. Nothing else should run on the machine. Other packages may live in environments of
their own, see `peers.py`.

    python benchmarks/speed.py [--fast] [--only overhead,systems] [--write] [--environments DIR]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page import DOCS, insert, machine, place

HERE = Path(__file__).parent
PARTS = ("overhead", "share", "systems", "memory", "peers", "processes")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def measured(script: Path, options: list[str]) -> str:
    """What a benchmark prints; nothing if it fails."""
    command = [sys.executable, str(script), *options]
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=False
    )
    text = done.stdout.strip() if done.returncode == 0 else ""
    ending = "done" if text else f"FAILED, exit status {done.returncode}"
    say(f"{script.stem}: {ending} after {time.perf_counter() - start:.0f} s")
    return text


def write(name: str, text: str, figure: Path, docs: Path) -> None:
    """The tables, the machine and the figure, if there is one, into the page."""
    parts = [text, f"Measured with {machine()}."]
    if figure.exists():
        image = docs.parent / "images" / figure.name
        image.parent.mkdir(exist_ok=True)
        shutil.copyfile(figure, image)
        parts.append(f"![{name}](images/{image.name})")
    insert(f"speed:{name}", "\n\n".join(parts), docs)


def main(arguments: list[str] | None = None, scripts: Path = HERE) -> int:
    """Measure, and print or write; the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="smoke runs")
    parser.add_argument("--only", default=",".join(PARTS), help="some of them, with commas between")
    parser.add_argument("--write", action="store_true", help="into the page, not to the screen")
    parser.add_argument("--environments", type=Path, help="a folder, for peers")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the page with the markers")
    args = parser.parse_args(arguments)
    names, failed = args.only.split(","), []
    for name in names:
        if name not in PARTS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(PARTS)}")
        if args.write:
            place(f"speed:{name}", args.docs)  # fail early
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            say(f"{name}: begins")
            figure = Path(folder) / f"speed_{name}.png"
            options = [*["--fast"] * args.fast, "--figure", str(figure)]
            if name == "peers" and args.environments:
                options += ["--environments", str(args.environments)]
            text = measured(scripts / f"{name}.py", options)
            if not text:
                failed.append(name)
            elif args.write:
                write(name, text, figure, args.docs)
            else:
                print(f"## {name}\n\n{text}\n", flush=True)
    if failed:
        say(f"failed, and not written: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
