"""Published guidance of the clean estimate, no gradient through the network, as keyword arguments of
`sg.sample`; what is said in `presets.guidance` holds here too."""

from smcguide.kernels import DDIM, DDPM
from smcguide.kernels.renoise import Renoise
from smcguide.presets.baseline import Loss, Preset, along, baseline
from smcguide.proposals import CleanGradient, LineSearch, Powers, Proximal, Spectral, StaticControl


def mpgd(
    scale: float = 1.0, eta: float = 0.5, loss: Loss = "distance", num_steps: int = 100
) -> Preset:
    """Manifold Preserving Guided Diffusion (arXiv 2311.16424), without the autoencoder.

    D moves by - (scale / alpha_s) grad |y - F(D)|, or along the gradient of the cost, and the noise
    estimate is kept; then a DDIM(eta) step. No gradient through the network.
    """
    guided = CleanGradient(scale=along(loss, scale, Powers(alpha_s=-1)))
    return baseline(guided, DDIM(eta), num_steps)


def dreamguider(strength: float = 1.0, num_steps: int = 100) -> Preset:
    """Dreamguider: Improved Training free Diffusion-based Conditional Generation (arXiv 2406.02549).

    The gradient of the cost at the clean estimate, with a factor that falls with the noise level and
    an automatic length; no gradient through the network and nothing to tune. The idea is the paper's;
    the factor and the length are `LineSearch`'s, and the augmentations of the cost are left out.
    """
    guided = CleanGradient(scale=LineSearch(strength), noise="recomputed")
    return baseline(guided, DDPM(), num_steps)


def diffpir(weight: float = 1.0, zeta: float = 0.1, num_steps: int = 100) -> Preset:
    """Denoising Diffusion Models for Plug-and-Play Image Restoration (arXiv 2305.08995).

    D becomes the proximal point of the measurement, the noise estimate follows, a share zeta of the
    noise is renewed. Linear measurements; weight = inf is the base sampler.
    """
    return baseline(Proximal(weight, "recomputed"), Renoise(zeta), num_steps)


def ddnm(eta: float = 0.85, num_steps: int = 100) -> Preset:
    """Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model (arXiv 2212.00490).

    D becomes A^+ y + (I - A^+ A) D, the noise estimate is kept, a share eta^2 of the noise is renewed.
    Linear measurements with little noise; for noisy ones the published DDNM+ is `ddrm` with time travel.
    """
    return baseline(Proximal(0.0, "kept"), Renoise(eta**2), num_steps)


def ddrm(eta: float = 0.85, eta_b: float = 1.0, num_steps: int = 20) -> Preset:
    """Denoising Diffusion Restoration Models (arXiv 2201.11793).

    Each singular direction has its own Gaussian. Linear measurements. The published sampler starts from
    the noised measurement.
    """
    return baseline(Spectral(eta_b), Renoise(eta**2), num_steps)


def red_diff(
    learning_rate: float = 0.1, weight: float = 0.25, strength: float = 1.0, num_steps: int = 100
) -> Preset:
    """A Variational Perspective on Solving Inverse Problems with Diffusion Models (arXiv 2305.04391).

    One clean event per particle, moved by Adam, re-noised at every level. The published method
    optimises a single event from A^+ y, weighs |y - F|^2 / 2 without the noise level (strength = s^2
    here) and returns the event; here it begins with the denoiser's estimate. The base kernel is the one
    with the same noise, N(alpha_s D, sigma_s^2).
    """
    return baseline(StaticControl(learning_rate, weight, strength), Renoise(1.0), num_steps)
