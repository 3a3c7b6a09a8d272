"""What each process of tests/test_distributed.py runs:

torchrun --nproc-per-node R tests/distributed_worker.py JOB FOLDER

Each answer is a file in the folder, those of a single process NAME-RANK.pt.
"""

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

import smcguide as sg
from smcguide.distributed import Islands, Sharded, join, run, run_systems
from smcguide.distributed.assignment import moves
from smcguide.distributed.sharded import carry_out
from smcguide.records import Particles
from smcguide.testing import generator, seed

F64 = torch.float64
MEAN = torch.tensor([0.5, -1.0], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=F64)
A, Y, STD = torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([1.2], dtype=F64), 0.3
SYSTEMS, PARTICLES = 400, 32
ADAPTIVE = sg.potentials.Adaptive(0.9)


def gaussian(**parts):
    """A model whose evidence is known, with much to resample."""
    prior = sg.priors.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE[None])
    cost = sg.costs.LinearGaussian(A, Y, STD)
    chosen = {"proposal": sg.proposals.Bootstrap(), "potential": sg.potentials.Tweedie()} | parts
    return sg.model(prior, cost, num_steps=6, kernel=sg.kernels.DDIM(1.0), **chosen)


class Walk(sg.FeynmanKac):
    """Weights that go wrong after 3 transitions in the last process, in system 1."""

    num_steps, event_shape = 5, (1,)

    def __init__(self, world, wrong):
        self.world, self.wrong = world, wrong

    def initial(self, shape, generator):
        x = torch.randn(*shape, 1, generator=generator, dtype=F64)
        return sg.Propagated(x, -(x[..., 0] ** 2))

    def step(self, k, x, carry, generator):
        x = x + torch.randn(x.shape, generator=generator, dtype=F64)
        log_g = -(x[..., 0] ** 2)
        if k == 2:
            self.wrong(self.world, log_g)
        return sg.Propagated(x, log_g)


def nan(world, log_g):
    if world.rank == world.size - 1:
        log_g[1, 2] = torch.nan


def all_dead(world, log_g):
    log_g[1] = -torch.inf


def one_dead(world, log_g):
    if world.rank == world.size - 1:
        log_g[1] = -torch.inf


def broken(world, log_g):
    if world.rank == world.size - 1:
        raise ValueError("the simulator of this process broke")


def keep(folder, name, post):
    """In the first process; the others get nothing."""
    assert (post is None) == (join().rank > 0)
    if post is None:
        return
    kept = {
        "log_z": post.log_z, "mean": post.expect(lambda x: x), "settings": dict(post.settings),
        "evaluations": post.evaluations, "trace": post.trace, "recorded": dict(post.recorded),
        "log_w": post.log_w, "x": post.x, "eves": post.eves, "bound": post.bound,
    }  # fmt: skip
    torch.save(kept, folder / f"{name}.pt")


def population(source, S=3, N=24):
    """Particles with fields of many kinds; the same everywhere."""
    x = torch.randn(S, N, 2, 3, generator=source)
    carry = {
        "wide": torch.randn(S, N, 5, generator=source, dtype=F64),
        "flag": torch.rand(S, N, generator=source) < 0.5,
        "count": torch.randint(9, (S, N, 1), generator=source),
        "nothing": torch.zeros(S, N, 0),
        "half": torch.randn(S, N, generator=source).bfloat16(),
    }
    log_w = torch.randn(S, N, generator=source, dtype=F64)
    return Particles(x, log_w, torch.randint(N, (S, N), generator=source), carry)


def fields(p):
    return {"x": p.x, "log_w": p.log_w, "eve": p.eve, **p.carry}


def part(p, here):
    cut = {name: a[:, here].contiguous() for name, a in p.carry.items()}
    return Particles(p.x[:, here], p.log_w[:, here], p.eve[:, here], cut)


def shards(folder):
    """Particles that are taken over processes are those that one process would take."""
    world, source = join(), generator("shards")
    whole = population(source)
    N = whole.log_w.shape[1]
    chosen = sg.resamplers.Multinomial()(3 * whole.log_w, source)
    chosen = chosen[:, torch.randperm(N, generator=source)]  # in no order
    bytes_moved = {}
    for name in ("as drawn", "at home"):
        place = Sharded(world, N)
        ancestors = chosen if name == "as drawn" else place.arrange(chosen)
        before = world.traffic["moved"]
        here = place.places(N)
        log_w = whole.log_w.gather(1, ancestors)
        taken = fields(place.take(part(whole, here), ancestors, log_w[:, here]))
        bytes_moved[name] = world.traffic["moved"] - before
        for kind, a in fields(whole.take(ancestors)).items():
            assert torch.equal(taken[kind], a[:, place.places(N)]), kind
    torch.save(bytes_moved, folder / f"moved-{world.rank}.pt")
    todo = moves(torch.arange(N).expand(3, N), world.rank, world.size)  # nobody fires
    before = dict(world.traffic)
    carry_out(world, todo, {"x": part(whole, place.places(N)).x})
    assert dict(world.traffic) == before


