"""How a peer in its own process takes turns with us: a line of JSON in, a line of JSON out.

The peer first says its versions and its resampling schemes. Then it answers requests

    {"task": "smc", "problem": FILE.npz, "gradient": bool, "num": N, "seed": i}
    {"task": "resampling", "scheme": name, "weights": FILE.npy, "calls": n}

with the seconds of its processor for the work alone and the results. The first request of a kind is a
warm-up that the driver forgets: imports and compilation are never timed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

Task = Callable[..., dict[str, Any]]


def timed(f: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the process, and the result."""
    start = time.process_time()
    result = f()
    return time.process_time() - start, result


def repeated(f: Callable[[], Any], calls: int) -> dict[str, float]:
    """Seconds of so many calls."""
    return {"seconds": timed(lambda: [f() for _ in range(calls)])[0]}


def serve(packages: Sequence[str], tasks: Mapping[str, Task], schemes: Sequence[str] = ()) -> None:
    """Answer requests until standard input ends; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    say({"versions": {p: version(p) for p in packages}, "schemes": list(schemes)})
    for line in sys.stdin:
        request = json.loads(line)
        say(tasks[request.pop("task")](**request))
