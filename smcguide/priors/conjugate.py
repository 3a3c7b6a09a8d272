"""The Kalman update of a Gaussian mixture: each component conditioned, then reweighted."""

import torch
from torch import Tensor


def condition(
    log_w: Tensor, means: Tensor, cov: Tensor, A: Tensor, y: Tensor, noise_std: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture of x given y = A x + noise_std n.

    Arguments:
        log_w: (K,) log-weights.
        means: (K, d).
        cov: (1 or K, d, d).
        A: (m, d).
        y: (m,).
        noise_std: a float or (m,).

    Returns:
        log w_k + log N(y; A m_k, A S_k A^T + noise), whose logsumexp is the log-evidence; means (K, d);
        covariances (1 or K, d, d). All float64.
    """
    A, y = A.to(means.device, torch.float64), y.to(means.device, torch.float64)
    std = torch.as_tensor(noise_std, dtype=torch.float64, device=means.device).expand(len(y))
    S = A @ cov @ A.T + torch.diag(std**2)
    gain = torch.linalg.solve(S, A @ cov).mT
    law = torch.distributions.MultivariateNormal(means @ A.T, S, validate_args=False)
    updated = means + torch.einsum("...dm,...m->...d", gain, y - means @ A.T)
    narrowed = cov - gain @ A @ cov
    return log_w + law.log_prob(y), updated, (narrowed + narrowed.mT) / 2
