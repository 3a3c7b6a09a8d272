"""A resampler draws ancestors from log-weights so that particle i is chosen num W_i times on average.

The order of the ancestors means nothing: a scheme may sort them. Only `conditional` has a slot that
matters, the reference's.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from smcguide import weights
from smcguide.errors import InvalidInput
from smcguide.exactness import EXACT

_ROUNDING = 1e-12  # relative error of softmax weights, generously


class Resampler(ABC):
    """Base class of resamplers; concrete ones are frozen dataclasses.

    Attributes:
        exactness: EXACT where the mean counts are num W_i, see `smcguide.exactness`.
    """

    exactness: ClassVar[str] = EXACT

    @abstractmethod
    def __call__(self, log_w: Tensor, generator: torch.Generator, num: int | None = None) -> Tensor:
        """Ancestor indices, each system on its own.

        Arguments:
            log_w: (S, N) log-weights, -inf for a dead particle; one at least is finite.
            generator: of all randomness, on the device of `log_w`.
            num: how many ancestors, at least 1; None for N.

        Returns:
            (S, num) int64, particle i about num W_i times, never one of weight zero.

        Raises:
            InvalidInput: by schemes that have N ancestors only, for another `num`.
        """

    def conditional(self, log_w: Tensor, generator: torch.Generator) -> Tensor:
        """Ancestors (S, N) given that slot 0 descends from particle 0, for conditional SMC.

        Arguments:
            log_w: (S, N) log-weights; that of particle 0, the reference, must be finite.
            generator: as above.

        Returns:
            (S, N) int64 with zeros in slot 0: the scheme's law, its slots in random cyclic order,
            given that slot 0 chose particle 0.

        Raises:
            InvalidInput: by schemes without such a law.
        """
        raise InvalidInput(
            f"{self!r} has no conditional law, which conditional SMC needs; use Multinomial() or "
            "Systematic()."
        )


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1), float64, on the generator's device."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


def ascending(num: int, count: Tensor | int, like: Tensor, generator: torch.Generator) -> Tensor:
    """(S, num) float64, of which the first `count`, (S, 1) or for all systems, are independent uniform
    numbers in ascending order; the others are 1 or more. Gaps between order statistics are those between
    exponential variables' sums, which costs no sort."""
    sums = -torch.log1p(-uniforms((len(like), num + 1), generator)).cumsum(-1)
    if isinstance(count, Tensor):
        return sums[:, :num] / sums.gather(1, count.long())
    return sums[:, :num] / sums[:, count : count + 1]


def expected_copies(log_w: Tensor, num: int) -> Tensor:
    """num W, (S, N) float64, for schemes that take its floor: whole where it is whole up to rounding
    (49 times 1/49 is below 1, and equal weights shall keep every particle)."""
    expected = num * weights.normalise(log_w)
    nearest = expected.round()
    return torch.where((expected - nearest).abs() <= _ROUNDING * nearest, nearest, expected)


def repeated(copies: Tensor, num: int) -> Tensor:
    """Ancestors (S, num) in ascending order, particle i `copies[:, i]` times, copies (S, N) whole
    numbers; N in the slots that are too many."""
    return ending(copies.cumsum(-1), num)


def ending(ends: Tensor, num: int) -> Tensor:
    """The same from the running numbers of copies, (S, N)."""
    ends = torch.where(ends < num, ends, num)  # NaN, too, of a system without legal weights
    return weights.counted(ends, num)
