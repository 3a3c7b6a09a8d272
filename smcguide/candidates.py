r"""Candidates: from each particle draw n continuations of B steps, keep one.

With log g^j the log-weight that continuation j would have earned, a choice with probabilities p_j and

    log g = log g^J - log(n p_J)

is properly weighted for any p (nested SMC). p = softmax(log g^j / temperature) at temperature 1 gives
the mean weight, log g = log (1/n) sum_j g^j. Without that weight the choice is a heuristic: softmax is
SVDD; argmax is SCG and greedy SVDD (B = 1), CoDe (B > 1) and best-of-n (B = K). At equal cost more
particles usually beat more candidates, which pay where the number of particles is capped.

References: Naesseth, Lindsten, Schoen, "Nested sequential Monte Carlo methods" (arXiv 1502.02536);
Li et al., SVDD (2408.08252); Huang et al., SCG (2402.14285); Singh et al., CoDe (2502.00968); Beirami
et al., "Theoretical guarantees on the best-of-n alignment policy" (2401.01879) for the bound on the KL.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from smcguide.errors import InvalidInput
from smcguide.exactness import BIASED, SEARCH, worst
from smcguide.feynman_kac import FeynmanKac, Propagated
from smcguide.weights import inverse_cdf, log_mean_exp

Carry = Mapping[str, Tensor]
_X, _LOG_G = "candidates: x", "candidates: log_g"  # of the first block, in the carry


def _check_plain(model: FeynmanKac) -> None:
    """Raise InvalidInput for what is no model, or one that does more than propagate."""
    if not isinstance(model, FeynmanKac):
        raise InvalidInput(
            f"Candidates: expected a model, got {model!r}. For `wrap` give e.g. "
            "functools.partial(sg.Candidates, num=4)."
        )
    if model.extras:
        raise InvalidInput(
            f"Candidates: the model must only propagate, this one has {', '.join(model.extras)}. Leave "
            "moves and starts out, freeze adaptive strengths (`freeze`), use a larger num instead of "
            "nesting."
        )


class Candidates(FeynmanKac):
    """Any model with several candidates per particle; run it like the model itself.

    Arguments:
        model: a Feynman-Kac model without moves and adaptive choices of its own.
        num: n, candidates per particle.
        block: B, steps between choices; at least `model.num_steps` for best-of-n.
        rule: "softmax" or "argmax".
        weighted: keep the weight that makes the choice exact; default for softmax. An argmax has none.
        temperature: of the softmax.

    Raises:
        InvalidInput: for numbers below 1, argmax with weights, a model that moves, adapts, has a start of
            its own or is a `Candidates`.
    """

    def __init__(
        self,
        model: FeynmanKac,
        num: int = 4,
        block: int = 1,
        rule: Literal["softmax", "argmax"] = "softmax",
        *,
        weighted: bool | None = None,
        temperature: float = 1.0,
    ) -> None:
        if num < 1 or block < 1 or temperature <= 0 or rule not in ("softmax", "argmax"):
            raise InvalidInput(
                f"Candidates(num={num}, block={block}, rule={rule!r}, temperature={temperature}): num "
                "and block must be at least 1, temperature positive, rule 'softmax' or 'argmax'."
            )
        if weighted and rule == "argmax":
            raise InvalidInput(
                "Candidates: the best of several is a search result, no weight makes it a sample and no "
                "log Z exists. Use rule='softmax', or leave weighted out."
            )
        _check_plain(model)
        self.model, self.num, self.rule, self.temperature = model, num, rule, temperature
        self.block = min(block, model.num_steps)
        self.weighted = rule == "softmax" if weighted is None else weighted
        self.num_steps = math.ceil(model.num_steps / self.block)
        self.event_shape, self.device = model.event_shape, model.device
        self.num_systems = model.num_systems
        self.has_paths = False
        self.parts: dict[str, Any] = getattr(model, "parts", {}) | {"candidates": self}

    @property
    def exactness(self) -> str:
        own = SEARCH if self.rule == "argmax" else BIASED
        return self.model.exactness if self.weighted else worst([own, self.model.exactness])

    @property
    def extras(self) -> list[str]:
        return [repr(self)]

    @property
    def kl_bound(self) -> float:
        """Upper bound of the KL that argmax pays: log n - (n - 1) / n for each choice."""
        choices = sum(not self.is_noiseless(j) for j in range(self.num_steps))
        return choices * (math.log(self.num) - (self.num - 1) / self.num)

    @property
    def evaluations(self) -> Counter[str]:
        """The model's."""
        return Counter(getattr(self.model, "evaluations", {}))

    def initial(self, shape: tuple[int, int], generator: Generator) -> Propagated:
        """The candidates of the first block have initial states of their own, kept in the carry."""
        first = self.model.initial((shape[0], shape[1] * self.num), generator)
        wide = {**first.carry, _X: first.x, _LOG_G: first.log_g.double()}
        carry = {name: a.unflatten(1, (shape[1], self.num)) for name, a in wide.items()}
        return Propagated(carry[_X][:, :, 0], torch.zeros_like(carry[_LOG_G][..., 0]), carry)

    def step(self, k: int, x: Tensor, carry: Carry, generator: Generator) -> Propagated:
        n = 1 if self.is_noiseless(k) and k > 0 else self.num
        if k == 0:
            wide = {name: a.flatten(1, 2) for name, a in carry.items()}
        else:
            wide = {name: a.repeat_interleave(n, 1) for name, a in {**carry, _X: x}.items()}
        log_g: Tensor | float = wide.pop(_LOG_G, 0.0)
        x = wide.pop(_X)
        for j in range(k * self.block, min((k + 1) * self.block, self.model.num_steps)):
            moved = self.model.step(j, x, wide, generator)
            x, wide, log_g = moved.x, dict(moved.carry), log_g + moved.log_g.double()
        return self._choose(x, wide, torch.as_tensor(log_g).unflatten(1, (-1, n)), generator)

    def _choose(self, x: Tensor, wide: Carry, log_g: Tensor, generator: Generator) -> Propagated:
        S, N, n = log_g.shape
        tempered = log_g / self.temperature
        if self.rule == "argmax":
            chosen = log_g.argmax(-1)
        else:
            u = torch.rand(S * N, 1, generator=generator, dtype=log_g.dtype, device=log_g.device)
            # where every candidate is dead any choice will do
            alive = (tempered > -torch.inf).any(-1, keepdim=True)
            choice = torch.where(alive, tempered, 0.0).flatten(0, 1)
            chosen = inverse_cdf(choice, u).reshape(S, N)
        weight = torch.zeros_like(log_g[..., 0])
        if self.weighted:
            own = log_g.gather(-1, chosen[..., None])[..., 0]
            log_np = own / self.temperature - log_mean_exp(tempered)
            weight = torch.where(torch.isneginf(own), own, own - log_np)
        flat = chosen + n * torch.arange(N, device=x.device)
        systems = torch.arange(S, device=x.device)[:, None]
        carry = {name: a[systems, flat] for name, a in wide.items()}
        return Propagated(x[systems, flat], weight, carry)

    def is_noiseless(self, k: int) -> bool:
        steps = range(k * self.block, min((k + 1) * self.block, self.model.num_steps))
        return all(self.model.is_noiseless(j) for j in steps)

    def time(self, k: int) -> float:
        return self.model.time(min(k * self.block, self.model.num_steps))

    def report(self, carry: Carry) -> Mapping[str, Tensor]:
        narrow = {n: a[:, :, 0] if _LOG_G in carry else a for n, a in carry.items()}
        return self.model.report(narrow)

    def culprit(self, k: int) -> tuple[str, str]:
        return self.model.culprit(min(k * self.block, self.model.num_steps))

    def __repr__(self) -> str:
        return (
            f"Candidates(num={self.num}, block={self.block}, rule={self.rule!r}, "
            f"weighted={self.weighted}, temperature={self.temperature})"
        )
