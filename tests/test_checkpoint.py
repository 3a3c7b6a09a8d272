"""Runs that are killed go on bit for bit; damaged, foreign and other runs' files are refused.

The file is also a program: it forks children that run a case, kills them, and says in JSON what came out.
"""

import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributions import LogNormal

import smcguide as sg
from smcguide import sealed
from smcguide.genealogy import Genealogy
from smcguide.identity import differences
from smcguide.loop import Plan, State
from smcguide.records import Particles
from smcguide.snapshot import Snapshot, pack, unpack
from smcguide.trace import step_info

F64 = torch.float64


def mixture(last=1.0):
    means = torch.tensor([[2.0, 0.0], [-1.0, last]], dtype=F64)
    return sg.priors.GaussianMixture(torch.tensor([0.3, 0.7]), means, scale=0.5)


PRIOR = mixture()  # keeps its rehearsal from one case to the next
Y = torch.tensor([0.5], dtype=F64)
COST = sg.costs.LinearGaussian(torch.tensor([[1.0, 0.5]], dtype=F64), Y, 0.3)
UNKNOWN = sg.costs.ParametricFunction(
    lambda x, scale: (x.sum(1) - 0.5).square() / scale.square() / 2 + scale.log(),
    {"scale": LogNormal(torch.tensor(-1.0).double(), torch.tensor(0.5).double())},
)
ADAPTIVE = sg.potentials.Tempered(sg.potentials.Tweedie(1.0), sg.potentials.Adaptive(0.9))
ALL = ("ancestors", "particles", "log_weights", "x0_hat", "paths")


class Walk(sg.FeynmanKac):
    num_steps, event_shape = 12, (1,)

    def __init__(self, data=0.0):
        self.data = torch.full((13,), data)

    def initial(self, shape, generator):
        return sg.Propagated(torch.randn(*shape, 1, generator=generator), torch.zeros(shape))

    def step(self, k, x, carry, generator):
        x = x + torch.randn(x.shape, generator=generator)
        return sg.Propagated(x, -((x[..., 0] - self.data[k]) ** 2))


def sampled(cost=COST, prior=PRIOR, **settings):
    return partial(sg.sample, prior, cost, **{"num_particles": 24, "num_steps": 12} | settings)


def digits(**settings):
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    return sg.sample(
        sg.priors.load("digits"), sg.costs.LinearGaussian(mask, torch.zeros(1, 8, 8), 0.5),
        kernel=sg.kernels.DDPM(), potential=sg.potentials.InflatedGaussian(0.1),  # no rehearsal
        num_particles=8, num_steps=8, **settings,
    )  # fmt: skip


CASES = {
    "default": sampled(seed=3),
    "rehearsed": lambda **settings: sampled(prior=mixture())(**settings),
    "DTM": sampled(proposal=sg.proposals.DTM(solver="adam", learning_rate=0.1, warm_start=True)),
    "adaptive": sampled(potential=ADAPTIVE, proposal=sg.proposals.Bootstrap(), num_systems=2),
    "moves": sampled(move=sg.moves.PCN()),
    "parameters": sampled(UNKNOWN, trigger=sg.triggers.ess_below(0.9)),
    "records": sampled(record=ALL, trigger=sg.triggers.ess_below(0.9)),
    "never": sampled(trigger=sg.triggers.never()),
    "always": sampled(trigger=sg.triggers.always(), resampler=sg.resamplers.Multinomial()),
    "candidates": sampled(wrap=partial(sg.Candidates, num=3)),
    "own model": partial(sg.run, Walk(), num_particles=24, num_systems=2, record=("paths",)),
    "digits": digits,
}


def content(post) -> dict:
    """Checksums of all that a result holds."""
    groups = {"trace": post.trace, "recorded": post.recorded, "parameters": post.parameters}
    tensors = {f"{g} {n}": a for g, named in groups.items() for n, a in named.items()}
    tensors |= {n: getattr(post, n) for n in ("x", "log_w", "eves", "log_z", "bound", "times")}
    out = {n: sealed.checksum({n: a.contiguous()}, str(a.shape)) for n, a in tensors.items()}
    out["evaluations"] = dict(post.evaluations)
    # children of one process have their functions at one address
    return out | {"settings": post.settings}


