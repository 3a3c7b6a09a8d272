"""Terminal costs C(x_0)."""

from smcguide.costs.base import FunctionCost, SumCost, TerminalCost, as_cost
from smcguide.costs.gaussian import GaussianLikelihood, LinearGaussian
from smcguide.costs.operators import LinearOperator
from smcguide.costs.parametric import ParametricCost, ParametricFunction

__all__ = [
    "FunctionCost",
    "GaussianLikelihood",
    "LinearGaussian",
    "LinearOperator",
    "ParametricCost",
    "ParametricFunction",
    "SumCost",
    "TerminalCost",
    "as_cost",
]
