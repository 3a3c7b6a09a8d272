"""What is promised of a terminal cost."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.testing.conformance.base import Suite, assert_same, normal, rounding
from smcguide.testing.statistics import generator


class CostSuite(Suite):
    """Write `instances`, returning one or two costs, and set `event_shape`.

    Attributes:
        event_shape: shape of the events that the costs are about.
        scale: standard deviation of the events they are tried on.
        is_differentiable: whether guided proposals may follow the cost's gradient.
    """

    event_shape: tuple[int, ...] = (2,)
    scale = 1.0
    is_differentiable = True

    def instances(self) -> Sequence[TerminalCost]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two costs.")

    def costs(self, device: torch.device) -> list[TerminalCost]:
        return [cost.to(device) for cost in self.instances()]

    def events(
        self, cost: TerminalCost, device: torch.device, dtype: torch.dtype, num: int = 4
    ) -> Tensor:
        """(S, num, *E) events, S what the cost asks for or 3."""
        shape = (cost.num_systems or 3, num, *self.event_shape)
        return self.scale * normal(shape, generator("events", device), dtype)

    def test_one_finite_number_per_event(self, device: torch.device, dtype: torch.dtype) -> None:
        for cost in self.costs(device):
            x0 = self.events(cost, device, dtype)
            values = cost(x0)
            assert values.shape == x0.shape[:2], f"{cost!r}: {tuple(values.shape)}"
            assert values.device == x0.device
            assert bool(torch.isfinite(values).any()), f"{cost!r} is nowhere finite"

    def test_never_nan_nor_minus_infinity(self, device: torch.device, dtype: torch.dtype) -> None:
        for cost in self.costs(device):
            x0 = self.events(cost, device, dtype)
            for factor in (0.0, 1.0, 30.0, 1e3):
                values = cost(factor * x0)
                illegal = torch.isnan(values) | torch.isneginf(values)
                assert not bool(illegal.any()), f"{cost!r}: {values} at {factor} times normal"

    def test_value_depends_on_its_own_event_only(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for cost in self.costs(device):
            x0 = self.events(cost, device, dtype)
            values, others = cost(x0), x0.clone()
            others[:, 1:] = x0[:, 1:].flip(1) * 0.5
            changed, alone = cost(others)[:, 0], cost(x0[:, :1])[:, 0]
            assert_same(changed, values[:, 0], rounding(dtype), f"{cost!r}, other events changed")
            assert_same(alone, values[:, 0], rounding(dtype), f"{cost!r}, event alone")

    def test_both_dtypes_agree(self, device: torch.device) -> None:
        for cost in self.costs(device):
            x0 = self.events(cost, device, torch.float32)
            single, double = cost(x0).double(), cost(x0.double()).double()
            assert_same(single, double, rounding(torch.float32), f"{cost!r} in float32")

    def test_events_of_this_shape_are_accepted(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for cost in self.costs(device):
            like = torch.zeros((), dtype=dtype, device=device)
            cost.check(self.event_shape, like)  # raises where it objects

    def test_gradient_is_the_derivative(self, device: torch.device) -> None:
        for cost in self.costs(device) if self.is_differentiable else ():
            x0 = self.events(cost, device, torch.float64, num=2).requires_grad_()
            assert torch.autograd.gradcheck(lambda x: cost(x).double(), (x0,))  # noqa: B023

    def test_costs_add(self, device: torch.device, dtype: torch.dtype) -> None:
        def norm(x: Tensor) -> Tensor:
            return x.flatten(1).abs().sum(1)

        for cost in self.costs(device):
            x0 = self.events(cost, device, dtype)
            extra = norm(x0.flatten(0, 1)).reshape(x0.shape[:2])
            expected = 2 * cost(x0).double() + extra.double()
            total = cost + norm + cost
            assert total.num_systems == cost.num_systems
            assert_same(total(x0), expected, rounding(dtype), f"{cost!r} + norm + {cost!r}")