class StoppedError(Exception):
    pass


def stop_at(step):
    def watch(info):
        if info.step == step:
            raise StoppedError

    return watch


def stopped(case, path, step=8, every=3, **settings):
    """Begin a run and leave it after a step, with a checkpoint 6 and a previous one 3."""
    with pytest.raises(StoppedError) as error:
        case(checkpoint=path, checkpoint_every=every, progress=stop_at(step), **settings)
    return error.value


def resumed(case, path, **settings):
    return case(checkpoint=path, checkpoint_every=3, progress=False, **settings)


def step_of(path):
    return json.loads(sealed.read(Path(path))[1])["step"]


# ---- the program ---------------------------------------------------------------------------------


def fork(run) -> int:
    """A child that writes what `run()` returns, or dies."""
    if (child := os.fork()) == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def finish(case: str, path: Path, out: Path, pause=0.0, die_at=None) -> None:
    """In a child: run a case to its end; `die_at` is the call of os.replace or os.fsync that kills it."""
    if die_at is not None:
        calls = []

        def counted(call):
            def instead(*arguments):
                calls.append(call)
                if len(calls) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return instead

        os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    steps = []

    def watch(info):
        steps.append(info.step)
        time.sleep(pause)

    post = CASES[case](checkpoint=path, checkpoint_every=1, progress=watch)
    out.write_text(json.dumps([content(post), steps]))


def outcome(child: int) -> str:
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else ("done", "failed")[bool(os.WEXITSTATUS(status))]


def stamp(path: Path):
    try:
        return path.stat().st_ino, path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def kill_soon(child: int, path: Path, chance: random.Random) -> None:
    """Kill a run at a random moment after some more checkpoints, writing or not."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    for _ in range(chance.randint(1, 3)):
        before = stamp(path)
        while stamp(path) in (before, None) and os.waitid(os.P_PID, child, look) is None:
            time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.015))
    os.kill(child, signal.SIGKILL)


def kill_and_resume(case: str, folder: Path, kills: int) -> dict:
    path, out, chance = folder / "run.ckpt", folder / "out.json", random.Random(case)
    found: list[int] = []
    while True:
        child = fork(partial(finish, case, path, out, pause=0.005))
        if len(found) < kills:
            kill_soon(child, path, chance)
        if (end := outcome(child)) != "killed":
            break
        found += [step_of(p) for p in [path, Path(f"{path}.previous")] if p.exists()][:1]
    left = sorted(p.name for p in folder.iterdir())
    return {"end": end, "found": found, "left": left, "out": json.loads(out.read_text())}


def die_and_resume(case: str, folder: Path, calls: int) -> list:
    """A child dies at each of the calls that bring its checkpoints to the disk, another one goes on."""
    ends = []
    for n in range(1, calls + 1):
        (here := folder / str(n)).mkdir()
        path, out = here / "run.ckpt", here / "out.json"
        ends.append(outcome(fork(partial(finish, case, path, out, die_at=n))))
        ends.append(outcome(fork(partial(finish, case, path, out))))
        ends.append(json.loads(out.read_text()))
    return ends


def program(folder: Path) -> dict:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    CASES["digits"](progress=False, proposal=sg.proposals.Bootstrap())  # imports, for all children
    sg.rehearse(PRIOR)
    answers = {}
    for case in CASES:
        (here := folder / case).mkdir()
        assert outcome(fork(partial(finish, case, here / "a.ckpt", here / "whole.json"))) == "done"
        whole = json.loads((here / "whole.json").read_text())
        (here / "whole.json").unlink()
        answers[case] = {"whole": whole, "killed": kill_and_resume(case, here, 2)}
    return answers | {"died": die_and_resume("default", folder, 7)}


# ---- killed --------------------------------------------------------------------------------------


def test_killed_runs_end_bit_identical(tmp_path: Path) -> None:
    """At random moments, and at each call that brings the first two checkpoints to the disk: to the
    disk, aside (the second time), into place, its name to the disk."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(sg.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for case in CASES:
        whole, killed = answers[case]["whole"], answers[case]["killed"]
        assert killed["end"] == "done", case
        assert killed["found"], f"{case}: killed too late to say anything"
        assert killed["out"] == whole, case  # the numbers, and that every step was shown
        assert killed["left"] == ["out.json"], case
    died = answers["died"]
    assert died[0::3] == ["killed"] * 7
    assert died[1::3] == ["done"] * 7
    assert died[2::3] == [answers["default"]["whole"]] * 7


