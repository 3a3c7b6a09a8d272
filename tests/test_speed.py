"""The step waits for nobody: no operation in it brings a number to the host or makes a tensor whose shape
depends on numbers. On the CPU such operations cost nothing and are visible all the same; on a device
each one stops the queue. Times are for the benchmarks; here operations are counted."""

import traceback
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import smcguide as sg
from smcguide import loop, weights
from smcguide.gaussian import Gaussian
from smcguide.records import Particles

F64, HOME = torch.float64, Path(sg.__file__).parent
WAITS = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal",
    "unique_consecutive", "_unique2", "unique_dim", "bincount",
    "lift_fresh",  # a tensor of numbers of the host: copied to a device, and waited for
}  # fmt: skip
R, P = sg.resamplers, sg.proposals
RESAMPLERS = [
    R.Systematic(), R.Stratified(), R.Multinomial(), R.Residual(), R.SSP(), R.Killing(), R.Rejection(),
    R.Metropolis(4),
]  # fmt: skip
PROPOSALS = [P.Bootstrap(), P.Gradient(trust=2.0), P.DTM(), P.DTM(num_iters=2, solver="adam")]
TRIGGERS = [sg.triggers.always(), sg.triggers.ess_below(0.5), sg.triggers.never()]


class Operations(TorchDispatchMode):
    """What is asked for: names, the waits with their places, and the sizes of new tensors."""

    def __init__(self):
        super().__init__()
        self.names, self.waits, self.made = Counter(), [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.names[name] += 1
        by_mask = name in ("index", "index_put", "index_put_") and any(map(_is_mask, args[1]))
        by_counts = name == "repeat_interleave" and "output_size" not in (kwargs or {})
        if name in WAITS or by_mask or by_counts:
            self.waits.append(f"{name} in {_here()}")
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view and not name.endswith("_"):
            self.made.append(out.numel())
        return out


def _here():
    """The innermost line of the package, file:line."""
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(HOME)]
    return "nowhere" if not frames else f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _is_mask(a):
    return a is not None and a.dtype == torch.bool


class Halving(sg.priors.Prior):
    """A network that needs nothing from the host."""

    schedule, event_shape = sg.schedules.VP(), (3,)
    dtype, device = torch.float32, torch.device("cpu")

    def denoise(self, x, t):
        return 0.5 * x


@pytest.fixture
def as_on_a_device(monkeypatch):
    """The loop looks at nothing, as where looking means waiting."""
    monkeypatch.setattr(weights, "looking_is_free", lambda device: False)
    for name in ("numpy", "cpu", "tolist"):  # seen by no dispatch
        monkeypatch.setattr(torch.Tensor, name, _looks)


def _looks(self, *given, **named):
    raise AssertionError("a tensor was brought to the host")


def step_of(proposal, resampler, trigger, k=2):
    """What transition k asks for."""
    model = toy_model(proposal)
    plan = loop.Plan((2, 16), resampler, trigger, seed=0)
    state, _ = loop.begin(model, plan)
    for _ in range(k):
        loop.advance(model, plan, state)
    with Operations() as seen:
        loop.advance(model, plan, state)
    return seen


def toy_model(proposal=PROPOSALS[0], device=Halving.device):
    prior = Halving().to(device)
    cost = sg.costs.LinearGaussian(torch.ones(1, 3), torch.tensor([1.0]), 0.5)
    return sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=sg.grids.karras(6),
        potential=sg.potentials.Tweedie(), proposal=proposal,
    )  # fmt: skip


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("k", [0, 2, 5], ids="transition {}".format)
@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
@pytest.mark.parametrize("proposal", PROPOSALS, ids=repr)
def test_a_step_waits_for_nobody(proposal, trigger, k):
    assert step_of(proposal, R.Systematic(), trigger, k).waits == []


@pytest.mark.gpu
@pytest.mark.parametrize("proposal", PROPOSALS, ids=repr)
def test_on_a_device_torch_itself_sees_no_wait(device, proposal):
    model = toy_model(proposal, device)
    plan = loop.Plan((2, 16), R.Systematic(), sg.triggers.ess_below(0.5), seed=0)
    state, _ = loop.begin(model, plan)
    loop.advance(model, plan, state)  # tables of a level are made at the first visit
    state, _ = loop.begin(model, plan)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.advance(model, plan, state)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("resampler", RESAMPLERS, ids=repr)
def test_resampling_waits_for_nobody(resampler):
    assert step_of(P.Bootstrap(), resampler, sg.triggers.ess_below(1.0)).waits == []


def test_on_the_cpu_a_resampling_of_no_system_is_left_out(monkeypatch):
    quiet = sg.triggers.ess_below(1e-9)
    seen = step_of(P.Bootstrap(), R.Systematic(), quiet)
    monkeypatch.setattr(weights, "looking_is_free", lambda device: False)
    blind = step_of(P.Bootstrap(), R.Systematic(), quiet)
    assert seen.names["index_select"] == 0 < blind.names["index_select"]
    assert blind.waits == []


