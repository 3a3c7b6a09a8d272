"""How the sites of a program with diffusion priors make one event: several sites, or a site in a plate,
have a joint prior."""

from collections.abc import Mapping
from itertools import chain, repeat

import torch
from torch import Tensor

from smcguide.bridges.program import PriorSite, Program
from smcguide.errors import InvalidInput
from smcguide.priors.base import Prior
from smcguide.priors.joint import JointPrior


class Layout:
    """How events of one prior hold the values of all sites.

    Arguments:
        sites: name -> site.
    """

    def __init__(self, sites: Mapping[str, PriorSite]) -> None:
        self.sites = dict(sites)
        self.is_single = [site.batch_shape for site in sites.values()] == [()]
        copies = [repeat(s.prior, torch.Size(s.batch_shape).numel()) for s in sites.values()]
        members = list(chain.from_iterable(copies))
        known = [prior for prior in members if prior is not None]
        self.prior: Prior | None = None
        if len(known) == len(members):
            self.prior = known[0] if self.is_single else JointPrior(known)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        shapes = [torch.Size(site.shape) for site in self.sites.values()]
        return tuple(shapes[0]) if self.is_single else (sum(s.numel() for s in shapes),)

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise InvalidInput unless events of a prior have the sites' shapes."""
        if tuple(event_shape) != self.event_shape:
            sites = {name: tuple(site.shape) for name, site in self.sites.items()}
            raise InvalidInput(
                f"The program's latents {sites} make events of shape {self.event_shape}; those of the "
                f"prior have {tuple(event_shape)}."
            )

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """Events (M, *E) as site -> (M, *shape)."""
        shapes = [torch.Size(site.shape) for site in self.sites.values()]
        parts = x.flatten(1).split([shape.numel() for shape in shapes], 1)
        named = zip(self.sites, parts, shapes, strict=True)
        return {name: part.reshape(len(x), *shape) for name, part, shape in named}

    def sites_of(self, x: Tensor, program: Program) -> dict[str, Tensor]:
        """`split`, in the dtypes and on the device that the program has at its sites."""
        return {name: a.to(program.example[name]) for name, a in self.split(x).items()}


def log_choices(program: Program, x: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    """log p(j | x, theta) p(y | x, theta, j), (M, J), for each joint value j of the discrete ones."""
    J, M = len(program.choices), len(theta)
    each = {name: a.repeat_interleave(J, 0) for name, a in x.items()}
    probs = program.log_probs(
        each, theta.repeat_interleave(J, 0), program.choices.to(theta.device).repeat(M, 1)
    )
    return (probs.choice + probs.observed).reshape(M, J)