# ---- left and resumed in one process ---------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c != "digits"])
def test_a_run_that_was_left_ends_as_if_it_had_not_been(case: str, tmp_path: Path) -> None:
    run, path = CASES[case], tmp_path / "run.ckpt"
    whole = run(progress=False)
    stopped(run, path)
    assert step_of(path) == 6 and step_of(f"{path}.previous") == 3
    there = content(resumed(run, path))
    here = content(whole)
    for found in (there, here):  # the second run finds the rehearsal of the first
        found["settings"].pop("rehearsal_forward", None)
    assert there == here
    assert list(tmp_path.iterdir()) == []


def test_a_checkpointed_run_is_the_same_run(tmp_path: Path) -> None:
    run = CASES["records"]
    assert content(run(progress=False)) == content(resumed(run, tmp_path / "run.ckpt"))
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_computes_only_what_is_left_and_counts_all(tmp_path: Path) -> None:
    model = sg.model(PRIOR, COST, num_steps=12)
    run = partial(sg.run, model, num_particles=24)
    whole = run(progress=False)
    stopped(run, tmp_path / "run.ckpt")
    before = model.evaluations["network_forward"]
    post = resumed(run, str(tmp_path / "run.ckpt"))
    assert post.evaluations == whole.evaluations
    assert model.evaluations["network_forward"] - before == 24 * 5  # levels 7 to 11


def test_layouts_in_memory_survive() -> None:
    a = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    fields = {
        "permuted": a.permute(0, 2, 3, 1), "expanded": a[:, :1].expand(2, 3, 4, 5),
        "strided": a[..., ::2], "overlapping": torch.arange(9.0).unfold(0, 3, 1)[:6].view(2, 3, 3),
        "scalar": a[..., 0, 0], "flag": a > 0, "none": a[..., :0], "half": a.bfloat16(),
    }  # fmt: skip
    zero = torch.zeros(2, dtype=F64)
    particles = Particles(a, torch.zeros(2, 3).double(), torch.arange(3).expand(2, 3), fields)
    info = step_info(
        Walk(), 0, particles, zero, particles.eve, zero > 0,
        sg.Propagated(a, particles.log_w), ("particles",),
    )  # fmt: skip
    streams = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    state = State(0, particles, zero, *streams)
    plan = Plan((2, 3), sg.resamplers.Systematic(), sg.triggers.never(), 0)
    tensors, about = pack(Snapshot(state, [info], None, {"cost": 1}, {"seed": 0}))
    assert tensors["carry/expanded"].shape == (2, 1, 4, 5)
    back = unpack(tensors, json.loads(json.dumps(about)), plan, torch.device("cpu"))
    for name, was in fields.items():
        now = back.state.particles.carry[name]
        assert torch.equal(now, was) and now.dtype == was.dtype, name
        assert (now.stride() == was.stride()) == (name != "overlapping"), name
    assert torch.equal(back.trace[0].recorded["particles"], a)
    assert torch.equal(
        torch.rand(9, generator=back.state.noise), torch.rand(9, generator=streams[0])
    )


def test_a_tree_of_paths_goes_on_growing_as_it_would_have() -> None:
    trees = Genealogy(), Genealogy()
    plan = Plan((1, 4), sg.resamplers.Systematic(), sg.triggers.never(), 0, (), trees[1])
    source = torch.Generator().manual_seed(0)

    def grow(tree, k, ancestors):
        tree.insert({"x": torch.full((1, 4, 1), 1.0 * k)}, ancestors)

    grow(trees[0], 0, None)
    for k in range(1, 4):
        grow(trees[0], k, torch.randint(4, (1, 4), generator=source))
    x = torch.zeros(1, 4, 1)
    particles = Particles(x, x[..., 0].double(), torch.zeros(1, 4, dtype=torch.long))
    zero = torch.zeros(1, dtype=F64)
    moved = sg.Propagated(x, x[..., 0])
    info = step_info(Walk(), 0, particles, zero, particles.eve, zero > 0, moved, ())
    state = State(3, particles, zero, torch.Generator(), torch.Generator())
    unpack(*pack(Snapshot(state, [info], trees[0], {}, {})), plan, torch.device("cpu"))
    for k in range(4, 7):
        ancestors = torch.randint(4, (1, 4), generator=source)
        for tree in trees:
            grow(tree, k, ancestors)
    assert torch.equal(trees[0].paths()["x"], trees[1].paths()["x"])
    assert trees[0].size == trees[1].size


