r"""Kernel Stein discrepancy: how far weighted samples are from a law of which the score is known.

No exact samples and no normalising constant are needed, only s = grad log p at the samples. With the
inverse multiquadric k(x, y) = (1 + |x - y|^2 / l^2)^(-1/2), whose slow decay makes the discrepancy see
samples that wander off in any dimension, the Stein kernel is

    k_0(x, y) = div_x div_y k + s(x) . grad_y k + s(y) . grad_x k + k s(x) . s(y)

E_p k_0(x, .) = 0, so the discrepancy S^2 = E k_0(x, x') over the samples' law is zero only for p. Like
every score it hardly sees the weights of modes that are far from each other.

The U-statistic (pairs i = j left out, as in `mmd`) is zero on average for independent samples of p: the
default, since it says whether there is evidence of a difference. The V-statistic, with those pairs, is
the discrepancy of the weighted point set itself: never negative, but for independent samples of p of the
order of E k_0(x, x) / ESS, which grows with the dimension and with the square of the score.

Reference: Gorham, Mackey, "Measuring Sample Quality with Kernels" (arXiv 1703.01717).
"""

from torch import Tensor

from smcguide.diagnostics.distances.samples import at_least, cloud, distances_between, double_sum
from smcguide.errors import InvalidInput


def kernel_stein(
    x: Tensor,
    score: Tensor,
    log_w: Tensor | None = None,
    *,
    length: float = 1.0,
    unbiased: bool = True,
    chunk_size: int = 1024,
) -> float:
    """Squared kernel Stein discrepancy S^2 of weighted samples, in squared units of the score.

    Arguments:
        x: samples (n, *E).
        score: (n, *E) gradient of the log density at the samples.
        log_w: their log-weights (n,); None: equal weights.
        length: l of the kernel, in the units of x: the scale on which laws shall differ.
        unbiased: leave the pairs i = j out.
        chunk_size: points at once; memory is proportional to chunk_size n.

    Raises:
        InvalidInput: for other shapes, no samples, samples or scores that are not finite, a length that
            is not positive, or a single point where pairs are needed.
    """
    at_least("kernel_stein", 1, chunk_size=chunk_size)
    if not 0 < length < float("inf"):
        raise InvalidInput(f"kernel_stein: length must be positive, got {length}.")
    a = cloud("kernel_stein", "x", x, log_w)
    if not isinstance(score, Tensor) or score.shape != x.shape:
        given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise InvalidInput(
            f"kernel_stein: score must be the gradient of the log density at each sample, a tensor of "
            f"shape {tuple(x.shape)}, got {given}."
        )
    b = cloud("kernel_stein", "score", score, log_w)
    if unbiased and a.num < 2:
        raise InvalidInput(
            "kernel_stein: an unbiased estimate needs two samples with weight, got one; "
            "unbiased=False does not."
        )
    x, s, d = a.x / length, b.x * length, a.x.shape[1]  # in units of l
    along = (x * s).sum(1)

    def stein_kernel(p: slice) -> Tensor:
        r2 = distances_between(x[p], x).square()
        base = 1 + r2
        k = base.rsqrt()
        slope = -0.5 * k / base  # dk / dr2
        bend = -1.5 * slope / base
        pull = along[p, None] + along - s[p] @ x.mT - x[p] @ s.mT  # (s_i - s_j) . (x_i - x_j)
        return k * (s[p] @ s.mT) - 2 * slope * (d + pull) - 4 * r2 * bend

    total = double_sum(stein_kernel, a.W, a.W, chunk_size)
    if unbiased:
        own = d + s.square().sum(1)  # k_0(x, x)
        total = (total - a.W.square() @ own) / (1 - a.concentration)
    return float(total) / length**2
