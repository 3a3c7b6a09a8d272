"""chunk_size="auto": what is counted, what is chosen, and what happens when memory runs out."""

import logging
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

import smcguide as sg
from smcguide import memory
from smcguide.chunking import in_chunks
from smcguide.errors import InvalidInput
from smcguide.memory import LiveBytes, is_out_of_memory, measured
from smcguide.testing import generator

WEIGHTS = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[2.0, -1.0, 0.0, 1.0], [-2.0, 0.5, 1.0, 0.0]]).double()
COST = sg.costs.LinearGaussian(torch.eye(4).double()[:2], torch.zeros(2).double(), noise_std=0.5)
PROPOSALS = {
    "none": sg.proposals.Bootstrap(),
    "gradient": sg.proposals.Gradient(),
    "control": sg.proposals.DTM(num_iters=2),
}


class Limited(sg.priors.GaussianMixture):
    """A prior whose device holds no more than `limit` particles at once; remembers what was asked."""

    def __init__(self, limit: int | None = None, error: type[Exception] | None = None) -> None:
        super().__init__(WEIGHTS, MEANS, scale=0.8)
        self.limit, self.error = limit, error or torch.OutOfMemoryError
        self.batches: list[int] = []

    def denoise(self, x: Tensor, t: float) -> Tensor:
        self.batches.append(len(x))
        if self.limit is not None and len(x) > self.limit:
            raise self.error(f"CUDA out of memory with {len(x)} particles")
        return super().denoise(x, t)


def model(chunk_size="auto", proposal="gradient", prior=None, cost=COST, **parts):
    usual = {"potential": sg.potentials.Tweedie(), "times": sg.grids.karras(6)}
    return sg.GuidedDiffusion(
        prior or Limited(), cost, kernel=sg.kernels.DDPM(),
        proposal=PROPOSALS.get(proposal, proposal), chunk_size=chunk_size, **{**usual, **parts},
    )  # fmt: skip


def run(model, num_particles=200, num_systems=2):
    return sg.run(
        model, num_particles=num_particles, num_systems=num_systems, seed=3, progress=False,
        record=("ancestors",),
    )  # fmt: skip


def assert_same(one, two):
    torch.testing.assert_close(one.x, two.x, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.log_w, two.log_w, rtol=0, atol=1e-9)
    assert torch.equal(one.recorded["ancestors"], two.recorded["ancestors"])
    assert one.evaluations == two.evaluations


