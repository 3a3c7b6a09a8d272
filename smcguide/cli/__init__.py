"""The command line: `smcguide demo`, `smcguide report`, `smcguide --version`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from smcguide.errors import MissingExtra, SmcguideError

if TYPE_CHECKING:
    from typer import Typer


def main() -> None:
    """Entry point of the command `smcguide`; an expected error is one line, not a traceback."""
    try:
        _app()()
    except SmcguideError as error:
        sys.exit(f"smcguide: {error}")


def _app() -> Any:
    """The typer application.

    Raises:
        MissingExtra: without typer.
    """
    try:
        import typer
    except ImportError as error:
        raise MissingExtra("typer", "cli", "The command line") from error

    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    def show_version(wanted: bool) -> None:
        if wanted:
            from smcguide import __version__

            print(f"smcguide {__version__}")
            raise typer.Exit

    version = typer.Option("--version", callback=show_version, is_eager=True, help="Show it, exit.")

    @app.callback()
    def about(show: Annotated[bool, version] = False) -> None:
        """Sequential Monte Carlo with pretrained diffusion priors."""

    _add_commands(app)
    return app


def _add_commands(app: "Typer") -> None:
    import typer

    @app.command()
    def demo(
        fast: Annotated[bool, typer.Option("--fast", help="Fewer particles and steps.")] = False,
        device: Annotated[str, typer.Option(help="Where to run, e.g. cpu or cuda.")] = "cpu",
        out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("smcguide-demo"),
        seed: Annotated[int, typer.Option(help="Of measurements and particles.")] = 0,
    ) -> None:
        """Three inverse problems on four real handwritten digits, with tables and a picture."""
        import torch

        from smcguide.cli.demo import run_demo

        if "OMP_NUM_THREADS" not in os.environ:
            # So small a network gains little from a second thread, and waits for it on a busy core.
            torch.set_num_threads(1)
        sizes = {"num_particles": 64, "num_steps": 30} if fast else {}
        run_demo(out, device=device, seed=seed, **sizes)

    @app.command()
    def report(
        files: Annotated[list[Path], typer.Argument(help="Runs, written by Posterior.save.")],
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="The page; default: next to the first run."),
        ] = None,
    ) -> None:
        """One self-contained page about a run, or about several: is it to be trusted, and why."""
        from smcguide.cli.report import run_report

        run_report(files, out)
