r"""From a program to a problem: its observations as one terminal cost. Discrete latents j are summed out,

    C(x; theta) = -log sum_j p(j | x, theta) p(y | x, theta, j)

and drawn given the particle once the run is over.
"""

import torch
from torch import Generator, Tensor

from smcguide import weights
from smcguide.bridges.gaussian import as_gaussian
from smcguide.bridges.layout import Layout, log_choices
from smcguide.bridges.program import Program
from smcguide.costs.base import TerminalCost
from smcguide.costs.parametric import ParametricCost
from smcguide.parameters import Parameters


def draw_choices(logits: Tensor, program: Program, generator: Generator) -> Tensor:
    """(M, q) values of the discrete latents of each particle, given its logits (M, J)."""
    u = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    return program.choices[weights.inverse_cdf(logits, u)[:, 0]]


class ProgramParameters(Parameters):
    """The continuous latents of a program besides those with a diffusion prior."""

    num_scale_draws = 200  # some programs draw one after the other

    def __init__(self, program: Program) -> None:
        self.program, self.size = program, program.size

    def draw(self, num: int, generator: Generator) -> Tensor:
        return self.program.draw(num, generator).to(generator.device)

    def log_prob(self, theta: Tensor) -> Tensor:
        M, here = len(theta), self.program.device
        x = {name: a.expand(M, *a.shape) for name, a in self.program.example.items()}
        choice = self.program.choices[:1].expand(M, -1).to(here)
        return self.program.log_probs(x, theta.to(here), choice).parameters.to(theta.device)

    def __repr__(self) -> str:
        return f"ProgramParameters({self.size} numbers)"


class NamedParameters(ProgramParameters):
    """The same, told to users under the program's own names; discrete latents are summed out."""

    def constrain(self, theta: Tensor) -> dict[str, Tensor]:
        first, last = (
            self.program.constrain(theta, self.program.choices[i].expand(len(theta), -1))
            for i in (0, -1)
        )
        return {name: a for name, a in first.items() if torch.equal(a, last[name])}


class ProgramCost(TerminalCost):
    """Minus the log-likelihood of a program without unknown parameters."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self.layout = program, layout

    def __call__(self, x0: Tensor) -> Tensor:
        flat = x0.flatten(0, 1)
        theta = flat.new_zeros(len(flat), 0, dtype=torch.float64)
        return _cost(self, flat, theta).reshape(x0.shape[:2])

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        self.layout.check(event_shape)

    def __repr__(self) -> str:
        return f"observations {list(self.program.observed)}"


class ParametricProgramCost(ParametricCost):
    """Minus the log-likelihood of a program with unknown parameters."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self.layout = program, layout
        self.parameters = ProgramParameters(program)

    def evaluate(self, x0: Tensor, theta: Tensor) -> Tensor:
        return _cost(self, x0, theta)

    def fixed(self, theta: Tensor) -> TerminalCost:
        """The cost under one theta (p,), a Gaussian likelihood where it is one."""
        return as_gaussian(self.program, self.layout, theta) or self.at(theta[None, None])

    check = ProgramCost.check
    __repr__ = ProgramCost.__repr__


def program_cost(program: Program, layout: Layout) -> TerminalCost:
    """The terminal cost of a program; a Gaussian likelihood where it is one."""
    if program.size:
        return ParametricProgramCost(program, layout)
    nothing = torch.zeros(0, dtype=torch.float64)
    return as_gaussian(program, layout, nothing) or ProgramCost(program, layout)


def standalone_cost(program: Program) -> TerminalCost:
    """The terminal cost of a program for use without it; its parameters have the program's names."""
    cost = program_cost(program, Layout(program.priors))
    if isinstance(cost, ParametricProgramCost):
        cost.parameters = NamedParameters(program)
    return cost


def _cost(cost: ProgramCost | ParametricProgramCost, x0: Tensor, theta: Tensor) -> Tensor:
    """(M,) for flat events x0 (M, *E) and theta (M, p)."""
    x = cost.layout.sites_of(x0, cost.program)
    values = log_choices(cost.program, x, theta.to(cost.program.device))
    return -weights.log_sum_exp(values).to(x0.device)
