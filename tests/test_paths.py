"""Ancestral paths of a run, kept on request."""

import pytest
import torch
from test_exactness import build

import smcguide as sg

F64 = torch.float64


def by_hand(recorded):
    """Paths (S, K + 1, N, *E) from the whole history."""
    x, ancestors = recorded["particles"], recorded["ancestors"]
    S, K, N = ancestors.shape
    systems = torch.arange(S)[:, None]
    index = torch.arange(N).expand(S, N)
    out = []
    for k in reversed(range(K)):
        out.append(x[systems, k, index])
        index = ancestors[systems, k, index]
    return torch.stack(out[::-1], 1)


@pytest.mark.parametrize("trigger", [sg.triggers.always(), sg.triggers.ess_below(0.8)], ids=repr)
def test_paths_are_traced_back_through_the_ancestors(trigger) -> None:
    post = sg.run(
        build(sg.proposals.Gradient()), num_particles=40, num_systems=3, trigger=trigger,
        record=("particles", "ancestors", "paths"), progress=False,
    )  # fmt: skip
    paths = post.recorded["paths"]
    assert paths.shape == (3, 5, 40, 2)
    assert torch.equal(paths, by_hand(post.recorded))
    assert torch.equal(paths[:, -1], post.x)


def test_paths_hold_the_moved_states() -> None:
    """With moves the path goes through where a particle went on from, not where it had arrived."""
    post = sg.run(
        build(move=sg.moves.PCN(every_step=True)), num_particles=40,
        record=("particles", "ancestors", "paths"), progress=False,
    )  # fmt: skip
    paths, arrived = post.recorded["paths"], by_hand(post.recorded)
    assert torch.equal(paths[:, -1], arrived[:, -1])
    assert not torch.equal(paths[:, 1], arrived[:, 1])


def test_recording_paths_changes_nothing_else() -> None:
    plain = sg.run(build(), num_particles=20, progress=False)
    kept = sg.run(build(), num_particles=20, record=("paths",), progress=False)
    assert torch.equal(plain.x, kept.x)
    assert set(kept.recorded) == {"paths"}


def test_paths_are_saved_and_loaded(tmp_path) -> None:
    post = sg.run(build(), num_particles=20, record=("paths",), progress=False)
    post.save(tmp_path / "run.nc")
    again = sg.Posterior.load(tmp_path / "run.nc")
    assert torch.equal(again.recorded["paths"], post.recorded["paths"])
    assert again.exactness == post.exactness == "exact"


def test_iterate_has_no_paths() -> None:
    with pytest.raises(sg.InvalidInput, match="paths"):
        sg.iterate(build(), record=("paths",))
