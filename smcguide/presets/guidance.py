r"""Published guidance samplers, as keyword arguments of `sg.sample` and `sg.GuidedDiffusion`.

    posterior = sg.sample(prior, cost, **presets.dps(zeta=1.0))

As published they draw independent, unweighted samples: no potential before the end, no resampling, and
`posterior.particles` are their output. What the library adds are the weights, so that the very same run
also holds the exact answer. To make a method of it that scales, give it a potential and let it resample:
`presets.dps() | {"potential": potentials.InflatedGaussian(), "trigger": triggers.ess_below(0.5)}`.

Common to all: the last step, which has no noise, is not guided; norms are per particle, not over the
batch; gradients are of the library's cost, for a Gaussian likelihood |y - F(x)|^2 / 2 s^2. Grids are
equal steps in time, as in the papers, whose priors are VP; for other schedules replace `times`. Gradients
through the network cost one forward call per step more than published: the base kernel has had its own.
"""

import math

from smcguide.kernels import DDIM, DDPM
from smcguide.kernels.renoise import Renoise
from smcguide.potentials import InflatedGaussian, MomentMatched, MonteCarlo, Tweedie
from smcguide.presets.baseline import Loss, Preset, along, baseline
from smcguide.proposals import (
    DTM,
    CleanGradient,
    Combined,
    Constant,
    Gradient,
    PerResidual,
    Powers,
    Published,
    Spectral,
)


def dps(zeta: float = 1.0, loss: Loss = "distance", num_steps: int = 1000) -> Preset:
    """Diffusion Posterior Sampling for General Noisy Inverse Problems (arXiv 2209.14687).

    A DDPM step, then - zeta grad_x |y - F(D(x))|. With loss="cost" the gradient is that of the cost
    itself, for any differentiable one, Poisson noise included (the published Poisson code follows the
    distance, divided by the mean of 1 / |y|; put that into zeta).
    """
    guided = Gradient("state", guide=Tweedie(1.0), scale=along(loss, zeta))
    return baseline(guided, DDPM(), num_steps)


def mcg(zeta: float = 1.0, num_steps: int = 1000) -> Preset:
    """Improving Diffusion Models for Inverse Problems using Manifold Constraints (arXiv 2206.00941).

    The DPS step, then the measured directions become those of the noised measurement. Linear
    measurements. The published projection comes after the noise; here before it, with the same
    law.
    """
    gradient = Gradient("state", guide=Tweedie(1.0), scale=PerResidual(zeta))
    return baseline(Combined((gradient, Spectral(noiseless=True))), DDPM(), num_steps)


def pigdm(scale: float = 1.0, num_steps: int = 100) -> Preset:
    """Pseudoinverse-Guided Diffusion Models for Inverse Problems (ICLR 2023).

    A DDPM step, then + alpha_s alpha_t r_t^2 grad log N(y; A D, s^2 + r_t^2 A A^T). Linear
    measurements. The published code starts from the noised pseudo-inverse of y.
    """
    weight = Powers(alpha_t=1, alpha_s=1, unknown=1)
    guided = Gradient("state", guide=InflatedGaussian(1.0), scale=Constant(scale, weight))
    return baseline(guided, DDPM(), num_steps)


def tmpd(scale: float = 1.0, num_steps: int = 100) -> Preset:
    """Tweedie Moment Projected Diffusions for Inverse Problems (arXiv 2310.06721).

    A DDPM step from D + (sigma^2 / alpha) grad log N(y; A D, s^2 + row sums of A Sigma A^T), with Sigma
    the denoiser's own covariance. Linear measurements; the row sums are meant for masks and other rows
    that do not mix signs.
    """
    guided = Gradient("x0_hat", guide=MomentMatched("diagonal"), scale=scale)
    return baseline(guided, DDPM(), num_steps)


def mmps(num_iters: int = 1, scale: float = 1.0, num_steps: int = 100) -> Preset:
    """Learning Diffusion Priors from Observations by Expectation Maximization (MMPS, arXiv 2405.13712).

    A DDPM step from D + (sigma^2 / alpha) grad log N(y; A D, s^2 I + A Sigma A^T), Sigma the denoiser's
    own covariance, the inverse by `num_iters` conjugate-gradient iterations. Linear measurements.
    """
    guided = Gradient("x0_hat", guide=MomentMatched("cg", num_iters), scale=scale)
    return baseline(guided, DDPM(), num_steps)


def lgd_mc(num_draws: int = 10, scale: float = 1.0, num_steps: int = 100) -> Preset:
    """Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (ICML 2023).

    A DDPM step from D + (sigma^2 / alpha) grad log mean exp(-C), the mean over draws N(D, r_t^2) with
    r_t^2 = sigma^2 / (alpha^2 + sigma^2). Any differentiable cost.
    """
    guided = Gradient("x0_hat", guide=MonteCarlo(num_draws, variance=1.0), scale=scale)
    return baseline(guided, DDPM(), num_steps)


def freedom(
    rho: float = 1.0, eta: float = 0.5, loss: Loss = "distance", num_steps: int = 100
) -> Preset:
    """FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model (arXiv 2303.09833).

    A step that renews a share eta^2 of the noise, then - rho alpha_t grad_x |y - F(D(x))|, or the
    gradient of the energy C with loss="cost". Time travel is a matter of the time grid.
    """
    guided = Gradient("state", guide=Tweedie(1.0), scale=along(loss, rho, Powers(alpha_t=1)))
    return baseline(guided, Renoise(eta**2), num_steps)


def universal_guidance(
    forward: float = 1.0, backward: float = 0.1, num_iters: int = 5, num_steps: int = 100
) -> Preset:
    """Universal Guidance for Diffusion Models (arXiv 2302.07121).

    D moves by - forward (sigma^2 / alpha) grad_x C(D(x)) through the network, and by `num_iters`
    gradient steps of length `backward` on C from D; then a DDPM step. Any differentiable cost. The
    published sampler is DDIM(0); self-recurrence is a matter of the time grid.
    """
    through = Gradient("x0_hat", guide=Tweedie(1.0), scale=forward)
    direct = CleanGradient(num_iters, backward, noise="recomputed")
    return baseline(Combined((through, direct)), DDPM(), num_steps)


def ndtm(
    gamma: float = 1.0,
    terminal_weight: float = 50.0,
    num_iters: int = 5,
    eta: float = 0.7,
    clip: tuple[float, float] | None = (-1.0, 1.0),
    num_steps: int = 50,
) -> Preset:
    """Variational Control for Guidance in Diffusion Models (arXiv 2502.03686), as released.

    Adam on a control of the network's input. The defaults are those of super-resolution, for data in
    [-1, 1] and the cost sum |y - F(x)|^2: with a Gaussian likelihood multiply `terminal_weight` by
    2 s^2. The published sampler starts from a noised A^+ y at an intermediate time and guides the last
    step.
    """
    guided = DTM(
        objective=Published(gamma, terminal_weight, clamp=clip), num_iters=num_iters, solver="adam",
        decay=True, trust=math.inf,
    )  # fmt: skip
    return baseline(guided, DDIM(eta, clip), num_steps)
