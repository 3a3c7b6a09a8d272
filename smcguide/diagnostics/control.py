r"""How hard a run was steered, in nats.

With q the law of the guided paths, p that of the base chain's and pi = p exp(-C) / Z the target,

    log Z  =  E_q[-C] - KL(q || p)  +  KL(q || pi)
              ------- bound ------     --- gap ---

The bound of DTM (a lower bound, for any control) is what a method that minimises cost plus path KL
reaches; the gap is how far its paths are from the posterior's. Importance sampling needs about
exp(nats) particles to bridge such a distance.

References: Pandey et al., "Variational control for guidance in diffusion models" (arXiv 2502.03686);
Chatterjee, Diaconis, "The sample size required in importance sampling" (arXiv 1511.01437), about
KL(pi || q).
"""

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


def path_kl(posterior: Posterior) -> Tensor:
    """KL(q || p) along the lines of the final particles, their plain mean, (S,).

    Where nothing was resampled it is the path KL of the proposal; with resampling that of the survivors.

    Raises:
        InvalidInput: for a model that keeps no path KL (any other than a guided diffusion).
    """
    if "path_kl" not in posterior.trace:
        raise InvalidInput(
            f"path_kl: the trace holds {sorted(posterior.trace)}; a path KL is kept by runs of a "
            "GuidedDiffusion."
        )
    return posterior._answer(posterior.trace["path_kl"][:, -1])


def bound_gap(posterior: Posterior) -> Tensor:
    """log Z minus the lower bound of DTM, an estimate of KL(q || pi), (S,).

    NaN where the run resampled (the bound belongs to the proposal alone) or where log Z is withheld. An
    underestimated log Z, as one has with too few particles, makes it too small, even negative.
    """
    return posterior._answer(posterior.log_z - posterior.bound)
