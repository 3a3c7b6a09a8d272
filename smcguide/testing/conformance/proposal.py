"""What is promised of a proposal."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from smcguide.costs.gaussian import LinearGaussian
from smcguide.engine import run
from smcguide.gaussian import Gaussian
from smcguide.guided import GuidedDiffusion
from smcguide.kernels.ddim import DDIM
from smcguide.potentials.base import Potential
from smcguide.potentials.inflated import InflatedGaussian
from smcguide.potentials.terminal import Terminal
from smcguide.priors.mixture import GaussianMixture
from smcguide.proposals.base import Proposal
from smcguide.testing.conformance.base import Suite, assert_same, normal, rounding
from smcguide.testing.oracles import GaussianLaw, gaussian_chain
from smcguide.testing.statistics import generator, seed, z_test
from smcguide.triggers import Trigger, always, never

TIMES = torch.tensor([1.0, 0.55, 0.3, 0.12, 0.0], dtype=torch.float64)
MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, -0.4]], dtype=torch.float64)
OBSERVED = torch.tensor([1.9], dtype=torch.float64)
NOISE_STD = 0.5
POTENTIALS = pytest.mark.parametrize("potential", [InflatedGaussian(), Terminal()], ids=repr)


def linear_gaussian_model(
    proposal: Proposal,
    potential: Potential,
    eta: float = 1.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> GuidedDiffusion:
    """A two-dimensional problem in four coarse steps whose answer is `linear_gaussian_answer`."""
    prior = GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE).to(device, dtype)
    cost = LinearGaussian(MATRIX, OBSERVED, NOISE_STD)
    return GuidedDiffusion(
        prior, cost, kernel=DDIM(eta), times=TIMES, potential=potential, proposal=proposal
    )


def linear_gaussian_answer(model: GuidedDiffusion, eta: float = 1.0) -> tuple[float, GaussianLaw]:
    """log Z and the posterior of x_0 under the discretised chain."""
    law = gaussian_chain(MEAN, COVARIANCE, model.levels, eta=eta)
    problem = (MATRIX, OBSERVED, NOISE_STD)
    return law.log_evidence(*problem), law.posterior(*problem)


class ProposalSuite(Suite):
    """Write `instances`, returning one or two proposals that work with the potentials
    `InflatedGaussian()` and `Terminal()`.

    Attributes:
        ceilings: potential -> largest standard error of the mean of the evidence ratio and the
            posterior mean, over `num_systems` runs of `num_particles` particles. The defaults are
            about twice what the base kernel reaches.
        num_systems, num_particles: size of the evidence test.
        etas: kernels DDIM(eta) of the evidence test.
    """

    ceilings: Mapping[str, float] = {"InflatedGaussian": 0.015, "Terminal": 0.015}
    num_systems = 4000
    num_particles = 32
    etas: Sequence[float] = (1.0, 0.6)

    def instances(self) -> Sequence[Proposal]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two proposals.")

    @POTENTIALS
    def test_a_gaussian_of_the_base_shape(
        self, device: torch.device, dtype: torch.dtype, potential: Potential
    ) -> None:
        for model in self._models(potential, device, dtype):
            for base, q, _ in _kernels(model):
                assert q.mean.shape == base.mean.shape, f"{model.proposal!r}"
                assert q.mean.dtype == base.mean.dtype, f"{model.proposal!r}: {q.mean.dtype}"
                assert bool(torch.isfinite(q.mean).all()), f"{model.proposal!r}: not finite"
                assert not q.is_dirac, f"{model.proposal!r} has no noise where the base has"
                assert not q.mean.requires_grad, f"{model.proposal!r} returns an autograd graph"
                std = torch.as_tensor(q.std)
                assert std.expand(base.mean.shape).shape == base.mean.shape
                assert float(std.min()) > 0, f"{model.proposal!r}: std {std}"

    @POTENTIALS
    def test_the_base_where_the_base_has_no_noise(
        self, device: torch.device, dtype: torch.dtype, potential: Potential
    ) -> None:
        for model in self._models(potential, device, dtype):
            x, carry = _advance(model, model.num_steps - 1)
            base, q = model.kernels(model.num_steps - 1, x, carry)
            assert base.is_dirac
            assert q.is_dirac, f"{model.proposal!r}: noise in the step to data"
            assert torch.equal(q.mean, base.mean), f"{model.proposal!r}: guided without noise"

    @POTENTIALS
    def test_log_ratio_is_a_difference_of_log_densities(
        self, device: torch.device, potential: Potential
    ) -> None:
        for model in self._models(potential, device, torch.float64):
            for base, q, z in _kernels(model):
                x = q.sample(z)
                expected = _log_density(base, x) - _log_density(q, x)
                assert_same(base.log_ratio(q, z), expected, 1e-9, f"{model.proposal!r}")

    @POTENTIALS
    def test_proposing_draws_no_random_numbers(
        self, device: torch.device, dtype: torch.dtype, potential: Potential
    ) -> None:
        state = torch.random.get_rng_state()
        for model in self._models(potential, device, dtype):
            for (_, q, _), (_, again, _) in zip(_kernels(model), _kernels(model), strict=True):
                assert torch.equal(q.mean, again.mean), f"{model.proposal!r} is random"
        assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"

    @POTENTIALS
    def test_particles_are_not_coupled(
        self, device: torch.device, dtype: torch.dtype, potential: Potential
    ) -> None:
        for model in self._models(potential, device, dtype):
            for k in range(model.num_steps - 1):
                x, carry = _advance(model, k)
                _, together = model.kernels(k, x, carry)
                for i in range(x.shape[1]):
                    one = {name: a[1:, i : i + 1] for name, a in carry.items()}
                    _, alone = model.kernels(k, x[1:, i : i + 1], one)
                    what = f"{model.proposal!r} with {potential!r}, step {k}, particle {i} alone"
                    assert_same(alone.mean[0, 0], together.mean[1, i], rounding(dtype), what)

    @POTENTIALS
    @pytest.mark.parametrize("trigger", [always(), never()], ids=repr)
    def test_evidence_and_posterior_mean_are_unbiased(
        self, device: torch.device, dtype: torch.dtype, potential: Potential, trigger: Trigger
    ) -> None:
        """Z_hat / Z has mean 1, and times the estimated posterior mean it has the exact posterior
        mean as its mean, all for the discretised chain."""
        ceiling = self.ceilings[type(potential).__name__]
        for proposal in self.instances():
            for eta in self.etas:
                model = linear_gaussian_model(proposal, potential, eta, device, dtype)
                estimates, truth = self._estimates(model, eta, trigger)
                z_test(estimates, truth, ceiling)

    def _estimates(
        self, model: GuidedDiffusion, eta: float, trigger: Trigger
    ) -> tuple[Tensor, Tensor]:
        log_z, posterior = linear_gaussian_answer(model, eta)
        result = run(
            model,
            num_particles=self.num_particles,
            num_systems=self.num_systems,
            trigger=trigger,
            seed=seed(f"{model.proposal!r} {eta}"),
            progress=False,
        )
        ratio = torch.exp(result.log_evidence - log_z)[:, None].cpu()
        estimates = torch.cat([ratio, ratio * result.mean().cpu()], 1)
        return estimates, torch.cat([torch.ones(1, dtype=torch.float64), posterior.mean])

    def _models(
        self, potential: Potential, device: torch.device, dtype: torch.dtype
    ) -> list[GuidedDiffusion]:
        return [
            linear_gaussian_model(p, potential, device=device, dtype=dtype)
            for p in self.instances()
        ]


def _advance(model: GuidedDiffusion, steps: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A population (2, 5, 2) after some transitions, and what it carries."""
    source = generator("population", model.device)
    moved = model.initial((2, 5), source)
    for k in range(steps):
        moved = model.step(k, moved.x, moved.carry, source)
    return moved.x, moved.carry


def _kernels(model: GuidedDiffusion) -> list[tuple[Gaussian, Gaussian, Tensor]]:
    """Base kernel, proposal and noise of every step that has noise."""
    out = []
    for k in range(model.num_steps - 1):
        x, carry = _advance(model, k)
        base, q = model.kernels(k, x, carry)
        out.append((base, q, normal(x.shape, generator(f"noise {k}", x.device), x.dtype)))
    return out


def _log_density(law: Gaussian, x: Tensor) -> Tensor:
    std = torch.as_tensor(law.std, dtype=x.dtype, device=x.device)
    if law.basis is None or law.along is None:
        return Normal(law.mean, std).log_prob(x).flatten(2).sum(-1)
    root = torch.diag(std.expand(len(law.basis)))
    root = root + (law.basis * (law.along - std)) @ law.basis.mT
    return MultivariateNormal(law.mean.flatten(2), root @ root).log_prob(x.flatten(2))
