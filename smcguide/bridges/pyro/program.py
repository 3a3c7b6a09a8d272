"""A Pyro program as `bridges.program.Program`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from smcguide.bridges.program import LogProbs, Program
from smcguide.bridges.pyro.runs import each, without_validation
from smcguide.bridges.pyro.setup import prepare
from smcguide.bridges.pyro.sites import Values
from smcguide.priors.base import Prior
from smcguide.randomness import seeded


class PyroProgram(Program):
    """A Pyro program with its arguments; see `Program` for the methods.

    All particles are evaluated at once with `torch.func.vmap`, or one after the other where the program
    cannot be batched (`loop_reason`, and a UserWarning). Data are what the program observes, given as
    arguments or by `pyro.condition`; `pyro.factor` counts as data. Values of `pyro.param` are used as
    they are. The density of a diffusion prior is never asked for, with or without `.mask(False)`.

    Arguments:
        model: the program.
        args, kwargs: its arguments.
        placeholder: sites whose distribution stands for a diffusion prior; None for one that is known
            to others only.

    Raises:
        InvalidInput: naming the site, for a subsampled plate, a site marked for enumeration, a latent
            without density, data that do not fit, a support or a set of sites that depends on
            latents, a continuous latent whose prior depends on x or a discrete one, more than 4096
            joint values of the discrete ones, a log-density that is random, an observed site with a
            diffusion prior, and for a program without prior or data.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        placeholder: Mapping[str, Prior | None] | None = None,
    ) -> None:
        self._runs, self.example, self.loop_reason = prepare(
            model, tuple(args), kwargs or {}, placeholder or {}
        )
        self._sites = self._runs.sites
        self.priors, self.observed = self._sites.priors, self._sites.observed
        self.size, self.choices = self._sites.size, self._sites.table()
        if self.loop_reason is not None:
            warnings.warn(
                f"The program is run for one particle after the other: {self.loop_reason}.",
                UserWarning,
                stacklevel=2,
            )

    def log_probs(self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor) -> LogProbs:
        rest, log_det = self._sites.constrain(theta, choice)
        with without_validation():
            terms = each(self._runs.log_densities, {**x, **rest}, self.loop_reason is None)
        zero = torch.zeros(len(theta), dtype=torch.float64)
        return LogProbs(
            parameters=sum((terms[p.name][:, 0] for p in self._sites.parameters), log_det),
            choice=sum((terms[c.name][:, 0] for c in self._sites.choices), zero),
            observed=sum((term[:, 1] for term in terms.values()), zero),
        )

    def draw(self, num: int, generator: Generator) -> Tensor:
        rows = [torch.zeros(num, 0, dtype=torch.float64)]
        if self._sites.parameters:
            with torch.no_grad(), seeded(generator), without_validation():
                drawn = [self._runs.parameters(self.example) for _ in range(num)]
            for p in self._sites.parameters:
                rows.append(p.unconstrain(torch.stack([values[p.name] for values in drawn])))
        return torch.cat(rows, 1)

    def constrain(self, theta: Tensor, choice: Tensor) -> dict[str, Tensor]:
        return self._sites.constrain(theta, choice)[0]

    def pointwise(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, Tensor]:
        values = self._values(x, theta, choice)
        with without_validation():
            return each(self._runs.pointwise, values, self.loop_reason is None)

    def normals(
        self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]] | None:
        values, is_batched = self._values(x, theta, choice), self.loop_reason is None
        with without_validation():
            if self._runs.normals({name: a[0] for name, a in values.items()}) is None:
                return None
            both = each(lambda one: self._runs.normals(one) or {}, values, is_batched)
        return {name: (a[:, 0], a[:, 1]) for name, a in both.items()}

    def simulate(
        self,
        x: Mapping[str, Tensor],
        theta: Tensor,
        choice: Tensor,
        generator: Generator,
    ) -> dict[str, Tensor]:
        # one after the other: torch.func.vmap cannot draw from a Normal with randomness="different"
        values = self._values(x, theta, choice)
        with torch.no_grad(), seeded(generator), without_validation():
            return each(self._runs.simulate, values, batched=False)

    def _values(self, x: Mapping[str, Tensor], theta: Tensor, choice: Tensor) -> Values:
        return {**x, **self._sites.constrain(theta, choice)[0]}
