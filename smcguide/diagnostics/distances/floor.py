"""A distance beside the floor that exact samples reach.

Finite samples of one law are some distance apart, which depends on the distance, their number, the law
and the dimension: 0.03 alone says nothing. The floor is the same distance between exact samples and
other exact samples of the same sizes, where the first carry the same weights, handed out independently
of where they are. A perfect sampler whose weights are as uneven lands on the floor; importance weights,
which are small far out where a mistake would cost most, may land a little below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsFloat

import torch
from torch import Generator, Tensor

from smcguide.diagnostics.distances.samples import at_least, cloud
from smcguide.errors import InvalidInput

Distance = Callable[[Tensor, Tensor, Tensor | None], SupportsFloat]
Exact = Callable[[int, Generator], Tensor]


@dataclass(frozen=True, eq=False)
class BesideFloor:
    """A distance and what exact samples reach.

    Attributes:
        value: distance of the samples to exact ones.
        floor: (R,) distances of exact samples to exact samples, float64, on the CPU.
    """

    value: float
    floor: Tensor

    def __str__(self) -> str:
        low, high = self.band
        return f"{self.value:.3g} (floor {low:.3g} to {high:.3g})"

    @property
    def band(self) -> tuple[float, float]:
        """The central 90 % of the floor."""
        low, high = self.floor.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
        return low, high

    @property
    def sds_above(self) -> float:
        """How many standard deviations of the floor the value is above the floor's mean."""
        gap, spread = self.value - float(self.floor.mean()), float(self.floor.std())
        return gap / spread if spread > 0 else (0.0 if gap == 0 else float("inf") * gap)

    @property
    def p_value(self) -> float:
        """Share of distances, this one included, that are at least as large; uniform for exact samples
        from a function."""
        return (1 + int((self.floor >= self.value).sum())) / (1 + len(self.floor))


def beside_floor(
    distance: Distance,
    x: Tensor,
    exact: Tensor | Exact,
    log_w: Tensor | None = None,
    *,
    num_repeats: int = 20,
    seed: int = 0,
) -> BesideFloor:
    """A distance of weighted samples to exact ones, and the floor.

    Arguments:
        distance: (x, y, log_w) -> a number, such as `sliced_wasserstein`, or a `partial` of it.
        x: samples (n, *E).
        exact: (num, generator) -> independent exact samples (num, *E), for instance a prior's `sample`;
            n are compared with n. Or M >= 2 n of them, which are split at random in n and M - n each
            time: then the distances of the floor are not independent of each other.
        log_w: log-weights of x (n,); None: equal weights.
        num_repeats: distances that make up the floor, at least 2.

    Raises:
        InvalidInput: for too few exact samples or repeats, a function that returns another number than
            it was asked for, or anything that the distance refuses.
    """
    at_least("beside_floor", 2, num_repeats=num_repeats)
    cloud("beside_floor", "x", x, log_w)
    n = len(x)
    if isinstance(exact, Tensor) and len(exact) < 2 * n:
        raise InvalidInput(
            f"beside_floor: {n} samples need at least {2 * n} exact ones, to compare one part of them "
            f"with the other; got {len(exact)}. Give more, or a function (num, generator) -> samples."
        )
    generator = Generator(x.device).manual_seed(seed)

    def draw() -> Tensor:
        made = exact(n, generator)  # type: ignore[operator]
        if not isinstance(made, Tensor) or made.ndim == 0 or len(made) != n:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise InvalidInput(
                f"beside_floor: exact(num, generator) must return a tensor of num samples; asked for "
                f"{n}, got {got}."
            )
        return made

    def pair() -> tuple[Tensor, Tensor]:
        if not isinstance(exact, Tensor):
            return draw(), draw()
        order = torch.randperm(len(exact), generator=generator, device=x.device).to(exact.device)
        return exact[order[:n]], exact[order[n:]]

    value = float(distance(x, pair()[1], log_w))
    floor = [float(distance(*pair(), log_w)) for _ in range(num_repeats)]
    return BesideFloor(value, torch.tensor(floor, dtype=torch.float64))
