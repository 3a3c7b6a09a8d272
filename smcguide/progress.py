"""The progress bar of a run: steps, ESS and log-evidence, live on a terminal."""

import sys
from collections.abc import Callable
from typing import Any, Self

from smcguide.records import StepInfo

_SECONDS = 0.3  # reading the numbers waits for the device, so do it rarely


class Progress:
    """Context manager around a run.

    Arguments:
        mode: True, False, "auto" (only when standard error is a terminal), or a callback.
        total: number of steps.
    """

    def __init__(self, mode: bool | str | Callable[[StepInfo], None], total: int) -> None:
        self.callback = mode if callable(mode) else None
        self.shown = sys.stderr.isatty() if mode == "auto" else mode is True
        self.total, self.last = total, 0.0
        self.bar: Any = None

    def __enter__(self) -> Self:
        if self.shown:
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit="step", mininterval=_SECONDS)
        return self

    def update(self, info: StepInfo) -> None:
        """Show (or hand over) the numbers of one step."""
        if self.callback is not None:
            self.callback(info)
        if self.bar is None or info.step == 0:
            return
        now = self.bar._time()
        if now - self.last > _SECONDS or info.step == self.total:
            self.last = now
            self.bar.set_postfix_str(
                f"ESS {float(info.ess.mean()):.0f}, log Z {float(info.log_evidence.mean()):.3f}",
                refresh=False,
            )
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
