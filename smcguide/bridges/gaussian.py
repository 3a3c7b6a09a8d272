r"""Programs whose data are normal, y = F(x) + s n with s independent of x, as Gaussian likelihoods, for
which there are better values than for any other cost; with a matrix where F is affine.

Found out by asking the program, near its prior's draws and at radii up to a thousand times theirs, so
that a detector which saturates is not taken for a linear one. A matrix is compared with F at all probes,
within what rounding explains, eps (|A| |x| + |F(0)|) for each number; s must be the same at all of them.
"""

import torch
from torch import Generator, Tensor

from smcguide.bridges.layout import Layout, log_choices
from smcguide.bridges.program import Program
from smcguide.costs.gaussian import GaussianLikelihood, LinearGaussian

_LARGEST = 2**22  # entries of a matrix
_RADII = (1.0, 10.0, 100.0, 1000.0)
_NEAR = 6  # probes where likelihoods do not overflow
_FEW, _MANY = 64.0, 1e3  # units in the last place: of one number, of sums of many


class ProgramGaussian(GaussianLikelihood):
    """A program's observations that are normal."""

    layout: Layout

    def check(self, event_shape: tuple[int, ...], like: Tensor) -> None:
        self.layout.check(event_shape)
        super().check(event_shape, like)


class ProgramLinear(ProgramGaussian, LinearGaussian):
    """The same, affine in the prior's event."""


class _Normals:
    """Means and standard deviations (M, m) float64 of all data, given x (M, *E); None where some of them
    are not plain normals."""

    def __init__(self, program: Program, layout: Layout, theta: Tensor) -> None:
        self.program, self.layout, self.theta = program, layout, theta

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        # a program that is looped over may branch: each particle by itself
        found = [self._ask(part) for part in x.split(1 if self.program.loop_reason else len(x))]
        known = [both for both in found if both is not None]
        if len(known) < len(found):
            return None
        return torch.cat([mean for mean, _ in known]), torch.cat([std for _, std in known])

    def _ask(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        program, M = self.program, len(x)
        rest = self.theta.expand(M, -1), program.choices.expand(M, -1)
        found = program.normals(self.layout.sites_of(x, program), *rest)
        if found is None:
            return None
        names = program.observed
        mean, std = (torch.cat([found[n][i].reshape(M, -1) for n in names], 1) for i in (0, 1))
        return mean.double(), std.double()

    def means(self, x: Tensor) -> Tensor:
        """(M, m); differentiable."""
        both = self(x)
        return x.new_zeros(0) if both is None else both[0].to(x.device)


@torch.no_grad()
def as_gaussian(program: Program, layout: Layout, theta: Tensor) -> ProgramGaussian | None:
    """The observations given parameters theta (p,) as a Gaussian likelihood; None where they are not."""
    if len(program.choices) > 1 or not program.observed:
        return None
    y = torch.cat([value.flatten() for value in program.observed.values()]).double()
    ask, x = _Normals(program, layout, theta), _probes(program, layout)
    found = ask(x)
    if found is None or not bool(y.isfinite().all()):
        return None
    (mean, std), eps = found, torch.finfo(x.dtype).eps
    is_constant = (std - std[0]).abs() <= _FEW * eps * std[0]
    if not bool((is_constant & (std[0] > 0) & std[0].isfinite()).all()):
        return None
    matrix = _matrix(ask, x, mean)
    if matrix is not None:
        cost: ProgramGaussian = ProgramLinear(matrix, y - mean[0], std[0])
    elif program.loop_reason is None:
        cost = ProgramGaussian(ask.means, y, std[0])
    else:  # elsewhere it may branch to what is not normal
        return None
    cost.layout = layout
    near, close = x[:_NEAR], _MANY * eps
    says = log_choices(program, layout.sites_of(near, program), theta.expand(len(near), -1))[:, 0]
    same = torch.allclose(-cost(near[:, None])[:, 0], says, close, close, equal_nan=True)
    return cost if same else None


def _probes(program: Program, layout: Layout) -> Tensor:
    """0, a, b and 2 a - b, then a draw of the prior, the same plus a, and points at all radii."""
    source = Generator().manual_seed(0)
    draw = torch.cat([program.example[name].flatten() for name in layout.sites])
    z = torch.randn(4 * len(_RADII), len(draw), generator=source, dtype=draw.dtype)
    unit = float(draw.abs().max().clamp(min=1.0))
    radii = unit * torch.tensor(_RADII, dtype=draw.dtype).repeat(2)[:, None]
    a, b = unit * z[0], unit * z[1]
    near = torch.stack([torch.zeros_like(a), a, b, 2 * a - b, draw, draw + z[2]])
    far = radii * z[-len(radii) :]
    return torch.cat([near, far, -far]).reshape(-1, *layout.event_shape)


def _matrix(ask: _Normals, x: Tensor, mean: Tensor) -> Tensor | None:
    """(m, d) float64 if the means (M, m) at the probes are affine in them."""
    flat, eps = x.flatten(1).double(), torch.finfo(x.dtype).eps
    bend = 2 * mean[1] - mean[2] - mean[3]
    is_straight = bool((bend.abs() <= _MANY * eps * mean[:4].abs().max()).all())
    if not is_straight or flat.shape[1] * mean.shape[1] > _LARGEST:
        return None
    step = x.abs().max()  # the offset's rounding is small beside it
    basis = step * torch.eye(flat.shape[1], dtype=x.dtype)
    columns = ask(basis.reshape(-1, *x.shape[1:]))
    if columns is None:
        return None
    matrix = ((columns[0] - mean[0]) / step.double()).T
    error = (mean - mean[0] - flat @ matrix.T).abs()
    rounding = flat.abs() @ matrix.abs().T + mean[0].abs()
    return matrix if bool((error <= _FEW * eps * rounding).all()) else None
