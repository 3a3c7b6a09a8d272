"""What is promised of a potential."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smcguide.costs.base import TerminalCost
from smcguide.costs.gaussian import LinearGaussian
from smcguide.draws import rehearse
from smcguide.potentials.base import Potential
from smcguide.priors.base import Prior
from smcguide.priors.mixture import GaussianMixture
from smcguide.problem import Problem
from smcguide.records import Level, Look
from smcguide.testing.conformance.base import Suite, assert_same, normal, rounding
from smcguide.testing.conformance.prior import noise_levels
from smcguide.testing.statistics import generator

MATRIX = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.0, 1.5]], dtype=torch.float64)
OBSERVED = torch.tensor([[0.7, -0.4], [-1.1, 0.3]], dtype=torch.float64)


def look_of(prior: Prior, x: Tensor, t: Level) -> Look:
    """What one denoiser call at states (S, N, *E) teaches."""
    return Look(x, prior.denoise(x.flatten(0, 1), t.time).unflatten(0, x.shape[:2]), t)


class PotentialSuite(Suite):
    """Write `instances`, returning one or two potentials, not yet bound to a cost.

    Attributes:
        tends_to_cost: whether log psi_t tends to -C as the noise vanishes. Every informative
            potential does; `Terminal` does not.
    """

    tends_to_cost = True

    def instances(self) -> Sequence[Potential]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two potentials.")

    def prior(self) -> Prior:
        """The prior they are tried on; by default a mixture of two Gaussians on R^3."""
        means = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.5]], dtype=torch.float64)
        scale = torch.tensor([0.8, 0.5], dtype=torch.float64)
        return GaussianMixture(torch.ones(2), means, scale=scale)

    def cost(self, systems: bool = False) -> TerminalCost:
        """The cost they are bound to; with `systems`, another observation for each of two."""
        y = OBSERVED if systems else OBSERVED[0]
        return LinearGaussian(MATRIX, y, noise_std=0.7, batched=systems)

    def bound(
        self, device: torch.device, dtype: torch.dtype = torch.float64, systems: bool = False
    ) -> tuple[Prior, list[Potential]]:
        """The prior, and the potentials bound to prior and cost."""
        prior, cost = self.prior().to(device, dtype), self.cost(systems).to(device)
        rehearsal = rehearse(prior)
        problem = Problem(cost, prior.event_shape, rehearsal)
        return prior, [p.bind(problem) for p in self.instances()]

    def states(self, prior: Prior, t: Level) -> Tensor:
        """(2, 3, *E) states near those of level t."""
        x = normal((2, 3, *prior.event_shape), generator("states", prior.device), prior.dtype)
        return (t.alpha + t.sigma) * x

    def test_binding_leaves_the_original_alone(self, device: torch.device) -> None:
        for potential in self.instances():
            assert potential.cost is None
        _, bound = self.bound(device)
        assert all(p.cost is not None for p in bound)

    def test_values_are_finite_float64_one_per_particle(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        prior, potentials = self.bound(device, dtype)
        for potential in potentials:
            for t in noise_levels(prior, 6)[:-1]:
                values = potential.log_value(look_of(prior, self.states(prior, t), t))
                assert values.shape == (2, 3), f"{potential!r}: {tuple(values.shape)}"
                assert values.dtype == torch.float64, f"{potential!r}: {values.dtype}"
                assert bool(torch.isfinite(values).all()), f"{potential!r}: {values} at {t}"

    def test_gradient_is_the_derivative(self, device: torch.device) -> None:
        prior, potentials = self.bound(device)
        for potential in potentials:
            for t in noise_levels(prior, 6)[1:5]:
                f = _value_of_states(potential, prior, t)
                assert torch.autograd.gradcheck(f, (self.states(prior, t).requires_grad_(),))

    def test_value_depends_on_its_own_particle_only(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        prior, potentials = self.bound(device, dtype)
        for potential in potentials:
            for t in noise_levels(prior, 6)[:-1]:
                f, x = _value_of_states(potential, prior, t), self.states(prior, t)
                others = x.clone()
                others[0, 1:], others[1] = x[0, 1:].flip(0) * 0.5, -x[1]
                value, what = f(x)[0, 0], f"{potential!r} at {t}"
                assert_same(f(others)[0, 0], value, rounding(dtype), f"{what}, others changed")
                assert_same(f(x[:1, :1])[0, 0], value, rounding(dtype), f"{what}, alone")

    def test_each_system_is_valued_by_its_own_observation(self, device: torch.device) -> None:
        prior, batched = self.bound(device, systems=True)
        _, single = self.bound(device)
        for many, one in zip(batched, single, strict=True):
            t = noise_levels(prior, 6)[2]
            x = self.states(prior, t)[:1].expand(2, -1, -1)
            values, first = (_value_of_states(p, prior, t)(x) for p in (many, one))
            assert_same(values[0], first[0], 1e-9, f"{many!r}, system 0")
            if self.tends_to_cost:
                assert float((values[1] - first[0]).abs().min()) > 1e-6, f"{many!r} mixes systems"

    def test_value_tends_to_minus_the_cost(self, device: torch.device) -> None:
        prior, potentials = self.bound(device)
        for potential in potentials if self.tends_to_cost else ():
            gaps = []
            for noise in (1e-2, 1e-3, 1e-4):
                t = prior.schedule.level(float(prior.schedule.time(-2 * torch.tensor(noise).log())))
                x = self.states(prior, t)
                value = potential.log_value(look_of(prior, x, t))
                gaps.append(float((value + potential.cost(x / t.alpha)).abs().max()))
            falls = gaps[2] < gaps[1] / 3 < gaps[0] / 9
            assert falls and gaps[2] < 1e-2, f"{potential!r}: |log psi + C| = {gaps} as sigma -> 0"


def _value_of_states(potential: Potential, prior: Prior, t: Level) -> Callable[[Tensor], Tensor]:
    return lambda x: potential.log_value(look_of(prior, x, t))
