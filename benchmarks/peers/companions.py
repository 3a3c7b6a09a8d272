"""Environments of the peers, and a peer as a process that answers one request at a time."""

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ONE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    ),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000"}


def make_environments(folder: Path) -> None:
    """`particles` (numpy < 2) and the JAX libraries each in a virtual environment; azula and what it
    needs in a folder beside our torch, without torchvision, which its samplers do not use."""
    for name in ("particles", "jax"):
        venv.create(folder / name, with_pip=True)
        python = folder / name / "bin" / "python"
        _pip(python, name, [])
        subprocess.run([python, "-m", "pip", "check"], check=True)
    _pip(Path(sys.executable), "azula", ["--target", str(folder / "azula")])


def _pip(python: Path, name: str, options: list[str]) -> None:
    wanted = ["-r", str(HERE / f"requirements-{name}.txt")]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", *options, *wanted], check=True
    )


@dataclass(frozen=True)
class Peer:
    """A library with the precision of its states.

    Attributes:
        name: also of its file.
        environment: folder below that of the environments; None for our own.
        dtype: float32 or float64.
    """

    name: str
    environment: str | None
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"

    def missing(self, environments: Path | None) -> str | None:
        """Why it cannot take part, if it cannot."""
        if self.environment is None:
            return None if find_spec(self.name) else f"{self.name} is not installed"
        if environments is None:
            return f"{self.name} needs --environments"
        found = (environments / self.environment).exists()
        return None if found else f"{self.name} is not in {environments}: --make-environments"


PEERS = [
    Peer("particles", "particles", "float64"),
    *(Peer(name, "jax", dtype) for name in ("cuthbert", "blackjax") for dtype in ("float64", "float32")),
    *(Peer("pyro", None, dtype) for dtype in ("float64", "float32")),
]  # fmt: skip
AZULA = Peer("azula", "azula", "float32")


class Process:
    """A peer at work; a context manager."""

    def __init__(self, peer: Peer, environments: Path | None) -> None:
        python, path = Path(sys.executable), ""
        if peer.environment == "azula":
            path = str(environments / "azula")
        elif peer.environment is not None:
            python = environments / peer.environment / "bin" / "python"
        self.peer = peer
        self.process = subprocess.Popen(
            [python, HERE / f"{peer.name}_side.py", peer.dtype],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | ONE_THREAD | KEEP_MEMORY | {"PYTHONPATH": path},
        )  # fmt: skip
        about = self._answer()
        self.versions: dict[str, str] = about["versions"]
        self.schemes: list[str] = about["schemes"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request of `protocol`.

        Raises:
            RuntimeError: if the process has ended.
        """
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self.peer} ended with exit status {self.process.returncode}.")
        return json.loads(line)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it: a process without requests has nothing to do."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