# ---- damaged, foreign, another run's ---------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def reword(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'step\\": 6', b'step\\": 5'))
    assert path.read_bytes() != data


DAMAGE = {
    "truncated": truncate,
    "a bit": flip,
    "a word": reword,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "other safetensors": lambda path: save_file({"x": torch.zeros(2)}, path),
    "other version": lambda path: save_file(
        {"x": torch.zeros(2)}, path, {"format": "smcguide checkpoint 0"}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_the_newest_is_damaged_the_one_before_it_is_used(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, path = CASES["default"], tmp_path / "run.ckpt"
    stopped(run, path)
    DAMAGE[damage](path)
    with pytest.warns(RuntimeWarning, match=r"run.ckpt' is no whole.*previous', step 3\."):
        error = stopped(run, path, step=7)  # a damaged file never takes the place of a whole one
    assert step_of(path) == 6 and step_of(f"{path}.previous") == 3 and error.__notes__
    DAMAGE[damage](path)
    with pytest.warns(RuntimeWarning, match="Going on from"):
        post = resumed(run, path)
    assert torch.equal(post.x, run(progress=False).x)
    assert list(tmp_path.iterdir()) == []


def test_where_both_are_damaged_the_error_names_both_and_nothing_is_overwritten(
    tmp_path: Path,
) -> None:
    run, path = CASES["default"], tmp_path / "run.ckpt"
    stopped(run, path)
    for damaged in (path, Path(f"{path}.previous")):
        truncate(damaged)
    sizes = [p.stat().st_size for p in sorted(tmp_path.iterdir())]
    with pytest.raises(
        sg.InvalidInput, match=r"run.ckpt' is no .*run.ckpt.previous' is no .*delete"
    ):
        resumed(run, path)
    assert [p.stat().st_size for p in sorted(tmp_path.iterdir())] == sizes


OTHERS = {
    "seed": sampled(seed=4),
    "num_particles": sampled(seed=3, num_particles=25),
    "num_systems": sampled(seed=3, num_systems=2),
    "num_steps": sampled(seed=3, num_steps=13),
    "levels": sampled(seed=3, num_steps=None, times=sg.grids.uniform(12)),
    "record": sampled(seed=3, record=("paths",)),
    "trigger": sampled(seed=3, trigger=sg.triggers.always()),
    "resampler": sampled(seed=3, resampler=sg.resamplers.Multinomial()),
    "proposal": sampled(seed=3, proposal=sg.proposals.Gradient(trust=3.0)),
    "the cost's values": sampled(
        sg.costs.LinearGaussian(torch.tensor([[1.0, 0.5]], dtype=F64), Y + 0.01, 0.3), seed=3
    ),
    "the prior's answers": sampled(prior=mixture(1.1), seed=3),
    "dtype": sampled(seed=3, dtype=torch.float32),
    "model": partial(sg.run, Walk(), num_particles=24, seed=3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_checkpoint_of_another_run_is_refused_with_what_differs(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.ckpt"
    stopped(CASES["default"], path)
    before = path.read_bytes()
    with pytest.raises(sg.InvalidInput, match=rf"another run: (.*; )?{name} \(.* there, .* here\)"):
        resumed(OTHERS[name], path)
    assert path.read_bytes() == before


def test_the_data_of_a_model_of_ones_own_are_compared(tmp_path: Path) -> None:
    stopped(partial(sg.run, Walk(), num_particles=8), tmp_path / "a")
    with pytest.raises(sg.InvalidInput, match=r"another run: the model's own numbers \("):
        resumed(partial(sg.run, Walk(0.1), num_particles=8), tmp_path / "a")


def test_answers_are_compared_up_to_rounding() -> None:
    def differ(one, two):
        return bool(differences({"a": one}, {"a": two}))

    inf, nan = float("inf"), float("nan")
    assert not differ([100.0, 1e-9, inf, nan], [100.0001, -1e-6, inf, nan])
    assert differ([1.0, 0.0], [1.0, 0.001]) and differ([1.0], [1.0, 1.0]) and differ([1.0], None)
    assert differ([1.0, inf], [1.0, -inf]) and differ([1.0, nan], [1.0, 1.0])
    assert differ(["paths"], []) and not differ([], []) and not differ([8, 8], [8, 8])


def test_a_function_at_another_address_is_the_same_function(tmp_path: Path) -> None:
    def build():
        return sampled(lambda x: x.square().sum(1))

    stopped(build(), tmp_path / "a")
    assert torch.equal(resumed(build(), tmp_path / "a").x, build()(progress=False).x)


# ---- trouble -------------------------------------------------------------------------------------


class Untouched(sg.priors.GaussianMixture):
    """A prior that must not be asked."""

    def denoise(self, x, t):
        raise AssertionError("a network call")


UNTOUCHED = Untouched(torch.ones(1), torch.zeros(1, 2), scale=1.0)


@pytest.mark.parametrize(
    ("where", "every", "message"),
    [
        ("missing/run.ckpt", 10, "cannot be written: .*No such file.*folder that exists"),
        ("", 10, "cannot be written: it is a folder"),
        ("run.ckpt", 0, "checkpoint_every must be a whole number"),
        ("run.ckpt", 2.5, "checkpoint_every must be a whole number"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_first_network_call(
    where: str, every: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(sg.InvalidInput, match=message):
        sg.sample(UNTOUCHED, COST, checkpoint=tmp_path / where, checkpoint_every=every)
    with pytest.raises(sg.InvalidInput, match="must be the path of a file"):
        sg.sample(UNTOUCHED, COST, checkpoint=3)


def test_a_disk_without_room_is_said_before_the_run(tmp_path: Path) -> None:
    run = partial(sg.run, Walk(), num_particles=10**15)
    with pytest.raises(sg.InvalidInput, match=r"needs at least 1.2e\+16 bytes"):
        run(checkpoint=tmp_path / "run.ckpt")


def test_a_disk_that_becomes_full_costs_the_checkpoint_and_not_the_run(tmp_path: Path) -> None:
    run, path = CASES["default"], tmp_path / "run.ckpt"
    stopped(run, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.warns(
            RuntimeWarning, match=r"step 9 could not .* goes on with the one of step 6"
        ):
            stopped(run, path, step=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.ckpt", "run.ckpt.previous"]
    assert torch.equal(resumed(run, path).x, run(progress=False).x)


def test_degenerate_weights_leave_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"

    class Breaks(Walk):
        def step(self, k, x, carry, generator):
            moved = super().step(k, x, carry, generator)
            return sg.Propagated(moved.x, moved.log_g * (torch.nan if k == 8 else 1.0))

    for _ in range(2):  # and again from there, with the whole trace
        with pytest.raises(sg.DegenerateWeights, match="at step 9") as error:
            resumed(partial(sg.run, Breaks(), num_particles=8), path)
        assert step_of(path) == 6
        assert [info.step for info in error.value.trace] == list(range(10))
        assert "holds the run after step 6" in error.value.__notes__[0]


def test_an_interrupted_run_says_where_it_stands(tmp_path: Path) -> None:
    def interrupt(info):
        if info.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        CASES["default"](checkpoint=tmp_path / "a", checkpoint_every=2, progress=interrupt)
    (note,) = error.value.__notes__
    assert str(tmp_path / "a") in note and "after step 4; the same call goes on" in note


def test_without_safetensors_the_error_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(sg.MissingExtra, match=r"'safetensors'.*smcguide\[checkpoint\]"):
        sg.sample(UNTOUCHED, COST, checkpoint=tmp_path / "a")


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    import numpy as np

    run = sampled(num_particles=np.int64(8), seed=np.int64(3), num_systems=np.int64(2))
    stopped(run, tmp_path / "a", every=np.int64(3))
    assert torch.equal(resumed(run, tmp_path / "a").x, run(progress=False).x)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(program(Path(sys.argv[1]))))