def test_leaving_it_out_changes_nothing_else(monkeypatch):
    def run():
        return sg.run(toy_model(), num_particles=16, seed=1, trigger=sg.triggers.ess_below(1e-9))

    looking = run()
    monkeypatch.setattr(weights, "looking_is_free", lambda device: False)
    blind = run()
    assert torch.equal(looking.x, blind.x) and torch.equal(looking.log_w, blind.log_w)
    same = [torch.equal(a, blind.trace[name]) for name, a in looking.trace.items()]
    assert len(same) > 5 and all(same)


@pytest.mark.parametrize("window", [(0, 9), (2, 3)], ids=str)
def test_a_trigger_that_is_told_the_ess_decides_as_one_that_computes_it(window):
    def plain(step, log_w):
        return weights.ess(log_w) < 0.95 * log_w.shape[1]

    def run(trigger):
        trigger = sg.triggers.within(trigger, *window)
        return sg.run(toy_model(), num_particles=16, num_systems=3, seed=1, trigger=trigger)

    told, computes = run(sg.triggers.ess_below(0.95)), run(plain)
    assert torch.equal(told.x, computes.x) and torch.equal(told.log_w, computes.log_w)
    assert 0 < int(told.trace["resampled"].sum()) < told.trace["resampled"].numel()


def test_moving_copies_and_their_records_wait_for_nobody():
    x, log_w = torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=F64)
    before = Particles(x, log_w, torch.arange(5).expand(2, 5), {"flag": log_w > 0})
    with Operations() as seen:
        before.take(torch.zeros(2, 5, dtype=torch.long))
    assert seen.waits == []


WAITING = {
    "item": lambda a: a.sum().item(),
    "bool": lambda a: bool(a.any()),
    "nonzero": lambda a: a.nonzero(),
    "mask": lambda a: a[a > 0],
    "put by mask": lambda a: a.index_put_((a > 0,), torch.ones(())),
    "repeat": lambda a: torch.arange(6).repeat_interleave(a.long()),
    "unique": lambda a: a.unique(),
    "number of the host": lambda a: a + torch.tensor(1.0),
}


@pytest.mark.parametrize("ask", WAITING.values(), ids=WAITING)
def test_what_waits_is_seen(ask):
    with Operations() as seen:
        ask(torch.ones(6))
    assert seen.waits


def test_a_network_that_asks_the_host_is_seen(monkeypatch):
    def denoise(self, x, t):
        return 0.5 * x if float(x.mean()) < 100 else x

    monkeypatch.setattr(Halving, "denoise", denoise)
    assert step_of(P.Bootstrap(), R.Systematic(), sg.triggers.always()).waits


# ---- how much is done ----------------------------------------------------------------------------


def wide(f, size=2 * 16 * 40):
    """How many new tensors of the size of the states f makes."""
    with Operations() as seen, torch.no_grad():
        f()
    return seen.made.count(size)


def test_kernels_with_one_standard_deviation_make_few_large_tensors():
    mean, z = torch.randn(2, 16, 40), torch.randn(2, 16, 40)  # few coordinates take one more
    p, q = Gaussian(mean, 0.3), Gaussian(mean + 0.1, 0.3)
    assert wide(lambda: p.sample(z)) == wide(lambda: q.kl(p)) == 1
    assert wide(lambda: p.log_ratio(q, z)) == wide(lambda: p.compared(q, z)) == 1
    assert wide(lambda: p.log_ratio(p, z)) == wide(lambda: p.kl(p)) == 0


def test_while_particles_move_those_of_before_the_resampling_are_gone(monkeypatch):
    """Three populations would be alive otherwise: the old, the resampled and the new one."""
    alive, handed_on = [], []
    right = sg.GuidedDiffusion.advance

    def watching(self, k, x, *given):
        if k < self.num_steps - 1:  # nobody is resampled before the last step, which has no noise
            alive.extend(ref() is not None for ref in handed_on)
        moved = right(self, k, x, *given)
        handed_on.append(weakref.ref(moved.x))
        return moved

    monkeypatch.setattr(sg.GuidedDiffusion, "advance", watching)
    sg.run(toy_model(), num_particles=16, seed=1, trigger=sg.triggers.always())
    assert len(alive) == 10 and not any(alive)


@pytest.mark.parametrize("resampler", RESAMPLERS[:6], ids=repr)
def test_ascending_ancestors_are_counted_and_not_searched(resampler):
    with Operations() as seen:
        resampler(torch.zeros(2, 16, dtype=F64), torch.Generator())
    assert seen.names["searchsorted"] == seen.names["sort"] == 0


def test_ess_and_mean_weight_share_their_exponentials():
    with Operations() as seen:
        weights.summary(torch.zeros(2, 16, dtype=F64))
    assert seen.names["exp"] + seen.names["exp_"] + seen.names["logsumexp"] == 1
