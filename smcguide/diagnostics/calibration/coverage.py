"""How often regions of nominal credibility q hold the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from smcguide.diagnostics.calibration.bands import path_p_value, simultaneous_band
from smcguide.errors import InvalidInput

LEVELS = tuple(k / 20 for k in range(1, 20))


@dataclass(frozen=True, eq=False)
class Coverage:
    """Expected coverage: under calibration the diagonal, up to binomial noise.

    Attributes:
        levels: (Q,) nominal credibilities, increasing, between 0 and 1.
        coverage: (Q, F) share of data sets whose truth is inside.
        names: F names.
        num_sets: L.
    """

    levels: Tensor
    coverage: Tensor
    names: tuple[str, ...]
    num_sets: int

    def __repr__(self) -> str:
        worst = zip(self.names, self.p_values().tolist(), strict=True)
        found = ", ".join(f"{n} {p:.2g}" for n, p in worst)
        return f"Coverage({self.num_sets} data sets, {len(self.levels)} levels; p-values: {found})"

    def band(self, confidence: float = 0.99) -> tuple[Tensor, Tensor]:
        """Lowest and highest coverage (Q,) that calibrated posteriors keep between, all levels at once.

        From binomial counts, see `bands`.
        """
        low, high = simultaneous_band(self.num_sets, self.levels.numpy(), confidence)
        return torch.from_numpy(low), torch.from_numpy(high)

    def p_values(self) -> Tensor:
        """(F,) of the test for the diagonal, all levels at once; exact, see `bands`."""
        counts = (self.coverage * self.num_sets).round().long().T.numpy()
        levels = self.levels.numpy()
        return torch.tensor(
            [path_p_value(c, self.num_sets, levels) for c in counts], dtype=torch.float64
        )

    @classmethod
    def of(cls, u: Tensor, names: tuple[str, ...], levels: Sequence[float] | None) -> Self:
        """The share of numbers u (L, F) in [0, 1] up to each level.

        Raises:
            InvalidInput: for levels not increasing or not strictly between 0 and 1.
        """
        q = torch.tensor(LEVELS if levels is None else tuple(levels), dtype=torch.float64)
        inside = bool(((q > 0) & (q < 1)).all())
        if not len(q) or not inside or not bool((q.diff() > 0).all()):
            raise InvalidInput(
                f"levels must be increasing and strictly between 0 and 1, got {levels}."
            )
        return cls(q, (u[None] <= q[:, None, None]).double().mean(1), names, len(u))

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """The coverage over several batches of data sets.

        Raises:
            InvalidInput: for no batch, or batches of different names or levels.
        """
        kinds = {(b.names, tuple(b.levels.tolist())) for b in batches}
        if len(kinds) != 1:
            raise InvalidInput(
                "Coverage.concatenate: expected batches with the same names and levels, got "
                f"{len(kinds)} kinds among {len(batches)} batches."
            )
        total = sum(b.num_sets for b in batches)
        mean = torch.stack([b.coverage * b.num_sets for b in batches]).sum(0) / total
        return cls(batches[0].levels, mean, batches[0].names, total)
