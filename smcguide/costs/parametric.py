r"""Costs with unknown parameters, C(x_0; theta).

Particles then carry a theta each, drawn from its prior and moved as the run goes on:

    >>> import torch, smcguide as sg
    >>> from torch.distributions import LogNormal, Normal
    >>> y = torch.tensor([0.3, -1.2])
    >>> def misfit(x0, sigma):                      # (M, 2), (M,) -> (M,)
    ...     return -Normal(x0, sigma[:, None]).log_prob(y).sum(-1)
    >>> prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    >>> cost = sg.costs.ParametricFunction(misfit, {"sigma": LogNormal(0.0, 0.5)})
    >>> post = sg.sample(prior, cost, num_particles=64, num_steps=10, seed=1)
    >>> post.parameters["sigma"].shape, post.marginal("sigma").mean().shape
    (torch.Size([1, 64]), torch.Size([]))
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.distributions import Distribution

from smcguide.costs.base import TerminalCost, flat_values
from smcguide.errors import InvalidInput
from smcguide.parameters import Independent, Parameters


class ParametricCost(TerminalCost):
    """Base class of costs with parameters.

    Attributes:
        parameters: theta and its prior.
    """

    parameters: Parameters

    @abstractmethod
    def evaluate(self, x0: Tensor, theta: Tensor) -> Tensor:
        """C(x_0; theta), (M,), for x0 (M, *E) and theta (M, p) float64."""

    def __call__(self, x0: Tensor) -> Tensor:
        raise InvalidInput(
            f"The cost {self!r} has unknown parameters; ask cost.at(theta)(x0). In a potential: "
            "self.cost.at(look.theta)(x0)."
        )

    def at(self, theta: Tensor | None) -> TerminalCost:
        return self if theta is None else _At(self, theta)


class _At(TerminalCost):
    """A cost whose parameters are given, theta (S, n, p).

    Where there are J times as many events as thetas, J neighbours share one; one theta serves all.
    """

    def __init__(self, cost: ParametricCost, theta: Tensor) -> None:
        self.cost, self.theta = cost, theta
        self.num_systems = len(theta) if theta.shape[1] == 1 and len(theta) > 1 else None

    def __call__(self, x0: Tensor) -> Tensor:
        each = self.theta.repeat_interleave(x0.shape[1] // self.theta.shape[1], 1)
        each = each.expand(x0.shape[0], -1, -1).flatten(0, 1)
        return flat_values(lambda x: self.cost.evaluate(x, each), x0, self.cost)

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        self.cost.check(event_shape, like)

    def __repr__(self) -> str:
        return f"{self.cost!r} at given parameters"


class ParametricFunction(ParametricCost):
    """A plain function as a cost with independent parameters.

    Arguments:
        function: called with a flat batch of events (M, *E) and each parameter (M, *shape) by name, in
            the events' dtype; returns (M,).
        priors: name -> a continuous `torch.distributions.Distribution`.

    Raises:
        InvalidInput: as `parameters.Independent`.
    """

    def __init__(self, function: Callable[..., Tensor], priors: Mapping[str, Distribution]) -> None:
        self.function, self.parameters = function, Independent(priors)

    def evaluate(self, x0: Tensor, theta: Tensor) -> Tensor:
        values = self.parameters.constrain(theta)
        return self.function(x0, **{name: a.to(x0.dtype) for name, a in values.items()})

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
