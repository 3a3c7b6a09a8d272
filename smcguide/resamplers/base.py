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
from smcguide.randomness import exponentials

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


def ascending(num: int, count: Tensor, generator: torch.Generator) -> Tensor:
    """(S, num) float64, of which the first `count`, (S, 1) whole numbers up to num, are independent
    uniform numbers in ascending order; the others are 1. Gaps between order statistics are those between
    exponential variables' sums, which costs no sort."""
    sums = exponentials((len(count), num + 1), generator).cumsum_(-1)
    return sums[:, :num].div_(sums.gather(1, count.long())).clamp_(max=1)


def whole_copies(log_w: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of num W_i its floor (S, N), what is left (S, N), and the sum of that (S, 1), float64. Whole is
    what is whole up to rounding (49 times 1/49 is below 1, and equal weights keep every particle)."""
    expected = weights.legal(log_w).mul_(num * (1 + _ROUNDING))
    copies = expected.floor()
    return copies, expected.sub_(copies), num - copies.sum(-1, keepdim=True)
