"""What all who look at results ask of what they are given."""

from typing import Any

from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.posterior import Posterior


def require_posterior(who: str, given: Any) -> None:
    """Raise InvalidInput for anything else than a `Posterior`."""
    if not isinstance(given, Posterior):
        raise InvalidInput(
            f"{who}: expected a Posterior, got {type(given).__name__}. Chains are judged by their "
            "summary() and by to_arviz()."
        )


def require_log_weights(who: str, given: Any) -> None:
    """Raise InvalidInput for anything else than log-weights (S, N) or (N,)."""
    if not isinstance(given, Tensor) or given.ndim == 0:
        kind = "a number" if isinstance(given, Tensor) else type(given).__name__
        raise InvalidInput(
            f"{who}: expected a tensor of log-weights (S, N) or (N,), got {kind}. "
            "Those of a posterior are `posterior.log_w`."
        )
