"""Conformance suites for extensions, shipped so that their authors inherit them.

The complete test of a new resampler:

    >>> from smcguide.resamplers import Systematic
    >>> from smcguide.testing import ResamplerSuite
    >>> class TestSystematic(ResamplerSuite):
    ...     def instances(self):
    ...         return [Systematic()]
"""

from smcguide.testing.conformance.base import Suite
from smcguide.testing.conformance.cost import CostSuite
from smcguide.testing.conformance.move import MoveSuite
from smcguide.testing.conformance.parameter_move import ParameterMoveSuite
from smcguide.testing.conformance.potential import PotentialSuite
from smcguide.testing.conformance.prior import PriorSuite
from smcguide.testing.conformance.proposal import ProposalSuite
from smcguide.testing.conformance.resampler import ResamplerSuite

__all__ = [
    "CostSuite",
    "MoveSuite",
    "ParameterMoveSuite",
    "PotentialSuite",
    "PriorSuite",
    "ProposalSuite",
    "ResamplerSuite",
    "Suite",
]
