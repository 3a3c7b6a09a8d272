"""What is promised of a move."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smcguide.costs.gaussian import LinearGaussian
from smcguide.engine import run
from smcguide.guided import GuidedDiffusion
from smcguide.kernels.ddim import DDIM
from smcguide.moves.base import Move
from smcguide.potentials.base import Potential
from smcguide.potentials.inflated import InflatedGaussian
from smcguide.priors.mixture import GaussianMixture
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.refresh import attempt
from smcguide.starts.base import Start
from smcguide.testing.conformance.base import Suite, normal
from smcguide.testing.conformance.proposal import (
    COVARIANCE,
    MATRIX,
    MEAN,
    NOISE_STD,
    OBSERVED,
    POTENTIALS,
    TIMES,
    linear_gaussian_answer,
)
from smcguide.testing.statistics import generator, seed, z_test
from smcguide.triggers import ess_below

NUM_VISITS = 20


def moving_model(
    move: Move | None,
    potential: Potential,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    start: Start | None = None,
) -> GuidedDiffusion:
    """The two-dimensional problem of the proposals' suite, whose answer is `linear_gaussian_answer`."""
    prior = GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE).to(device, dtype)
    return GuidedDiffusion(
        prior, LinearGaussian(MATRIX, OBSERVED, NOISE_STD), kernel=DDIM(1.0), times=TIMES,
        potential=potential, proposal=Bootstrap(), move=move, start=start,
    )  # fmt: skip