@pytest.fixture
def little_room(monkeypatch):
    """Room for few particles, on a machine with plenty."""
    room = 40_000
    monkeypatch.setattr(memory, "CPU_BOUND", room // torch.get_num_threads())
    return room


# ---- what is counted --------------------------------------------------------------------------------


def test_only_new_tensors_count_and_only_while_they_live():
    x = torch.zeros(1000, dtype=torch.float64)
    with LiveBytes() as counter:
        x.view(10, 100).mul_(2)  # neither a view nor what is written in place
        assert (counter.live, counter.peak) == (0, 0)
        y = x + 1
        y[:10].add_(1)
        assert counter.live == 8000
        z = y * 2
        del y
        assert (counter.live, counter.peak) == (8000, 16000)
        del z
        assert (counter.live, counter.peak) == (0, 16000)


def test_what_autograd_keeps_counts_until_the_graph_is_gone():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with LiveBytes() as counter:
        y = x.exp().exp().exp()  # the two inner ones are alive in the graph alone
        assert counter.live == 24000
        del y
        assert counter.live == 0


def test_the_backward_pass_is_seen():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    total = (x * x).sum()
    with LiveBytes() as counter:
        torch.autograd.grad(total, x)
    assert counter.peak >= 8000


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_chunk_that_was_chosen_fits_in_the_room(proposal, little_room):
    auto = model(proposal=proposal)
    first = auto.initial((2, 200), generator("first"))
    z = torch.randn(first.x.shape, generator=generator("noise"), dtype=torch.float64)
    auto.advance(2, first.x, first.carry, z)
    n = auto.chunk_sizes["transition"] // 2
    assert 1 < n < 200
    part = {name: a[:, :n] for name, a in first.carry.items()}
    _, peak = measured(lambda: auto.advance(2, first.x[:, :n], part, z[:, :n]), auto.device)
    assert little_room / 8 < peak <= little_room


def test_more_work_gets_smaller_chunks(little_room):
    sizes = []
    for proposal in PROPOSALS:
        auto = model(proposal=proposal)
        run(auto)
        sizes.append(auto.chunk_sizes["transition"])
    assert sizes[0] > sizes[1] >= sizes[2]


def test_a_level_where_a_proposal_has_nothing_to_do_says_nothing_about_the_others(little_room):
    prior = Limited()
    prior.schedule = sg.schedules.RectifiedFlow()
    busy = sg.proposals.DTM(num_iters=2, solver="adam")
    auto = model(proposal=busy, prior=prior, times=sg.grids.uniform(6))
    run(auto)
    assert auto.chunk_sizes["transition from pure noise"] > auto.chunk_sizes["transition"]


def test_results_must_find_room_beside_the_work():
    free = memory.free(torch.device("cpu"))
    if free is None:
        pytest.skip("nobody says here how much memory there is")
    assert memory.budget(torch.device("cpu"), kept=2 * free) == 0
    assert memory.budget(torch.device("cpu"), kept=0) > 0


# ---- the result -------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_result_and_the_counts_are_those_of_one_chunk(proposal, little_room):
    auto = model(proposal=proposal)
    assert_same(run(auto), run(model(None, proposal)))
    assert max(auto.prior.batches) < 400


@pytest.mark.parametrize(
    "parts",
    [
        {"move": sg.moves.PCN(0.6), "potential": sg.potentials.MonteCarlo(num_draws=2)},
        {"move": sg.moves.Restart(span=2, every_step=True)},
        {"start": sg.starts.TemperedStart(sg.moves.PCN(0.6))},
        {"potential": sg.potentials.KrylovLaplace()},
    ],
    ids=["move", "restart", "start", "Jacobian"],
)
def test_all_that_looks_at_particles_goes_in_chunks(parts, little_room):
    auto = model(proposal="none", **parts)
    assert_same(run(auto), run(model(None, "none", **parts)))
    assert max(auto.prior.batches) < 400


def test_moves_of_parameters_go_in_chunks(little_room):
    def fit(x, theta):
        return ((x - theta) ** 2).sum(1)

    law = torch.distributions.Normal(torch.zeros(4).double(), torch.ones(4).double())
    cost = sg.costs.ParametricFunction(fit, {"theta": law})
    parts = {"cost": cost, "parameter_move": sg.parameter_moves.RandomWalk(every_step=True)}
    auto = model(proposal="none", **parts)
    assert_same(run(auto), run(model(None, "none", **parts)))
    # not smaller for what the first of them computes once, the widths of the parameters' law
    assert 16 < auto.chunk_sizes["parameter move"] < 400


@pytest.mark.parametrize("chunk_size", [6, "auto"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_only_the_first_particle_of_the_first_chunk_follows_a_path(
    proposal, chunk_size, little_room
):
    kept = [
        sg.particle_gibbs(model(size, proposal), 2, 100, num_chains=2, seed=5, progress=False)
        for size in (None, chunk_size)
    ]
    torch.testing.assert_close(kept[0].x, kept[1].x, rtol=0, atol=1e-10)
    state = model(chunk_size, proposal).initial((2, 100), generator("path"))
    pinned = {"x": torch.full((2, 4), 0.25, dtype=torch.float64)}
    moved = model(chunk_size, proposal).conditional_step(
        0, state.x, state.carry, generator("step"), pinned
    )
    follows = (moved.x - 0.25).abs().amax(-1) < 1e-9
    assert follows[:, 0].all() and not follows[:, 1:].any()


def test_a_run_that_is_resumed_ends_bit_for_bit_as_one_that_was_not(tmp_path, little_room):
    class Stopped(Exception):
        pass

    def stop(info):
        if info.step == 4:
            raise Stopped

    class Rounded(Limited):
        """As of many networks, the last digits depend on the size of the batch."""

        def denoise(self, x: Tensor, t: float) -> Tensor:
            return super().denoise(x, t) * (1 + 1e-12 * len(x))

    options = {"num_particles": 200, "seed": 3, "checkpoint": tmp_path / "run"}
    with pytest.raises(Stopped):
        sg.run(model(prior=Rounded()), progress=stop, checkpoint_every=2, **options)
    resumed = sg.run(model(prior=Rounded()), progress=False, **options)
    whole = sg.run(model(prior=Rounded()), num_particles=200, seed=3, progress=False)
    assert torch.equal(resumed.x, whole.x) and torch.equal(resumed.log_w, whole.log_w)
    assert resumed.evaluations == whole.evaluations


def test_draws_of_the_prior_go_in_chunks_too(little_room):
    levels = [Limited().schedule.level(float(t)) for t in (20.0, 5.0, 1.0, 0.0)]
    prior = Limited(limit=50)
    draws = [
        sg.draw(p, sg.kernels.DDPM(), levels, 300, generator("draws"), chunk_size=size)
        for p, size in ((prior, "auto"), (Limited(), None))
    ]
    torch.testing.assert_close(*draws, rtol=0, atol=1e-12)
    assert 1 < prior.batches[-1] <= 50


# ---- memory runs out --------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_chunk_that_ran_out_of_memory_is_done_in_halves(proposal, caplog):
    auto = model(proposal=proposal, prior=Limited(limit=100))
    with caplog.at_level(logging.WARNING, "smcguide"):
        post = run(auto)
    assert_same(post, run(model(None, proposal)))
    assert max(b for b in auto.prior.batches if b <= 100) > 50  # not smaller than it must be
    # once for each kind of work, then it is known
    halved = Counter(message.split(":")[0] for message in caplog.messages)
    assert halved['chunk_size="auto", transition'] == 2  # 400, 200, 100
    assert "out of memory with 400 particles at once" in caplog.messages[0]
    assert "from here on 200. The result is the same" in caplog.messages[0]
    before = len(caplog.messages)
    run(auto)
    assert len(caplog.messages) == before


def test_half_done_work_is_not_counted():
    class Worker:
        device, chunk_size = torch.device("cpu"), "auto"

        def __init__(self):
            self.chunk_sizes, self.evaluations = {}, Counter(other=1)

    def work(here):
        owner.evaluations["calls"] += here.stop - here.start
        if here.stop - here.start > 3:
            raise torch.OutOfMemoryError("too many")
        owner.evaluations["done"] += here.stop - here.start
        return {"x": x[:, here] + 1}

    owner, x = Worker(), torch.arange(20.0).reshape(2, 10)
    torch.testing.assert_close(in_chunks(owner, "work", (2, 10), work)["x"], x + 1)
    assert owner.evaluations == {"other": 1, "calls": 10, "done": 10}


def test_what_was_chosen_is_said_once_for_each_kind_of_work(caplog, little_room):
    auto = model()
    with caplog.at_level(logging.INFO, "smcguide"):
        run(auto)
        run(auto)
    assert len(caplog.messages) == len(auto.chunk_sizes) == 3
    said = (
        f'chunk_size="auto", transition: {auto.chunk_sizes["transition"]} of 400 particles at once'
    )
    assert any(message.startswith(said) for message in caplog.messages)


@pytest.mark.parametrize("chunk_size", [None, 300])
def test_who_chose_a_size_is_told_what_to_do(chunk_size):
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory") as caught:
        run(model(chunk_size, prior=Limited(limit=50)))
    (note,) = caught.value.__notes__
    assert f"chunk_size={chunk_size}" in note and 'Use chunk_size="auto", or a number below' in note


@pytest.mark.parametrize("chunk_size", ["auto", 2])
@pytest.mark.parametrize("limit", [0, 1])
def test_where_nothing_smaller_is_left_the_error_says_what_else_may_help(limit, chunk_size):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(model(chunk_size, prior=Limited(limit=limit)))
    (note,) = caught.value.__notes__
    assert "the smallest chunk there is, 2 at once" in note and "fewer systems" in note
    assert "network_dtype" in note and "a number below" not in note


def test_other_errors_pass_untouched():
    class Broken(Limited):
        def denoise(self, x: Tensor, t: float) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
            return super().denoise(x, t)

    for chunk_size in ("auto", None):
        with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
            run(model(chunk_size, prior=Broken()))
        assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("HIP out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("Expected all tensors to be on the same device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


GREEDY = '''
import logging, resource, sys
import torch
from tests.test_chunking import Limited, assert_same, model, run

class Greedy(Limited):
    """Memory grows with the square of the batch, which no small batch tells."""

    def denoise(self, x, t):
        self.batches.append(len(x))
        scratch = torch.empty(len(x), len(x), 64, dtype=torch.float64)
        return super().denoise(x, t) + 0 * scratch[:0].sum()

logging.basicConfig(format="%(message)s")
torch.set_num_threads(1)
whole = run(model(128), 2000, 1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
auto = model(prior=Greedy())
assert_same(run(auto, 2000, 1), whole)
try:
    run(model(None, prior=Greedy()), 2000, 1)
except RuntimeError as error:
    print(error, error.__notes__)
'''


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space")
def test_the_processor_s_own_allocator_may_run_out_of_memory():
    done = subprocess.run(
        [sys.executable, "-c", GREEDY], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "transition: out of memory with" in done.stderr
    assert "DefaultCPUAllocator" in done.stdout and "Use chunk_size=" in done.stdout


# ---- what may be given ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["Auto", "", 0, -1, 2.5, True, False, "16", (4,)])
def test_other_sizes_are_refused_where_they_are_given(size):
    expected = r'chunk_size must be at least 1 or None, got .*"auto"'
    with pytest.raises(InvalidInput, match=expected):
        model(size)
    with pytest.raises(InvalidInput, match=expected):
        sg.rehearse(Limited(), chunk_size=size)


def test_sample_and_its_settings_take_auto():
    posts = [
        sg.sample(Limited(), COST, num_particles=50, num_steps=5, chunk_size=size, progress=False)
        for size in ("auto", None)
    ]
    torch.testing.assert_close(posts[0].x, posts[1].x, rtol=0, atol=1e-10)
    assert posts[0].settings == posts[1].settings  # a size is no part of what was sampled


# ---- memory that is kept -----------------------------------------------------------------------------

FAULTS = """
import resource, torch, smcguide as sg
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def pages():
    before = faults()
    for _ in range(5):
        x = 2 * torch.ones(10**7)  # 40 MB, twice
        del x
    return faults() - before
given_back = pages()
assert sg.keep_memory()
for _ in range(4):  # the heap grows, and may have holes at first
    pages()
print(given_back, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_kept_memory_is_not_asked_for_again():
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, out.stdout.split())
    assert given_back > 5000 and kept < 100


def test_where_there_is_no_such_setting_it_says_so(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert sg.keep_memory() is False
