r"""Two problems with unknown parameters and known answers.

In `BananaLaw` the law of theta given a particle's path is a bent Gaussian: with the denoised estimate D
and theta = (mean, log scale),

    u_1 = mean - D_1 / 2,     u_2 = (log scale - 0.4 (u_1^2 - 1) - 0.3 D_2) / 0.7,     u ~ N(0, I)

In `unknown_noise_model` a Gaussian event is measured with an unknown offset b and an unknown noise level
s: given s everything is Gaussian, and what is left is an integral over s.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

from smcguide.costs.parametric import ParametricFunction
from smcguide.engine import run
from smcguide.guided import GuidedDiffusion
from smcguide.kernels.ddim import DDIM
from smcguide.parameter_moves.base import ParameterMove
from smcguide.parameter_refresh import refresh_parameters
from smcguide.potentials.base import Potential
from smcguide.potentials.tweedie import Tweedie
from smcguide.priors.mixture import GaussianMixture
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.testing.conformance.proposal import COVARIANCE, MEAN, TIMES
from smcguide.testing.oracles import GaussianLaw, gaussian_chain
from smcguide.testing.statistics import generator, seed, z_test
from smcguide.triggers import Trigger

_BEND, _WIDTH = 0.4, 0.7
_MATRIX = torch.tensor([[1.0, -0.4], [0.3, 1.0], [-0.8, 0.5], [0.6, 0.6]], dtype=torch.float64)
_OBSERVED = torch.tensor([2.2, -0.9, 0.4, 1.6], dtype=torch.float64)
_OFFSET = 0.8  # standard deviation of b
_ZERO = torch.zeros((), dtype=torch.float64)
_NOISE = LogNormal(torch.tensor(-1.0).double(), torch.tensor(0.7).double())


def _model(
    cost: ParametricFunction, potential: Potential, move: ParameterMove, like: Tensor
) -> GuidedDiffusion:
    prior = GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE).to(like.device, like.dtype)
    return GuidedDiffusion(
        prior, cost, kernel=DDIM(1.0), times=TIMES, potential=potential, proposal=Bootstrap(),
        parameter_move=move,
    )  # fmt: skip


def _straight(x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """u (M, 2)."""
    first = mean - x0[:, 0] / 2
    second = log_scale - _BEND * (first.square() - 1) - 0.3 * x0[:, 1]
    return torch.stack([first, second / _WIDTH], -1)


def _banana(x0: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    u, b = _straight(x0, mean, scale.log()), scale.log()
    return u.square().sum(-1) / 2 - (mean / 2).square() / 2 - (b / 1.5).square() / 2


class BananaLaw:
    """The law of theta given a particle's path after k transitions of `model`."""

    def __init__(self, move: ParameterMove, k: int, like: Tensor) -> None:
        priors = {"mean": Normal(_ZERO, 2.0), "scale": LogNormal(_ZERO, 1.5)}
        cost = ParametricFunction(_banana, priors)
        self.k, self.model = k, _model(cost, Tweedie(strength=1.0), move, like)

    def visit(
        self, x: Tensor, fields: Mapping[str, Tensor], source: torch.Generator
    ) -> Mapping[str, Tensor]:
        """The fields after the move has been at all particles once."""
        everywhere = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return refresh_parameters(self.model, self.k, x, fields, everywhere, source)

    def population(self, shape: tuple[int, int], stream: str) -> tuple[Tensor, dict[str, Tensor]]:
        """States (S, N, 2) and their fields, theta drawn exactly."""
        source = generator(f"banana {stream}", self.model.device)
        x = self.model.draw_initial(shape, source)
        u = torch.randn(*shape, 2, generator=source, dtype=torch.float64, device=source.device)
        D = self.model.denoise(x, self.model.levels[self.k]).double()
        mean = u[..., 0] + D[..., 0] / 2
        log_scale = _WIDTH * u[..., 1] + _BEND * (u[..., 0].square() - 1) + 0.3 * D[..., 1]
        theta = {"theta": torch.stack([mean, log_scale], -1)}
        return x, theta | self.model.look_ahead(self.k, x, theta)

    def test(self, fields: Mapping[str, Tensor]) -> None:
        """Assert that the parameters are draws of their law: mean and covariance of u."""
        theta = fields["theta"].flatten(0, 1)
        u = _straight(fields["x0_hat"].flatten(0, 1).double(), *theta.unbind(-1))
        ceiling = 3 / len(u) ** 0.5
        z_test(u, 0.0, ceiling)
        z_test(u[:, :, None] * u[:, None], torch.eye(2).double().flatten(), ceiling)


def _misfit(x0: Tensor, offset: Tensor, noise: Tensor) -> Tensor:
    goal = _OBSERVED.to(x0) - offset[:, None]
    return -Normal(x0 @ _MATRIX.to(x0).T, noise[:, None]).log_prob(goal).sum(-1)


def unknown_noise_model(
    move: ParameterMove, potential: Potential, like: Tensor = _ZERO
) -> GuidedDiffusion:
    """y = A x + b + s n with x N(MEAN, COVARIANCE), b and s unknown, in four coarse steps."""
    cost = ParametricFunction(_misfit, {"offset": Normal(_ZERO, _OFFSET), "noise": _NOISE})
    return _model(cost, potential, move, like)


def unknown_noise_answer(model: GuidedDiffusion) -> tuple[float, Tensor]:
    """log Z, and the posterior means (x_0, b, s) (4,) under the discretised chain."""
    chain = gaussian_chain(MEAN, COVARIANCE, model.levels)
    joint = GaussianLaw(
        torch.cat([chain.mean, torch.zeros(1).double()]),
        torch.block_diag(chain.covariance, torch.tensor([[_OFFSET**2]]).double()),
    )
    A = torch.cat([_MATRIX, torch.ones(len(_MATRIX), 1).double()], 1)
    grid = torch.linspace(-5.5, 3.5, 401, dtype=torch.float64)  # of log s, far into both tails
    log_p = _NOISE.log_prob(grid.exp()) + grid + math.log(float(grid[1] - grid[0]))
    log_p = log_p + torch.tensor([joint.log_evidence(A, _OBSERVED, float(s)) for s in grid.exp()])
    means = [joint.posterior(A, _OBSERVED, float(s)).mean for s in grid.exp()]
    values = torch.cat([torch.stack(means), grid.exp()[:, None]], 1)
    return float(log_p.exp().sum().log()), log_p.softmax(0) @ values


def unknown_noise_estimates(model: GuidedDiffusion, trigger: Trigger, N: int, S: int) -> Tensor:
    """Z_hat / Z, and the same times the posterior means over the true ones; (S, 5), unbiased for 1."""
    log_z, mean = unknown_noise_answer(model)
    stream = seed(f"{model.parameter_move!r} {N}")
    post = run(model, num_particles=N, num_systems=S, trigger=trigger, seed=stream, progress=False)
    named = [post.marginal(name).mean()[:, None] for name in ("offset", "noise")]
    means = torch.cat([post.mean(), *named], 1).cpu()
    ratio = torch.exp(post.log_evidence - log_z)[:, None].cpu()
    return torch.cat([ratio, ratio * means / mean], 1)