def law(folder, name, model, **options):
    sizes = {
        "num_particles": PARTICLES,
        "num_systems": SYSTEMS,
        "seed": seed(name),
        "trigger": sg.triggers.ess_below(0.9),
    }
    keep(folder, name, run(model, **{**sizes, **options}))


def laws(folder):
    law(folder, "global", gaussian(), record=("ancestors", "particles", "log_weights"))
    law(folder, "islands", gaussian(), num_particles=2 * PARTICLES, islands=Islands(2, 0.9))
    law(folder, "one island each", gaussian(), num_particles=2 * PARTICLES, islands=Islands(99))
    move = sg.moves.PCN(0.5, waste_free=True)
    law(folder, "moves", gaussian(move=move), resampler=sg.resamplers.SSP())
    start = sg.starts.TemperedStart(sg.moves.PCN(0.5), temperatures=2)
    law(folder, "start", gaussian(start=start))
    model = gaussian()
    systems = run_systems(lambda here: model, 101, num_particles=8, record=("paths",), seed=1)
    keep(folder, "systems", systems)


def refused(folder):
    """Every process says no before the network is called."""
    model = gaussian()
    asked = {
        "odd": (model, {"num_particles": 33}),
        "chains": (gaussian(move=sg.moves.PCN(0.5, num_moves=2, waste_free=True)), {"num_particles": 21}),
        "islands": (model, {"islands": Islands(), "checkpoint": folder / "no"}),
        "paths": (model, {"num_particles": 32, "record": ("paths",)}),
        "records of islands": (model, {"islands": Islands(), "record": ("ancestors",)}),
        "adaptive": (gaussian(potential=sg.potentials.Tempered(sg.potentials.Tweedie(), ADAPTIVE)), {}),
    }  # fmt: skip
    said = {}
    for name, (asked_model, options) in asked.items():
        before = asked_model.evaluations.total()
        try:
            run(asked_model, **options)
        except sg.InvalidInput as error:
            said[name] = str(error), asked_model.evaluations.total() - before
    torch.save(said, folder / f"refused-{join().rank}.pt")


def degenerate(folder):
    """All processes stop at the same step, with the same words, and can go on."""
    said, world = {}, join()
    for name, wrong in {"NaN": nan, "dead": all_dead}.items():
        for islands in (None, Islands()):
            try:
                run(Walk(world, wrong), num_particles=8, num_systems=3, islands=islands)
            except sg.DegenerateWeights as error:
                said[name, islands is None] = error.step, error.system, str(error), len(error.trace)
    torch.save(said, folder / f"degenerate-{world.rank}.pt")
    keep(
        folder,
        "revived",
        run(Walk(world, one_dead), num_particles=8, num_systems=3, islands=Islands()),
    )
    meet, once = Islands(every=1, fraction=1.0), sg.triggers.at_steps([1])
    walk = Walk(world, lambda *_: None)
    keep(folder, "met", run(walk, num_particles=16, num_systems=20, islands=meet, trigger=once))


@dataclass(frozen=True)
class Killer:
    """A trigger; at step 4 it kills the last process, the first time that it is there."""

    folder: str = field(repr=False)

    def __call__(self, k, log_w):
        killed, world = Path(self.folder) / "killed", join()
        if k == 4 and world.rank == world.size - 1 and not killed.exists():
            killed.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return sg.triggers.ess_below(0.9)(k, log_w)


def kept(folder, model, **options):
    sizes = {"num_particles": PARTICLES, "num_systems": 20, "record": ("ancestors", "particles")}
    return run(model, **sizes, trigger=Killer(str(folder)), **options)


def resume(folder):
    """The same call goes on where the killed one was, and comes to the same end."""
    one, other = gaussian(), gaussian()
    keep(folder, "resumed", kept(folder, one, checkpoint=folder / "run", checkpoint_every=1))
    keep(folder, "uninterrupted", kept(folder, other))
    left = sorted(p.name for p in folder.glob("run.*"))
    calls = [model.evaluations["network_forward"] for model in (one, other)]
    torch.save({"left": left, "calls": calls}, folder / f"effort-{join().rank}.pt")


def main(job, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    world = join(timeout=60.0)
    if job == "laws":
        shards(folder)
        laws(folder)
        (folder / f"broken-{world.rank}").write_text(str(time.time()))
        run(Walk(world, broken), num_particles=8)
    if job == "errors":
        refused(folder)
        degenerate(folder)
        law(folder, "two", gaussian())
        kept(folder, gaussian(), checkpoint=folder / "run", checkpoint_every=1)
    if job == "resume":
        resume(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
