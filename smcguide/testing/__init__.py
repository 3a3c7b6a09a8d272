"""Tests for the authors of extensions: conformance suites, oracles, statistical assertions.

Needs pytest. Nothing else in the package imports this room.
"""

import pytest

pytest.register_assert_rewrite("smcguide.testing.conformance")

from smcguide.testing.conformance import (  # noqa: E402 - after the assertions are readable
    CostSuite,
    MoveSuite,
    ParameterMoveSuite,
    PotentialSuite,
    PriorSuite,
    ProposalSuite,
    ResamplerSuite,
)
from smcguide.testing.oracles import (  # noqa: E402
    Evidence,
    GaussianLaw,
    brute_force,
    gaussian_chain,
)
from smcguide.testing.statistics import (  # noqa: E402
    FALSE_ALARM_RATE,
    generator,
    mean_counts_test,
    seed,
    z_test,
)

__all__ = [
    "FALSE_ALARM_RATE",
    "CostSuite",
    "Evidence",
    "GaussianLaw",
    "MoveSuite",
    "ParameterMoveSuite",
    "PotentialSuite",
    "PriorSuite",
    "ProposalSuite",
    "ResamplerSuite",
    "brute_force",
    "gaussian_chain",
    "generator",
    "mean_counts_test",
    "seed",
    "z_test",
]
