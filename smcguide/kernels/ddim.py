r"""First-order kernels that keep the marginals, one family (Song et al., DDIM, arXiv 2010.02502).

For any variance 0 <= v <= sigma_s^2,

    x_s = c_x x_t + c_D D + sqrt(v) z,   c_x = sqrt(sigma_s^2 - v) / sigma_t,  c_D = alpha_s - alpha_t c_x

keeps x_s | x_0 ~ N(alpha_s x_0, sigma_s^2) when D = x_0. DDIM(eta) takes
v = eta^2 sigma_s^2 (1 - lam_s^2 / lam_t^2); eta = 1 is ancestral DDPM sampling (posterior variance),
eta = 0 the deterministic flow. The step to data (sigma_s = 0) is x_0 = D.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.gaussian import Gaussian
from smcguide.kernels.base import Kernel
from smcguide.records import Level


@dataclass(frozen=True)
class DDIM(Kernel):
    """DDIM(eta), DDPM at eta = 1.

    Arguments:
        eta: multiplies the standard deviation, in [0, 1].
        clip: (low, high) clamp of D in the mean while the noise direction keeps the unclamped D, as
            in the published NDTM sampler; None for no clamp.

    Raises:
        InvalidInput: for eta outside [0, 1].
    """

    eta: float = 1.0
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InvalidInput(f"DDIM: eta must be in [0, 1], got {self.eta}.")

    def step(
        self, x: Tensor, x0_hat: Tensor, t: Level, s: Level, memory: Tensor | None = None
    ) -> Gaussian:
        # lam_s / lam_t without division by alpha, so that pure noise (alpha_t = 0) is fine
        shrink = (s.sigma * t.alpha) / (t.sigma * s.alpha)
        std = self.eta * s.sigma * math.sqrt(max(0.0, 1 - shrink**2))
        c_x = math.sqrt(s.sigma**2 - std**2) / t.sigma
        if self.clip is None:
            return Gaussian((c_x * x).add(x0_hat, alpha=s.alpha - t.alpha * c_x), std)
        noise_part = c_x * (x - t.alpha * x0_hat)
        return Gaussian(s.alpha * x0_hat.clamp(*self.clip) + noise_part, std)


def DDPM() -> DDIM:
    """Ancestral sampling with the posterior variance: DDIM(eta=1) (Ho et al., arXiv 2006.11239)."""
    return DDIM(eta=1.0)
