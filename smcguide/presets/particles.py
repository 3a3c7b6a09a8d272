"""Published particle methods, as keyword arguments of `sg.sample`: weighted and resampled."""

from smcguide.grids import karras, uniform
from smcguide.kernels import DDPM, MatchedDDPM
from smcguide.moves import PCN, PCNL
from smcguide.potentials import InflatedGaussian, Tweedie
from smcguide.presets.baseline import Preset
from smcguide.proposals import DDSMC, DTM, Gradient
from smcguide.resamplers import SSP, Multinomial, Systematic
from smcguide.starts import PsiStart
from smcguide.triggers import always, ess_below


def tds(num_steps: int = 100) -> Preset:
    """Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (arXiv 2306.17775).

    The cost at the denoised estimate as value, and the shift c^2 times its gradient. The published image
    code shifts the estimate instead (`Gradient("x0_hat")`) and has the network's learned variance.
    """
    return {
        "proposal": Gradient(),
        "potential": Tweedie(1.0),
        "kernel": DDPM(),
        "times": uniform(num_steps),
        "resampler": Systematic(),
        "trigger": always(),
    }


def ndtm_smc(num_iters: int = 1, trust: float = 2.0, num_steps: int = 100) -> Preset:
    """Variational Control for Guidance in Diffusion Models (arXiv 2502.03686) with exact weights.

    The control of `DTM` as proposal, inside a trust region. The potential is left to `sg.sample`, which
    takes the best one the cost allows.
    """
    return {
        "proposal": DTM(num_iters=num_iters, trust=trust),
        "kernel": MatchedDDPM(),
        "times": karras(num_steps),
        "resampler": Systematic(),
        "trigger": ess_below(0.5),
    }


def ddsmc(variance: float = 1.0, num_steps: int = 200) -> Preset:
    """Solving Linear-Gaussian Bayesian Inverse Problems with Decoupled Diffusion Sequential Monte Carlo
    (arXiv 2502.06379), with the DDPM kernel (eta = 1).

    What is unknown of x_0 has variance (1 / V + alpha^2 / sigma^2)^-1 in value and proposal; the
    published schedules are other functions of the noise level. The published last step is guided.
    Linear measurements.
    """
    return {
        "proposal": DDSMC(variance),
        "potential": InflatedGaussian(variance),
        "kernel": DDPM(),
        "times": karras(num_steps),
        "resampler": Multinomial(),
        "trigger": always(),
    }


def psi_sampler(delta: float = 0.5, burn_in: int = 25, num_steps: int = 25) -> Preset:
    """Psi-Sampler: Initial Particle Sampling for SMC-Based Inference-Time Reward Alignment (arXiv
    2506.01320).

    The first population from Markov chains on the reward of the denoised noise, then TDS. Chains of
    finite length make it biased; `starts.TemperedStart` does the same exactly.
    """
    return {
        "proposal": Gradient(),
        "potential": Tweedie(1.0),
        "kernel": DDPM(),
        "times": karras(num_steps),
        "start": PsiStart(PCNL(delta), burn_in=burn_in),
        "resampler": SSP(),
        "trigger": ess_below(0.5),
    }


def waste_free(num_moves: int = 3, beta: float = 0.7, num_steps: int = 100) -> Preset:
    """Waste-free Sequential Monte Carlo (arXiv 2011.02328), with pCN moves given the parent.

    Proposal and potential are left to `sg.sample`; the number of particles must be a multiple of
    num_moves + 1.
    """
    return {
        "kernel": DDPM(),
        "times": karras(num_steps),
        "move": PCN(beta, num_moves=num_moves, waste_free=True),
        "trigger": ess_below(0.5),
    }
