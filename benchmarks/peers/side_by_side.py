"""Turns of ours and of theirs: resampling alone, and the whole of SMC."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from companions import Process
from problem_tables import Task
from turns import seconds

import smcguide as sg

R = sg.resamplers
SCHEMES: dict[str, Any] = {
    "systematic": R.Systematic(), "stratified": R.Stratified(), "multinomial": R.Multinomial(),
    "residual": R.Residual(), "ssp": R.SSP(), "killing": R.Killing(),
}  # fmt: skip
LARGEST_SCORE = 4.0  # of a z-test of the evidence
CALLS = 10**5  # particles of one turn


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Quartiles of ours over theirs, neighbours in time."""
    return statistics.quantiles([a / b for a, b in zip(mine, theirs, strict=True)], n=4)


def resampling(
    peers: Sequence[Process], scheme: str, num: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """Microseconds from log-weights to ancestors, ours and of each peer that has the scheme."""
    able = [p for p in peers if scheme in p.schemes]
    log_w, calls = np.random.default_rng(0).standard_normal(num), max(1, CALLS // num)
    np.save(folder / "weights.npy", log_w)
    mine, g = torch.from_numpy(log_w)[None], torch.Generator().manual_seed(0)

    def own() -> float:
        return seconds(lambda: [SCHEMES[scheme](mine, g) for _ in range(calls)])

    def other(p: Process) -> float:
        request = {"scheme": scheme, "weights": str(folder / "weights.npy"), "calls": calls}
        return p.ask(task="resampling", **request)["seconds"]

    turns = [[own(), *map(other, able)] for _ in range(rounds + 1)][1:]  # the first is a warm-up
    ours, *theirs = ([1e6 * t / calls for t in column] for column in zip(*turns, strict=True))
    row: dict[str, Any] = {
        "scheme": scheme,
        "N": num,
        "smcguide": statistics.median(ours),
        "peers": {},
    }
    for p, column in zip(able, theirs, strict=True):
        row["peers"][str(p.peer)] = {"us": statistics.median(column), "ratio": ratio(ours, column)}
    return row


def smc(
    p: Process, task: Task, file: Path, gradient: bool, num: int, rounds: int
) -> dict[str, Any]:
    """Milliseconds a step of the same model, and whether both have one law of the evidence."""
    model = task.model(gradient, getattr(torch, p.peer.dtype))
    turns = []
    for seed in range(rounds + 1):
        spent, log_z = timed(
            lambda seed=seed: sg.run(model, num_particles=num, seed=seed, progress=False)
        )
        answer = p.ask(task="smc", problem=str(file), gradient=gradient, num=num, seed=seed)
        turns.append((spent, answer["seconds"], log_z, answer["log_z"]))
    mine, theirs, *log_z = zip(*turns[1:], strict=True)  # the first is a warm-up
    Z = np.exp(np.array(log_z) - task.log_z)
    error = Z.std(1, ddof=1) / math.sqrt(rounds)
    score = float((Z[0].mean() - Z[1].mean()) / math.hypot(*error))
    return {
        "proposal": "Gradient" if gradient else "Bootstrap", "N": num, "peer": str(p.peer),
        "smcguide": 1e3 * statistics.median(mine) / model.num_steps,
        "theirs": 1e3 * statistics.median(theirs) / model.num_steps, "ratio": ratio(mine, theirs),
        "Z": Z.mean(1).tolist(), "Z error": error.tolist(), "agrees": abs(score) < LARGEST_SCORE,
    }  # fmt: skip


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a run, and its log Z."""
    kept: list[Any] = []
    spent = seconds(lambda: kept.append(run()))
    return spent, float(kept[0].log_evidence)
