"""Three inverse problems on held-out handwritten digits, solved with the library's defaults."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import smcguide as sg
from smcguide.bridges.netcdf import ENGINE, require
from smcguide.costs import GaussianLikelihood, LinearGaussian, TerminalCost
from smcguide.errors import MissingExtra
from smcguide.plots import plot_inverse_problem
from smcguide.plots.panels import new_figure

# A 0, a 3, a 4 and a 6 of scikit-learn's digits, among the last 297, which no prior was trained on.
HELD_OUT = (1541, 1504, 1512, 1503)


@dataclass(frozen=True)
class Task:
    """One measurement of each digit.

    Attributes:
        name: for file names.
        title: for people.
        cost: the likelihood of the four measurements.
        shown: the measurements as (4, H, W) images or (4, m) numbers.
    """

    name: str
    title: str
    cost: TerminalCost
    shown: Tensor


def digits() -> tuple[Tensor, list[str]]:
    """Four held-out images (4, 1, 8, 8) with pixels in [-1, 1], and their labels.

    Raises:
        MissingExtra: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "cli", "The demo's held-out digits") from error
    data = load_digits()
    chosen = list(HELD_OUT)
    images = torch.as_tensor(data.images[chosen] / 8 - 1, dtype=torch.float32)
    return images[:, None], [f"digit {data.target[i]}" for i in chosen]


def tasks(truth: Tensor, seed: int = 0) -> list[Task]:
    """The three problems, with measurements of `truth` (4, 1, 8, 8) drawn with `seed`."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(clean: Tensor, std: float) -> Tensor:
        return clean + std * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)

    upper = torch.arange(8)[:, None].expand(truth.shape[1:]) < 4
    y = noisy(truth, 0.2)
    missing = Task(
        "missing",
        "Lower half missing, noise 0.2",
        LinearGaussian(upper, y, 0.2, batched=True),
        torch.where(upper, y, torch.nan)[:, 0],
    )

    pairs = torch.block_diag(*[torch.full((1, 2), 0.5)] * 4)
    mean = torch.kron(pairs, pairs)
    y = noisy(truth.flatten(1) @ mean.T, 0.1)
    coarse = Task(
        "coarse",
        "2 x 2 means, noise 0.1",
        LinearGaussian(mean, y, 0.1, batched=True),
        y.reshape(-1, 4, 4),
    )

    A = torch.randn(32, 64, generator=generator, dtype=torch.float64) / 8
    magnitude = _magnitude(A)
    y = noisy(magnitude(truth), 0.1)
    phaseless = Task(
        "phaseless",
        "32 magnitudes |A x| of a random A, noise 0.1",
        GaussianLikelihood(magnitude, y, 0.1, batched=True),
        y,
    )
    return [missing, coarse, phaseless]


def _magnitude(A: Tensor) -> Callable[[Tensor], Tensor]:
    def magnitude(x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ A.to(x.device).T).abs()

    return magnitude


def run_demo(
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    num_particles: int = 256,
    num_steps: int = 80,
) -> list[Path]:
    """Solve the three tasks, print a table of each, and save posteriors and a picture.

    Arguments:
        out: folder for the files, made if needed.
        device: where to run.
        seed: of measurements and particles.
        num_particles, num_steps: as in `smcguide.sample`.

    Returns:
        The files written: a posterior per task, the first being posterior.nc, and posterior.png.

    Raises:
        MissingExtra: without one of the extras `arviz`, `cli`, `diffusers` and `plots`.
    """
    console = _console()
    for package in ("xarray", *ENGINE):  # now, rather than when the first posterior is saved
        require(package)
    truth, labels = digits()
    prior = sg.priors.load("digits").to(device)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    problems = tasks(truth, seed)
    figure = new_figure(8.6, 4.2 * len(problems))
    parts: Any = figure.subfigures(len(problems), 1)
    for task, part in zip(problems, parts, strict=True):
        start = time.perf_counter()
        posterior = sg.sample(
            prior, task.cost, num_particles=num_particles, num_steps=num_steps, seed=seed
        )  # fmt: skip
        console.print(_table(task, posterior, truth, labels, time.perf_counter() - start))
        path = out / f"posterior{f'-{task.name}' if written else ''}.nc"
        posterior.save(path)
        written.append(path)
        plot_inverse_problem(posterior, truth, task.shown, row_labels=labels, figure=part)
        part.suptitle(task.title, fontsize=10, weight="bold")
    written.append(out / "posterior.png")
    figure.savefig(written[-1])
    _name_files(written, problems)
    return written


def scores(posterior: sg.Posterior, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Per system, the RMSE of the posterior mean and the part of pixels in their 90 % intervals."""
    truth = truth.double()
    low, high = (q.cpu().double() for q in posterior.quantile([0.05, 0.95]))
    error = (posterior.mean().cpu() - truth).flatten(1).square().mean(1).sqrt()
    inside = ((low <= truth) & (truth <= high)).flatten(1).double().mean(1)
    return error, inside


def _console() -> Any:
    try:
        from rich.console import Console
    except ImportError as error:
        raise MissingExtra("rich", "cli", "The demo's tables") from error
    return Console()


def _table(
    task: Task, posterior: sg.Posterior, truth: Tensor, labels: list[str], seconds: float
) -> Any:
    """One row per digit."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    forward, backward = (posterior.evaluations[f"network_{way}"] for way in ("forward", "backward"))
    caption = f"{forward:,} forward and {backward:,} backward network evaluations, {seconds:.1f} s"
    table = Table(title=task.title, caption=caption, box=SIMPLE_HEAD)
    for name in ("", "log evidence", "ESS", "unique ancestors", "RMSE", "90 % coverage"):
        table.add_column(name, justify="right")
    error, inside = scores(posterior, truth)
    survivors = posterior.trace["unique_eves"][:, -1]
    log_z, se, ess = posterior.log_evidence, posterior.log_evidence_se, posterior.ess
    for s, label in enumerate(labels):
        uncertainty = "unknown" if se[s].isnan() else f"{se[s]:.2f}"
        table.add_row(
            label,
            f"{log_z[s]:.2f} ± {uncertainty}",
            f"{ess[s]:.0f}",
            f"{survivors[s]}",
            f"{error[s]:.3f}",
            f"{inside[s]:.0%}",
        )
    return table


def _name_files(written: list[Path], problems: list[Task]) -> None:
    width = max(len(str(path)) for path in written)
    contents = [*[task.title for task in problems], "All three in one picture"]
    for path, what in zip(written, contents, strict=True):
        print(f"{path!s:{width}}  {what}")
    print(f"Can they be trusted? smcguide report {written[0]}")
