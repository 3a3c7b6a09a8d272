"""The questions that weighted particles answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput


class Answers:
    """Expectations, quantiles and draws of weighted particles.

    Attributes:
        x: (S, N, *E) particles.
        log_w: (S, N) float64 log-weights.
        parameters: name -> (S, N, ...), unknown parameters of the cost.
        recorded: what the run was asked to record.
        has_systems: whether answers carry the axis S.
    """

    x: Tensor
    log_w: Tensor
    parameters: Mapping[str, Tensor]
    recorded: Mapping[str, Tensor]
    has_systems: bool

    def _answer(self, a: Tensor, axis: int = 0) -> Tensor:
        return a if self.has_systems else a.select(axis, 0)

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Posterior expectation of f: (M, *E) -> (M, *F); returns (S, *F), or (*F)."""
        values = f(self.x.flatten(0, 1)).unflatten(0, self.x.shape[:2])
        return self._answer(weights.mean(values, self.log_w))

    def mean(self) -> Tensor:
        """Posterior mean, float64."""
        return self.expect(lambda x: x)

    def std(self) -> Tensor:
        """Posterior standard deviation of each coordinate."""
        centred = self.x.double() - weights.mean(self.x, self.log_w)[:, None]
        return self._answer(weights.mean(centred.square(), self.log_w).sqrt())

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Weighted quantiles of each coordinate, (len(q), S, *E); without the first axis for a float.

        Raises:
            InvalidInput: for q outside [0, 1].
        """
        levels = torch.as_tensor(q, dtype=torch.float64, device=self.x.device)
        if not bool(((levels >= 0) & (levels <= 1)).all()):
            raise InvalidInput(f"quantile: levels must be in [0, 1], got {q}.")
        out = weights.quantile(self.x, self.log_w, levels.reshape(-1))
        return self._answer(out if levels.ndim else out[0], 1 if levels.ndim else 0)

    def ancestors_of_draws(self, num: int, seed: int = 0) -> Tensor:
        """Indices (S, num) of equal-weight draws: stratified, in random order."""
        generator = torch.Generator(self.x.device).manual_seed(seed)
        u = torch.rand(
            len(self.x), num, generator=generator, dtype=torch.float64, device=self.x.device
        )
        order = torch.rand(u.shape, generator=generator, device=self.x.device).argsort(-1)
        points = (torch.arange(num, device=u.device) + u) / num
        return weights.inverse_cdf(self.log_w, points).gather(-1, order)

    def draws(self, num: int, seed: int = 0) -> Tensor:
        """Equal-weight draws (S, num, *E), or (num, *E)."""
        index = self.ancestors_of_draws(num, seed)
        systems = torch.arange(len(self.x), device=index.device)[:, None]
        return self._answer(self.x[systems, index])

    def get_samples(self, num_samples: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """Equal-weight draws of the joint law as a dictionary of "x0" and the parameters, by default as
        many as particles."""
        num = num_samples or self.x.shape[1]
        latents = {"x0": self, **{name: self.marginal(name) for name in self.parameters}}
        return {name: latent.draws(num, seed) for name, latent in latents.items()}

    def get_weighted_samples(self) -> tuple[dict[str, Tensor], Tensor]:
        """The particles and their parameters as a dictionary, and their log-weights."""
        named = {"x0": self.x, **self.parameters}
        return {name: self._answer(a) for name, a in named.items()}, self._answer(self.log_w)

    def marginal(self, name: str) -> Self:
        """The same result with a parameter as the particles: mean, quantile, draws, ... are then its own.

        Raises:
            InvalidInput: for a name that is not among `parameters`.
        """
        if name not in self.parameters:
            raise InvalidInput(
                f"marginal: there is no parameter {name!r}; there are {sorted(self.parameters)}."
            )
        # the recorded states are those of the events
        kept = {n: a for n, a in self.recorded.items() if n in ("ancestors", "log_weights")}
        out: Self = replace(self, x=self.parameters[name], parameters={}, recorded=kept)  # type: ignore[type-var]
        return out
