r"""Programs whose data are normal, y = F(x) + s n with s independent of x, as Gaussian likelihoods, for
which there are better values than for any other cost; with a matrix where F is affine.

Found out by asking the program, and used only where the likelihood is the program's own.
"""

import torch
from torch import Generator, Tensor

from smcguide.bridges.layout import Layout, log_choices
from smcguide.bridges.program import Program
from smcguide.costs.gaussian import GaussianLikelihood, LinearGaussian

_LARGEST = 2**22  # entries of a matrix
_ROUNDING = 1e3  # in units of the dtype


@torch.no_grad()
def as_gaussian(program: Program, layout: Layout, theta: Tensor) -> GaussianLikelihood | None:
    """The observations given parameters theta (p,) as a Gaussian likelihood; None where they are not."""
    if len(program.choices) > 1 or not program.observed:
        return None
    names = list(program.observed)

    def normals(x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Means and standard deviations (M, m) float64 of all data."""
        each = theta.expand(len(x), -1), program.choices.expand(len(x), -1)
        found = program.normals(layout.sites_of(x, program), *each)
        if found is None:
            return None
        mean, std = (torch.cat([found[n][i].flatten(1) for n in names], 1) for i in (0, 1))
        return mean.double(), std.double()

    dtype = next(iter(program.example.values())).dtype
    x = torch.randn(3, *layout.event_shape, generator=Generator().manual_seed(0), dtype=dtype)
    x = torch.stack([torch.zeros_like(x[0]), x[0], x[1], 2 * x[0] - x[1]])
    found = normals(x)
    if found is None:
        return None
    (mean, std), rounding = found, _ROUNDING * torch.finfo(dtype).eps
    y = torch.cat([program.observed[name].flatten() for name in names]).double()
    fits = bool(torch.isfinite(y).all()) and torch.allclose(std, std[:1].expand_as(std), rounding)
    if not fits:
        return None

    def forward(x: Tensor) -> Tensor:
        both = normals(x)
        return x.new_zeros(0) if both is None else both[0]

    cost: GaussianLikelihood = GaussianLikelihood(forward, y, std[0])
    size = torch.Size(layout.event_shape).numel()
    straight = 2 * mean[1] - mean[2] - mean[3]
    if size * len(y) <= _LARGEST and bool((straight.abs() <= rounding * mean.abs().max()).all()):
        basis = torch.eye(size, dtype=dtype).reshape(size, *layout.event_shape)
        matrix = (forward(basis) - mean[0]).T
        cost = LinearGaussian(matrix, y - mean[0], std[0])
    each = theta.expand(4, -1)
    program_says = log_choices(program, layout.sites_of(x, program), each)[:, 0]
    same = torch.allclose(-cost(x[:, None])[:, 0], program_says, rounding, rounding)
    return cost if same else None