class InvariantLaw:
    """pi(x) proportional to p(x | parent) psi(x)^strength at level k of a model, for a Gaussian prior and
    a psi whose logarithm is quadratic: a Gaussian for each parent, with one precision for all.

    Attributes:
        mean, std: (1, n, d) and a number, the base kernel's at n given parents; at the noise end the
            prior's own law stands in for it.
        factor: (d, d) lower triangular L with L L^T the precision.
        centre: (1, n, d) means of pi.
    """

    def __init__(
        self, model: GuidedDiffusion, k: int, num: int, stream: str, strength: float = 1.0
    ) -> None:
        self.model, self.k, T = model, k, model.levels[0]
        x = model.draw_initial((1, num), generator(f"parents {stream}", model.device))
        d, eye = x.shape[-1], torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        if k == 0:
            self.mean, self.std = torch.zeros_like(x), T.sigma
            precision = torch.linalg.inv(T.alpha**2 * COVARIANCE.to(eye) + T.sigma**2 * eye)
            pull = (T.alpha * precision @ MEAN.to(eye)).expand_as(x)
        else:  # the parents' own level does not matter
            base = model.base_kernel(k - 1, x, model.denoise(x, model.levels[k - 1]))
            self.mean, self.std = base.mean, float(base.std)
            precision, pull = eye / self.std**2, base.mean / self.std**2

        # log psi is quadratic: its gradient at 0 and at the unit vectors says everything
        points = torch.cat([eye.new_zeros(1, d), eye])[None]
        value, _, vjp = model.pullback(lambda x: (model.look_at(k, x).value, None), points)
        slopes = strength * vjp(torch.ones_like(value))[0]
        self.factor = torch.linalg.cholesky(precision - (slopes[1:] - slopes[0]))
        self.centre = torch.cholesky_solve((pull + slopes[0])[0].mT, self.factor).mT[None]

    def population(self, stream: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Exact draws (1, n, d), one per parent, and their fields."""
        z = normal(self.mean.shape, generator(stream, self.mean.device), self.mean.dtype)
        white = torch.linalg.solve_triangular(self.factor.mT, z[0].mT, upper=True).mT[None]
        x = self.centre + white
        parent = {"parent_mean": self.mean, "parent_std": torch.full_like(x[..., :1], self.std)}
        return x, self.model.look_ahead(self.k, x, {}) | parent

    def test(self, x: Tensor) -> None:
        """Assert that states x (1, n, d), one per parent, are draws of pi: mean and covariance."""
        white = ((x - self.centre) @ self.factor)[0].double()
        num, d = white.shape
        ceiling = 2 / num**0.5
        z_test(white, 0.0, ceiling)
        square = white[:, :, None] * white[:, None]
        z_test(square, torch.eye(d, dtype=torch.float64).flatten(), ceiling)


class MoveSuite(Suite):
    """Write `instances`, returning one or two moves with Gaussian candidates (`span` 0) that are neither
    tiny nor huge: on a problem of two dimensions they visibly move and are sometimes rejected.

    Attributes:
        num_particles: size of the invariance test.
        num_systems: size of the evidence test.
        ceiling: largest standard error of the mean of its evidence ratios.
    """

    num_particles = 8000
    num_systems = 1500
    ceiling = 0.02

    def instances(self) -> Sequence[Move]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two moves.")

    def test_a_gaussian_candidate(self) -> None:
        for move in self.instances():
            rho, b, s = move.coefficients()
            assert s > 0, f"{move!r}: s = {s}"
            assert move.needs_gradient == (b != 0)
            assert move.coefficients() == (rho, b, s), f"{move!r} is random"

    @POTENTIALS
    @pytest.mark.parametrize("strength", [1.0, 0.4])
    @pytest.mark.parametrize("k", [0, 1, 3])
    def test_the_law_given_the_parent_stays(
        self,
        device: torch.device,
        dtype: torch.dtype,
        potential: Potential,
        strength: float,
        k: int,
    ) -> None:
        for move in self.instances():
            model = moving_model(move, potential, device, dtype)
            law = InvariantLaw(model, k, self.num_particles, f"{move!r} {k}", strength)
            x, fields = law.population(f"population {move!r} {k}")
            law.test(x)
            first, source = x, generator(f"moves {move!r} {k}", device)
            tries = []
            for _ in range(NUM_VISITS):
                x, fields, accepted = attempt(model, k, move, x, fields, source, strength)
                tries.append(accepted)
            rate = float(torch.stack(tries).double().mean())
            assert rate > 0.05, f"{move!r} accepts {rate:.2g} of its candidates at level {k}"
            assert float((x - first).norm(dim=-1).mean()) > 0.3 * law.std, f"{move!r} hardly moves"
            law.test(x)

    def test_only_the_generator_decides(self, device: torch.device, dtype: torch.dtype) -> None:
        for move in self.instances():
            model = moving_model(move, InflatedGaussian(), device, dtype)
            x, fields = InvariantLaw(model, 1, 50, "few").population("few")
            first, again, other = (
                attempt(model, 1, move, x, fields, generator(name, device))[0] for name in "aab"
            )
            assert torch.equal(first, again), f"{move!r} does not follow the generator"
            assert not torch.equal(first, other), f"{move!r} ignores the generator"

    def test_smaller_moves_are_accepted_more_often(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for move in self.instances():
            model = moving_model(move, InflatedGaussian(), device, dtype)
            x, fields = InvariantLaw(model, 1, 4000, "sizes").population("sizes")
            small, normal_size = (
                attempt(model, 1, m, x, fields, generator("sizes", device))[2].double().mean()
                for m in (move.resized(0.2), move)
            )
            assert small > normal_size, f"{move!r}: accepted {small} at a fifth, {normal_size}"

    @POTENTIALS
    @pytest.mark.parametrize("when", ["every_step", "waste_free", "resampled"])
    def test_evidence_and_posterior_mean_are_unbiased(
        self, device: torch.device, dtype: torch.dtype, potential: Potential, when: str
    ) -> None:
        for move in self.instances():
            move = replace(
                move, num_moves=3, every_step=when == "every_step", waste_free=when == "waste_free"
            )
            model = moving_model(move, potential, device, dtype)
            log_z, posterior = linear_gaussian_answer(model)
            result = run(
                model,
                num_particles=32,
                num_systems=self.num_systems,
                trigger=ess_below(0.9),
                seed=seed(repr(move)),
                progress=False,
            )
            ratio = torch.exp(result.log_evidence - log_z)[:, None].cpu()
            estimates = torch.cat([ratio, ratio * result.mean().cpu()], 1)
            truth = torch.cat([torch.ones(1, dtype=torch.float64), posterior.mean])
            z_test(estimates, truth, self.ceiling)
