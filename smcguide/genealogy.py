r"""Genealogy of a run: the ancestral paths of the living particles, without the extinct branches.

The nodes of the tree lie in a pool; each knows its states, the slot of its parent and its number of
children. A new generation gives the leaves their children. A leaf that got none is freed, its parent
has one child less, and so on upwards while a parent is left without children. The new generation
fills the freed slots. All systems share one pool, and one generation is a few index operations.

When every step resamples, the expected number of nodes is at most K + c N log N per system, against
(K + 1) N for the whole history; c depends on how uneven the weights are. A generation without
resampling ends no branch and adds N.

Reference: Jacob, Murray, Rubenthaler, "Path storage in the particle filter" (arXiv 1307.3180).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from smcguide.errors import InvalidInput

_ROOT = -1  # the parent of the first generation


class Genealogy:
    """The tree of a population of S systems with N particles each, grown one generation at a time.

    Its states live where they are given: move them to the host before `insert` to spare the device.
    A generation waits for the device, since memory follows from what died.

    Attributes:
        generations: number of generations inserted.
        leaves: (S, N) slots of the youngest generation.
    """

    def __init__(self) -> None:
        self.generations = 0
        self.leaves = torch.empty(0, 0, dtype=torch.long)
        self._fields: dict[str, Tensor] = {}
        self._parent = torch.empty(0, dtype=torch.long)
        self._children = torch.empty(0, dtype=torch.long)
        self._free = torch.empty(0, dtype=torch.long)

    @property
    def size(self) -> int:
        """Number of nodes kept, of all systems together."""
        return len(self._parent) - len(self._free)

    def insert(self, fields: Mapping[str, Tensor], ancestors: Tensor | None) -> None:
        """Add a generation.

        Arguments:
            fields: name -> (S, N, ...) what to keep of each particle; the same names, shapes and dtypes
                in every generation, one name at least. Copied, without a graph.
            ancestors: (S, N) indices into the generation before, each system in its own; None for the
                first generation.

        Raises:
            InvalidInput: where fields or ancestors do not fit the generations before.
        """
        self._check(fields, ancestors)
        if ancestors is None:
            first = next(iter(fields.values()))
            self._start(fields, first)
            parents = torch.full(first.shape[:2], _ROOT, device=first.device)
        else:
            parents = self._parents(ancestors)
            self._add_children(parents, 1)
            self._prune()
        slots = self._take(parents.numel())
        for name, a in fields.items():
            self._fields[name][slots] = a.detach().flatten(0, 1)
        self._parent[slots], self._children[slots] = parents.flatten(), 0
        self.leaves = slots.view(parents.shape)
        self.generations += 1

    def paths(self) -> dict[str, Tensor]:
        """The ancestral path of every particle of the youngest generation, name -> (S, N, K + 1, ...)
        with the oldest state first, K + 1 generations."""
        return self._along(self.leaves)

    def path_of(self, index: Tensor) -> dict[str, Tensor]:
        """The ancestral path of particle `index` (S,) of each system, name -> (S, K + 1, ...)."""
        return self._along(self._parents(index[:, None])[:, 0])

    def _along(self, slot: Tensor) -> dict[str, Tensor]:
        """States on the way from the root to the nodes `slot`, generations behind the axes of `slot`."""
        line = [slot]
        for _ in range(self.generations - 1):
            line.append(self._parent[line[-1]])
        slots = torch.stack(line[::-1], -1)
        return {name: a[slots] for name, a in self._fields.items()}

    def _start(self, fields: Mapping[str, Tensor], like: Tensor) -> None:
        """Empty pools for such fields, on their device."""
        self._fields = {n: a.detach().new_empty(0, *a.shape[2:]) for n, a in fields.items()}
        self._parent, self._children, self._free = (
            torch.empty(0, dtype=torch.long, device=like.device) for _ in range(3)
        )

    def _parents(self, ancestors: Tensor) -> Tensor:
        """Slots (S, M) of the particles `ancestors` (S, M) of the youngest generation."""
        return self.leaves.gather(1, ancestors.to(self.leaves.device))

    def _add_children(self, slots: Tensor, number: int) -> None:
        """`number` children more for each mention of a slot."""
        slots = slots.flatten()
        self._children.index_add_(0, slots, torch.full_like(slots, number))

    def _prune(self) -> None:
        """Free the leaves without children and, level by level, the parents that this leaves without."""
        dead = self.leaves[self._children[self.leaves] == 0]
        while len(dead) > 0:
            self._free = torch.cat([self._free, dead])
            up = self._parent[dead]
            up = up[up != _ROOT]
            self._add_children(up, -1)
            dead = up[self._children[up] == 0].unique()

    def _take(self, number: int) -> Tensor:
        """Slots (number,) that were free; the pool doubles where there are too few."""
        size, missing = len(self._parent), number - len(self._free)
        if missing > 0:
            more = max(size, missing)
            self._fields = {name: _longer(a, more) for name, a in self._fields.items()}
            self._parent, self._children = (
                _longer(self._parent, more),
                _longer(self._children, more),
            )
            new = torch.arange(size, size + more, device=self._free.device)
            self._free = torch.cat([self._free, new])
        slots, self._free = self._free[:number], self._free[number:]
        return slots

    def _check(self, fields: Mapping[str, Tensor], ancestors: Tensor | None) -> None:
        given = {name: tuple(a.shape) for name, a in fields.items()}
        if (ancestors is None) != (self.generations == 0):
            raise InvalidInput(
                "Genealogy.insert: the first generation has no ancestors (None) and every other one has; "
                f"got {'None' if ancestors is None else 'ancestors'} for number {self.generations}."
            )
        if ancestors is None:
            first = {shape[:2] for shape in given.values()}
            if len(first) != 1 or len(first.pop()) < 2:
                raise InvalidInput(
                    "Genealogy.insert: fields must be tensors (S, N, ...), one at least, with the same S "
                    f"and N; got {given}."
                )
            return
        shape = tuple(self.leaves.shape)
        expected = {name: (*shape, *a.shape[1:]) for name, a in self._fields.items()}
        if given != expected or tuple(ancestors.shape) != shape:
            raise InvalidInput(
                f"Genealogy.insert: expected fields {expected} and ancestors {shape} as in the "
                f"generation before, got {given} and {tuple(ancestors.shape)}."
            )


def _longer(a: Tensor, more: int) -> Tensor:
    """The pool `a` with `more` spare rows."""
    return torch.cat([a, a.new_empty(more, *a.shape[1:])])
