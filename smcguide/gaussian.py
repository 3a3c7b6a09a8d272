r"""Gaussian kernels: the steps of the base chain, and what replaces them.

    x = m + S z,     S = std I + B diag(along - std) B^T

`std` is one number or independent coordinates. A kernel conditioned on a linear measurement has other
standard deviations, `along`, in the measured directions, the orthonormal columns B.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from smcguide.moved import Shift, share, versions
from smcguide.sums import row_norms, row_sums


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian kernel N(mean, S^2).

    Attributes:
        mean: (S, N, *E).
        std: a float, or a tensor that broadcasts against `mean`; one number if there is a basis.
        memory: (S, N, ...) what its author wants back with each particle at the next step, or None.
        basis: (d, r) orthonormal columns over flattened events, in the dtype of `mean`, or None.
        along: (r,) standard deviations along the columns, where there is a basis.
        shift: how `moved` made it, known to this class only.
    """

    mean: Tensor
    std: float | Tensor
    memory: Tensor | None = None
    basis: Tensor | None = None
    along: Tensor | None = None
    shift: Shift | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def is_dirac(self) -> bool:
        """Whether the kernel has no noise at all (known without looking at a tensor)."""
        return isinstance(self.std, float) and self.std == 0.0

    def sample(self, z: Tensor) -> Tensor:
        """mean + S z for standard normal z (S, N, *E)."""
        if isinstance(self.std, float):
            x = torch.add(self.mean, z, alpha=self.std)
        else:
            x = self.mean + self.std * z
        if self.basis is None or self.along is None:
            return x
        return x + _spread(self.basis, self.along - self.std, z)

    def moved(
        self, delta: Tensor, trust: float = math.inf, times: float | Tensor = 1.0,
        memory: Tensor | None = None,
    ) -> "Gaussian":  # fmt: skip
        """This kernel with its mean moved by times * delta or, if that is more than `trust` standard
        deviations, in its direction by so many: by nothing where there is no noise. What was moved knows
        how: the ratio of its density to this one's takes half the passes over the states.

        Arguments:
            delta: (S, N, *E).
            trust: largest |times * delta / std|, positive; inf for none.
            times: a number, or a tensor that broadcasts against delta.
            memory: (S, N, ...) of the new kernel.
        """
        if isinstance(times, Tensor) or isinstance(self.std, Tensor):
            delta, times = times * delta, 1.0
        if isinstance(self.std, Tensor):
            if trust < math.inf:
                size = torch.linalg.vector_norm((delta / self.std).flatten(2), dim=-1)
                delta = delta * _like(share(trust, size), delta)
            return replace(self, mean=self.mean + delta, memory=memory)
        if self.is_dirac and trust < math.inf:
            return replace(self, memory=memory)
        size = row_norms(delta.flatten(2))
        if trust == math.inf:  # there may be no noise to measure it with
            factor = torch.full_like(size, times)
        else:
            factor = share(trust, size * (abs(times) / self.std)).mul_(times)
        mean = torch.addcmul(self.mean, delta, _like(factor, delta))
        moved = Gaussian(mean, self.std, memory, self.basis, self.along)
        shift = Shift(self, delta, factor, size, versions(self.mean, delta, mean))
        object.__setattr__(moved, "shift", shift)
        return moved

    def std_like(self, x: Tensor) -> Tensor:
        """`std` as a tensor with the particles of x (S, N, *E) that broadcasts against it."""
        if isinstance(self.std, Tensor):
            return self.std.expand_as(x)
        return x.new_full((*x.shape[:2], *[1] * (x.ndim - 2)), self.std)

    def noise_of(self, x: Tensor, which: slice) -> Tensor:
        """The z for which the particles `which` are sampled at x; 0 where there is no noise."""
        if self.is_dirac:
            return torch.zeros_like(x)
        std = self.std if isinstance(self.std, float) else self.std.expand_as(self.mean)[:, which]
        gap = x - self.mean[:, which]
        if self.basis is None or self.along is None:
            return gap / std
        return gap / self.std + _spread(self.basis, 1 / self.along - 1 / self.std, gap)

    def _shares_std(self, proposal: "Gaussian") -> bool:
        """Whether both have one S (known without looking at a tensor): the common case, which saves
        most of the arithmetic on tensors of the size of the states."""
        if isinstance(self.std, Tensor) or isinstance(proposal.std, Tensor):
            return self.std is proposal.std and proposal.basis is None
        return self.std == proposal.std and proposal.basis is None

    def log_ratio(self, proposal: "Gaussian", z: Tensor) -> Tensor:
        """log self(x) - log proposal(x) at x = proposal.sample(z), shape (S, N), float64.

        With r = std_q / std_p and d = (mean_q - mean_p) / std_p this is
        sum [ (1 - r^2) z^2 / 2 - r d z - d^2 / 2 + log r ]: no difference of two large quadratics,
        exact in float32 too, and exactly zero when the kernels agree. Where the proposal has a basis,
        self has one std for all directions, and B^T z, B^T d get the difference of two such sums.
        """
        return self.compared(proposal, z)[0]

    def compared(self, proposal: "Gaussian", z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_ratio(proposal, z)` and KL(proposal || self), (S, N) each. Where both have one S, the
        common case, they are -z.d - |d|^2 / 2 and |d|^2 / 2, in one pass."""
        # the model guides no deterministic step: both kernels are the same point
        if self.is_dirac or proposal is self:
            zero = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
            return zero, zero
        if not self._shares_std(proposal):
            return self._log_ratio_of_two_stds(proposal, z), proposal.kl(self)
        shift = proposal.shift
        if shift is not None and shift.leads(self, proposal.mean):
            length, along = shift.in_stds(z)
        else:
            d = (proposal.mean - self.mean).div_(self.std).flatten(2)
            length = row_norms(d)
            along = row_sums(d.mul_(z.flatten(2)))
        kl = length.double().square_().div_(2)
        return -(along.double() + kl), kl

    def _log_ratio_of_two_stds(self, proposal: "Gaussian", z: Tensor) -> Tensor:
        d = (proposal.mean - self.mean) / self.std
        r = _number(proposal.std / self.std, z)
        terms = (1 - r**2) / 2 * z**2 - d * (d / 2 + r * z) + torch.log(r)
        total = terms.flatten(2).sum(-1, dtype=torch.float64)
        if proposal.basis is None or proposal.along is None:
            return total
        z, d = z.flatten(2) @ proposal.basis, d.flatten(2) @ proposal.basis
        a = proposal.along / self.std
        terms = (r**2 - a**2) / 2 * z**2 + (r - a) * d * z + torch.log(a / r)
        return total + terms.sum(-1, dtype=torch.float64)

    def kl(self, base: "Gaussian") -> Tensor:
        """KL(self || base), |delta|^2 / (2 c^2) for equal standard deviations, shape (S, N)."""
        if base.is_dirac or base is self:
            return torch.zeros(self.mean.shape[:2], dtype=torch.float64, device=self.mean.device)
        if base._shares_std(self):
            return (self.mean - base.mean).div_(base.std).square_().flatten(2).sum(-1).double() / 2
        d = (self.mean - base.mean) / base.std
        r = _number(self.std / base.std, d)
        terms = (d**2 + r**2 - 1) / 2 - torch.log(r)
        total = terms.flatten(2).sum(-1, dtype=torch.float64)
        if self.along is None:
            return total
        a = self.along / base.std
        return total + ((a**2 - r**2) / 2 - torch.log(a / r)).sum(dtype=torch.float64)


def _like(a: Tensor, x: Tensor) -> Tensor:
    """Numbers (S, N) as they broadcast against x (S, N, *E)."""
    return a.reshape(*a.shape, *[1] * (x.ndim - 2))


def _number(a: float | Tensor, like: Tensor) -> Tensor:
    """A tensor where `like` is; made there, for a copy from the host would be waited for."""
    return a.to(like) if isinstance(a, Tensor) else like.new_full((), a)


def _spread(basis: Tensor, factor: Tensor, x: Tensor) -> Tensor:
    """B diag(factor) B^T x for x (S, N, *E)."""
    return ((x.flatten(2) @ basis * factor) @ basis.mT).reshape(x.shape)
