"""What is promised of a potential."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.costs.gaussian import LinearGaussian
from smcguide.guided import GuidedDiffusion
from smcguide.kernels.ddim import DDPM
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.priors.mixture import GaussianMixture
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.records import Look
from smcguide.testing.conformance.base import Suite, assert_same, normal, rounding
from smcguide.testing.conformance.prior import noise_levels
from smcguide.testing.statistics import generator

MATRIX = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.0, 1.5]], dtype=torch.float64)
OBSERVED = torch.tensor([[0.7, -0.4], [-1.1, 0.3]], dtype=torch.float64)
SMALL = (1e-2, 1e-3, 1e-4)  # noise levels sigma / alpha on the way to data


class PotentialSuite(Suite):
    """Write `instances`, returning one or two potentials, not yet bound to a cost.

    Values are asked as a run asks them: of a `GuidedDiffusion`, whose looks hold everything that a
    potential may use.

    Attributes:
        tends_to_cost: whether log psi_t tends to -C as the noise vanishes. Every informative
            potential does; `Terminal` does not.
        gradient_is_derivative: False for values that hold a part of themselves constant in their
            gradient; write `gradient` for them.
    """

    tends_to_cost = True
    gradient_is_derivative = True

    def instances(self) -> Sequence[Potential]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two potentials.")

    def gradient(self, model: GuidedDiffusion, look: Look) -> Tensor:
        """The gradient (S, N, *E) that a value is meant to have at a look where it is not the
        derivative, by another way than the potential's own."""
        raise NotImplementedError(f"{type(self).__name__} must say what its gradient is.")

    def prior(self) -> Prior:
        """The prior they are tried on; by default a mixture of two Gaussians on R^3."""
        means = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.5]], dtype=torch.float64)
        scale = torch.tensor([0.8, 0.5], dtype=torch.float64)
        return GaussianMixture(torch.ones(2), means, scale=scale)

    def cost(self, systems: bool = False) -> TerminalCost:
        """The cost they are bound to; with `systems`, another observation for each of two."""
        y = OBSERVED if systems else OBSERVED[0]
        return LinearGaussian(MATRIX, y, noise_std=0.7, batched=systems)

    def models(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float64,
        systems: bool = False,
        times: Tensor | None = None,
    ) -> list[GuidedDiffusion]:
        """A model for each instance, by default on six steps."""
        prior, cost = self.prior().to(device, dtype), self.cost(systems)
        if times is None:
            times = torch.tensor([t.time for t in noise_levels(prior, 6)], dtype=torch.float64)
        return [
            GuidedDiffusion(
                prior, cost, kernel=DDPM(), times=times, potential=p, proposal=Bootstrap()
            )
            for p in self.instances()
        ]

    def states(self, model: GuidedDiffusion, k: int) -> Tensor:
        """(2, 3, *E) states near those of level k."""
        t, source = model.levels[k], generator("states", model.device)
        return (t.alpha + t.sigma) * normal((2, 3, *model.event_shape), source, model.prior.dtype)

    def look(self, model: GuidedDiffusion, k: int, x: Tensor) -> Look:
        """What a run would know of states (S, N, *E), at most (2, 3), with its value; differentiable."""
        carry = {}
        if model.num_draws:
            shape = (2, 3, model.num_draws, *model.event_shape)
            noise = normal(shape, generator("noise", model.device), model.prior.dtype)
            carry["psi_noise"] = noise[: x.shape[0], : x.shape[1]]
        return model.look_at(k, x, carry)

    def test_binding_leaves_the_original_alone(self, device: torch.device) -> None:
        for potential in self.instances():
            assert potential.cost is None
        assert all(model.potential.cost is not None for model in self.models(device))
        for model in self.models(device):
            assert model.parts["potential"].cost is None

    def test_values_are_finite_float64_one_per_particle(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for model in self.models(device, dtype):
            potential = model.potential
            for k in range(6):
                look = self.look(model, k, self.states(model, k))
                values, _ = potential.evaluate(look)
                assert values.shape == (2, 3), f"{potential!r}: {tuple(values.shape)}"
                assert values.dtype == torch.float64, f"{potential!r}: {values.dtype}"
                assert bool(torch.isfinite(values).all()), f"{potential!r}: {values} at {look.t}"
                assert not values.requires_grad, f"{potential!r} returns an autograd graph"

    def test_gradient_is_the_derivative(self, device: torch.device) -> None:
        for model in self.models(device):
            for k in range(1, 5) if model.potential.has_gradient else ():
                f, x = self._value(model, k), self.states(model, k).requires_grad_()
                if self.gradient_is_derivative:
                    assert torch.autograd.gradcheck(f, (x,))
                    continue
                (slope,) = torch.autograd.grad(f(x).sum(), x)
                meant = self.gradient(model, self.look(model, k, x.detach()))
                assert_same(slope, meant, 1e-8, f"gradient of {model.potential!r} at level {k}")

    def test_value_depends_on_its_own_particle_only(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for model in self.models(device, dtype):
            for k in range(6):
                f, x = self._value(model, k), self.states(model, k)
                others = x.clone()
                others[0, 1:], others[1] = x[0, 1:].flip(0) * 0.5, -x[1]
                value, what = f(x)[0, 0], f"{model.potential!r} at {model.levels[k]}"
                assert_same(f(others)[0, 0], value, rounding(dtype), f"{what}, others changed")
                assert_same(f(x[:1, :1])[0, 0], value, rounding(dtype), f"{what}, alone")

    def test_each_system_is_valued_by_its_own_observation(self, device: torch.device) -> None:
        pairs = zip(self.models(device, systems=True), self.models(device), strict=True)
        for many, one in pairs:
            x = self.states(one, 2)[:1].expand(2, *[-1] * (1 + len(one.event_shape)))
            values, first = (self._value(model, 2)(x) for model in (many, one))
            assert_same(values[0], first[0], 1e-9, f"{many.potential!r}, system 0")
            if self.tends_to_cost:
                gap = float((values[1] - first[1]).abs().min())
                assert gap > 1e-6, f"{many.potential!r} mixes systems"

    def test_value_tends_to_minus_the_cost(self, device: torch.device) -> None:
        schedule = self.prior().schedule
        small = [float(schedule.time(-2 * torch.tensor(noise).log())) for noise in SMALL]
        times = torch.tensor([schedule.t_max, *small, 0.0], dtype=torch.float64)
        for model in self.models(device, times=times) if self.tends_to_cost else ():
            gaps = []
            for k in (1, 2, 3):
                x = self.states(model, k)
                gap = self._value(model, k)(x) + model.cost(x / model.levels[k].alpha)
                gaps.append(float(gap.abs().max()))
            falls = gaps[2] < gaps[1] / 3 < gaps[0] / 9
            what = f"{model.potential!r}: |log psi + C| = {gaps} as sigma -> 0"
            assert falls and gaps[2] < 1e-2, what

    def _value(self, model: GuidedDiffusion, k: int) -> Callable[[Tensor], Tensor]:
        return lambda x: self.look(model, k, x).value
