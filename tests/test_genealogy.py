"""The pruned tree of ancestors: its paths are those of the whole history, its size is not."""

import math

import pytest
import torch

from smcguide import InvalidInput
from smcguide.genealogy import Genealogy
from smcguide.testing import generator

F64 = torch.float64
SIZES = [(1, 1), (1, 7), (3, 2), (4, 16), (2, 64)]


def history(S, N, T, stream, quiet=0.0):
    """Fields and ancestors of T generations of random selection; a share `quiet` of the generations
    selects nothing, and one lets a single particle survive."""
    rng = generator(stream)
    fields, ancestors = [], []
    for k in range(T):
        state = torch.randn(S, N, 2, 3, generator=rng, dtype=F64)
        label = torch.randint(0, 1000, (S, N), generator=rng)
        fields.append({"x": state, "label": label})
        chosen = torch.randint(0, N, (S, N), generator=rng)
        if float(torch.rand(1, generator=rng)) < quiet:
            chosen = torch.arange(N).expand(S, N)
        ancestors.append(chosen[:, :1].expand(S, N) if k == T // 2 else chosen)
    return fields, ancestors


def grown(fields, ancestors, kind=Genealogy):
    tree = kind()
    for k, (here, chosen) in enumerate(zip(fields, ancestors, strict=True)):
        tree.insert(here, chosen if k else None)
    return tree


def traced(fields, ancestors, name):
    """Paths (S, N, T, ...) through the stored history, one particle after the other."""
    S, N = ancestors[0].shape
    paths = []
    for s in range(S):
        for i in range(N):
            line, j = [], i
            for k in range(len(fields) - 1, -1, -1):
                line.append(fields[k][name][s, j])
                j = int(ancestors[k][s, j])
            paths.append(torch.stack(line[::-1]))
    return torch.stack(paths).unflatten(0, (S, N))


def same_paths(S, N, kind=Genealogy, T=21, quiet=0.3):
    fields, ancestors = history(S, N, T, f"history {S} {N}", quiet)
    tree = grown(fields, ancestors, kind)
    paths = tree.paths()
    assert paths.keys() == {"x", "label"} and tree.generations == T
    index = torch.randint(0, N, (S,), generator=generator(f"which {S} {N}"))
    for name, a in paths.items():
        truth = traced(fields, ancestors, name)
        assert torch.equal(a, truth) and a.dtype == fields[0][name].dtype
        assert torch.equal(tree.path_of(index)[name], truth[torch.arange(S), index])


@pytest.mark.parametrize(("S", "N"), SIZES)
def test_paths_are_those_of_the_whole_history(S, N):
    same_paths(S, N)


def test_a_tree_of_one_generation_and_one_that_never_selects():
    same_paths(2, 5, T=1)
    fields, ancestors = history(2, 5, 30, "quiet", quiet=1.0)
    ancestors[15] = torch.arange(5).expand(2, 5)
    tree = grown(fields, ancestors)
    assert tree.size == 2 * 5 * 30  # nothing died
    assert torch.equal(tree.paths()["x"], torch.stack([f["x"] for f in fields], 2))


def test_only_the_living_lines_are_kept():
    """The nodes are the distinct (generation, particle) on the paths, no more and no fewer."""
    fields, ancestors = history(3, 8, 25, "lines", quiet=0.2)
    tree = grown(fields, ancestors)
    index, kept = torch.arange(8).expand(3, 8), 0
    for chosen in reversed(ancestors):
        kept += sum(len(row.unique()) for row in index)
        index = chosen.gather(1, index)
    assert tree.size == kept < 3 * 8 * 25 / 2


def test_the_tree_keeps_copies_without_a_graph():
    x = torch.ones(1, 2, 1, dtype=F64, requires_grad=True)
    tree = Genealogy()
    tree.insert({"x": x}, None)
    tree.insert({"x": 2 * x}, torch.tensor([[0, 0]]))
    with torch.no_grad():
        x.fill_(7.0)
    path = tree.paths()["x"]
    assert not path.requires_grad and path[0, 0, :, 0].tolist() == [1.0, 2.0]


def stays_small(kind=Genealogy, S=3, N=64, T=400):
    """Multinomial resampling at every step: T + c N log N nodes a system, with c about 2 for equal
    weights; the rows of the pool at most double that."""
    rng, tree, most = generator("long"), kind(), 0
    for k in range(T):
        x = torch.randn(S, N, 1, generator=rng)
        tree.insert({"x": x}, torch.randint(0, N, (S, N), generator=rng) if k else None)
        most = max(most, tree.size)
    bound = T + 4 * N * math.log(N)
    assert most / S < bound, f"{most / S:.0f} nodes a system, bound {bound:.0f}"
    assert len(tree._fields["x"]) / S < 2 * bound
    assert bound < N * T / 15  # the whole history is far above


def test_memory_grows_like_T_plus_N_log_N():
    stays_small()


# ---- what these tests catch ----------------------------------------------------------------------


class KeepsTheChildless(Genealogy):
    """A freed node does not tell its parent."""

    def _prune(self):
        self._free = torch.cat([self._free, self.leaves[self._children[self.leaves] == 0]])


class FreesTheFertile(Genealogy):
    """A freed node takes its parent along, whether or not that has other children."""

    def _prune(self):
        dead = self.leaves[self._children[self.leaves] == 0]
        up = self._parent[dead].unique()
        self._free = torch.cat([self._free, dead, up[up >= 0]])


class MixesSystems(Genealogy):
    """Ancestors are looked up among the leaves of another system."""

    def _parents(self, ancestors):
        return self.leaves.roll(1, 0).gather(1, ancestors)


def test_the_planted_bugs_are_caught():
    same_paths(4, 16, KeepsTheChildless)  # wasteful only
    with pytest.raises(AssertionError, match="nodes a system"):
        stays_small(KeepsTheChildless)
    for kind in (FreesTheFertile, MixesSystems):
        with pytest.raises(AssertionError):
            same_paths(4, 16, kind)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "ancestors", "match"),
    [
        ({"x": torch.zeros(2, 3, 1)}, None, "first generation"),
        ({"x": torch.zeros(2, 3, 2)}, torch.zeros(2, 3).long(), "expected fields"),
        ({"x": torch.zeros(2, 4, 1)}, torch.zeros(2, 4).long(), "expected fields"),
        ({"y": torch.zeros(2, 3, 1)}, torch.zeros(2, 3).long(), "expected fields"),
        ({"x": torch.zeros(2, 3, 1)}, torch.zeros(3).long(), "expected fields"),
    ],
)
def test_a_generation_that_does_not_fit_is_refused(fields, ancestors, match):
    tree = Genealogy()
    tree.insert({"x": torch.zeros(2, 3, 1)}, None)
    with pytest.raises(InvalidInput, match=match):
        tree.insert(fields, ancestors)
    assert tree.generations == 1 and tree.size == 6


@pytest.mark.parametrize(
    "fields", [{}, {"x": torch.zeros(3)}, {"x": torch.zeros(2, 3), "y": torch.zeros(2, 4)}]
)
def test_a_first_generation_without_one_population_is_refused(fields):
    with pytest.raises(InvalidInput, match="same S and N"):
        Genealogy().insert(fields, None)
    with pytest.raises(InvalidInput, match="first generation"):
        Genealogy().insert({"x": torch.zeros(2, 3)}, torch.zeros(2, 3).long())
