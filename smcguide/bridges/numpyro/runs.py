"""One run of a NumPyro model with some of its sites given, of which all else is made."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro.handlers import seed, substitute, trace, uncondition
from numpyro.infer.util import compute_log_probs
from numpyro.primitives import Messenger

from smcguide.errors import InvalidInput

Trace = Mapping[str, Any]


class LastSite(Messenger):  # type: ignore[misc, unused-ignore]
    """Knows which sample site was reached last, for messages about models that fail."""

    def __init__(self) -> None:
        super().__init__()
        self._name: str | None = None

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            self._name = msg["name"]

    def __str__(self) -> str:
        return "before its first site" if self._name is None else f"at or after site {self._name!r}"


class _Unscored(Messenger):  # type: ignore[misc, unused-ignore]
    """Takes the log-density of some sites to be zero, without evaluating it."""

    def __init__(self, fn: Callable[..., Any], names: Iterable[str]) -> None:
        super().__init__(fn)
        self._names = frozenset(names)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self._names:
            msg["fn"] = msg["fn"].mask(False)


@dataclass(frozen=True)
class Model:
    """A NumPyro model with its arguments. What is `given` is a value by site name."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def trace(self, key: jax.Array, given: Mapping[str, Any]) -> Trace:
        """A run in which all other latents are drawn."""
        return self._trace(seed(substitute(self.function, dict(given)), key))

    def new_data(self, key: jax.Array, given: Mapping[str, Any]) -> Trace:
        """A run in which the observed sites are drawn, too."""
        return self._trace(seed(uncondition(substitute(self.function, dict(given))), key))

    def log_probs(
        self, key: jax.Array, given: Mapping[str, Any], unscored: Iterable[str]
    ) -> dict[str, Any]:
        """Log-density of every sample site, entry by entry, scales and masks included; zero for
        unscored sites."""
        run = seed(_Unscored(self.function, unscored), key)
        found, _ = compute_log_probs(run, self.args, self.kwargs, dict(given), sum_log_prob=False)
        return dict(found)

    def _trace(self, run: Callable[..., Any]) -> Trace:
        return trace(run).get_trace(*self.args, **self.kwargs)  # type: ignore[no-any-return, unused-ignore]


def own(a: Any) -> Any:
    """NumPy data as another object: JAX remembers the precision in which it first met an array, and that
    of the program need not be the user's."""
    return a.view() if isinstance(a, np.ndarray) else a


def require_same_sites(expected: set[str], found: set[str]) -> None:
    """Every run has the same sample sites.

    Raises:
        InvalidInput: naming those that differ.
    """
    if found != expected:
        raise InvalidInput(
            f"NumPyroProgram: the sites {sorted(found ^ expected)} are in one run of the model and not "
            "in another. Sample at every site in every run; choose between values with jnp.where and "
            "switch terms off with numpyro.handlers.mask."
        )
