"""What the conformance suites share: one method to write, two command-line options to obey.

A suite is a class of tests about everything that is promised of one kind of extension. Inherit
from it under a name that begins with Test, write `instances`, and pytest collects the rest. Its
attributes are tolerances, which an author may widen for a stated reason.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor


class Suite:
    """Base class of suites."""

    def instances(self) -> Sequence[Any]:
        """One or two new objects to test, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must say how to build `instances`.")

    @pytest.fixture
    def device(self, request: pytest.FixtureRequest) -> torch.device:
        """The device of --device, where that option exists, else the CPU."""
        return torch.device(request.config.getoption("device", default="cpu"))

    @pytest.fixture
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        """The dtype of --dtype, where that option exists, else float64."""
        name = request.config.getoption("dtype", default="float64")
        return {"float32": torch.float32, "float64": torch.float64}[name]


def normal(
    shape: Sequence[int],
    source: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Standard normal numbers on the generator's device."""
    return torch.randn(tuple(shape), generator=source, dtype=dtype, device=source.device)


def rounding(dtype: torch.dtype) -> float:
    """Relative size of differences that are rounding only."""
    return 1e-9 if dtype == torch.float64 else 2e-4


def assert_same(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Assert equality up to `tolerance` times the largest number."""
    scale = 1 + float(expected.abs().max())
    gap = float((got - expected).abs().max())
    assert gap <= tolerance * scale, f"{what}: differ by {gap:.3g} on a scale of {scale:.3g}."
