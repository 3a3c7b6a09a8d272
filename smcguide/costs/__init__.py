"""Terminal costs C(x_0)."""

from smcguide.costs.base import FunctionCost, SumCost, TerminalCost, as_cost
from smcguide.costs.gaussian import GaussianLikelihood, LinearGaussian
from smcguide.costs.operators import LinearOperator

__all__ = [
    "FunctionCost",
    "GaussianLikelihood",
    "LinearGaussian",
    "LinearOperator",
    "SumCost",
    "TerminalCost",
    "as_cost",
]
