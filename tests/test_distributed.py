"""Many processes: same law as one, least traffic, and one clear word when something goes wrong. The jobs
are started by torchrun and run tests/distributed_worker.py; each is started once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_worker import COVARIANCE, MEAN, PARTICLES, STD, SYSTEMS, A, Y, gaussian

import smcguide as sg
from smcguide.distributed.assignment import at_home, moves
from smcguide.testing import gaussian_chain, generator, z_test

HERE = Path(__file__).parent
OVERHEAD = 1.35  # of the spread of Z over that of one process, at most
SPREADS = {  # of Z / E Z in one process, for 32 particles, 64 for islands
    "global": 0.40, "two": 0.40, "islands": 0.33, "one island each": 0.34, "moves": 0.40, "start": 0.38,
}  # fmt: skip


def start(job, size, folder):
    """Run a job; what it said, its exit status and when it ended."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    job = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size),
         str(HERE / "distributed_worker.py"), job, str(folder)],
        env=env, text=True, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        said = job.communicate(timeout=240)[1]
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    return {"stderr": said, "status": job.returncode, "ended": time.time()}


@pytest.fixture(scope="session")
def answers(tmp_path_factory, worker):
    """job -> the folder of its answers, and how it ended; shared by all workers of pytest-xdist."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if worker else root

    def get(job, size):
        folder, told = root / job, root / f"{job}.json"
        try:
            folder.mkdir()
        except FileExistsError:
            for _ in range(1200):
                if told.exists():
                    break
                time.sleep(0.2)
        else:
            part = told.with_suffix(".part")
            part.write_text(json.dumps(start(job, size, folder)))
            part.rename(told)
        return folder, json.loads(told.read_text())

    return get


@pytest.fixture(scope="session")
def worker():
    return os.environ.get("PYTEST_XDIST_WORKER")


@pytest.fixture(scope="session")
def four(answers):
    """Four processes; one of them fails in the end."""
    return answers("laws", 4)


@pytest.fixture(scope="session")
def two(answers):
    """Two processes; one of them is killed in the end."""
    return answers("errors", 2)


def load(job, name):
    folder, told = job
    assert (folder / f"{name}.pt").exists(), told["stderr"]
    return torch.load(folder / f"{name}.pt", weights_only=True)


# ---- law -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPREADS)
def test_a_run_over_processes_has_the_law_of_one(name, request):
    post = load(request.getfixturevalue("two" if name == "two" else "four"), name)
    law = gaussian_chain(MEAN, COVARIANCE, gaussian().levels)
    truth, mean = law.log_evidence(A, Y, STD), law.posterior(A, Y, STD).mean
    ratio = (post["log_z"] - truth).exp()
    ceiling = OVERHEAD * SPREADS[name] / SYSTEMS**0.5
    z_test(ratio, 1.0, ceiling)
    z_test(ratio[:, None] * post["mean"], mean, 1.5 * ceiling)
    assert post["settings"]["exactness"] == "exact"


def test_a_run_over_processes_counts_all_that_was_done(four):
    post, N, S = load(four, "global"), PARTICLES, SYSTEMS
    assert post["evaluations"] == sg.run(gaussian(), num_particles=N, num_systems=S).evaluations
    assert post["x"].shape == (S, N, 2)
    assert post["trace"]["resampled"][:, 4:6].all()
    assert post["settings"]["processes"] == 4


def test_records_of_a_run_over_processes_fit_together(four):
    """Families, weights and evidence are those of the recorded ancestors."""
    post = load(four, "global")
    ancestors, log_w = post["recorded"]["ancestors"], post["recorded"]["log_weights"]
    eves = torch.arange(PARTICLES).expand(SYSTEMS, -1)
    for k in range(ancestors.shape[1]):
        eves = eves.gather(1, ancestors[:, k])
        distinct = torch.tensor([len(row.unique()) for row in eves])
        assert torch.equal(distinct, post["trace"]["unique_eves"][:, k])
    assert torch.equal(eves, post["eves"])
    assert torch.equal(log_w[:, -1], post["log_w"])
    assert torch.equal(post["recorded"]["particles"][:, -1], post["x"])
    ess = torch.exp(2 * log_w.logsumexp(-1) - (2 * log_w).logsumexp(-1))
    torch.testing.assert_close(ess, post["trace"]["ess"])


def test_the_noise_of_different_processes_is_different(four):
    x = load(four, "global")["recorded"]["particles"][:, 0]
    assert x.flatten(0, 1).unique(dim=0).shape[0] == SYSTEMS * PARTICLES


def test_systems_over_processes_are_all_there(four):
    post = load(four, "systems")
    assert post["x"].shape == (101, 8, 2)
    assert post["recorded"]["paths"].shape == (101, 7, 8, 2)
    assert torch.equal(post["recorded"]["paths"][:, -1], post["x"])
    assert len(post["log_z"].unique()) == 101
    alone = sg.run(gaussian(), num_particles=8, num_systems=101)
    assert post["evaluations"] == alone.evaluations
    assert post["settings"]["processes"] == 4


def test_without_torchrun_it_is_the_plain_run():
    options = {"num_particles": 10, "num_systems": 3, "seed": 4, "record": ("paths",)}
    here = sg.distributed.run(gaussian(), **options, islands=sg.distributed.Islands())
    plain = sg.run(gaussian(), **options)
    assert torch.equal(here.x, plain.x)
    assert torch.equal(here.log_z, plain.log_z)
    assert here.settings == plain.settings
    model = gaussian()
    systems = sg.distributed.run_systems(lambda part: model, 3, num_particles=10, seed=4)
    assert torch.equal(systems.x, plain.x)


# ---- traffic -------------------------------------------------------------------------------------


def needed(ancestors, N, R):
    """How many copies must leave the part where their ancestor lives, counted one by one."""
    n, m = N // R, ancestors.shape[1] // R
    homes = [[int(a) // n for a in row] for row in ancestors]
    return sum(max(0, row.count(r) - m) for row in homes for r in range(R))


@pytest.mark.parametrize(("N", "M", "R"), [(24, 24, 4), (24, 12, 4), (6, 6, 6), (30, 30, 2)])
def test_slots_are_dealt_out_so_that_no_more_copies_travel_than_must(N, M, R):
    source = generator("at home")
    log_w = 3 * torch.randn(50, N, generator=source, dtype=torch.float64)
    chosen = sg.resamplers.Multinomial()(log_w, source, M)
    dealt = at_home(chosen, N, R)
    assert torch.equal(dealt.sort(1).values, chosen.sort(1).values)
    part = torch.arange(M) // (M // R)
    assert int((dealt // (N // R) != part).sum()) == needed(chosen, N, R)


def test_copies_of_one_particle_travel_as_one_row():
    ancestors = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0]])
    todo = moves(ancestors, 1, 4)
    assert todo.total == 3
    assert todo.receive == [1, 0, 0, 0]
    assert todo.arrived.tolist() == [0, 0]


def test_the_particles_sent_are_no_more_than_must_leave(four):
    post = load(four, "global")
    row = 8 * (2 + 2 + 1 + 1)  # x, x0_hat, log_psi, path_kl
    ancestors = post["recorded"]["ancestors"]
    must = sum(needed(ancestors[:, k], PARTICLES, 4) for k in range(1, 7))
    sent = post["settings"]["bytes_moved"]
    assert 0.5 * must * row < sent <= must * row
    # all weights to all others once a step, families once, and one number to report
    numbers = 7 * (PARTICLES // 4 + 1) + PARTICLES // 4
    assert post["settings"]["bytes_gathered"] == 8 * 4 * 3 * SYSTEMS * numbers


def test_slots_as_drawn_would_send_more(four):
    """The worker compared the particles with those that one process takes."""
    moved = [load(four, f"moved-{r}") for r in range(4)]
    home, drawn = (sum(m[name] for m in moved) for name in ("at home", "as drawn"))
    assert 0 < 2 * home < drawn


def test_islands_send_a_few_numbers_and_meet_rarely(four):
    alone, meeting = load(four, "one island each"), load(four, "islands")
    assert alone["settings"]["bytes_moved"] == 0
    numbers = 6 + 1  # evidence, ESS, bad, resampled, ancestors, eves; the path's KL
    assert alone["settings"]["bytes_gathered"] == 8 * 4 * 3 * SYSTEMS * numbers * 7
    island = 8 * 16 * (2 + 2 + 1 + 1 + 1 + 1)  # with weights and families
    exchanges, rest = divmod(meeting["settings"]["bytes_moved"], island)
    assert rest == 0
    assert 0 < exchanges < 4 * SYSTEMS * 2


# ---- what goes wrong -----------------------------------------------------------------------------


def test_what_cannot_be_spread_is_refused_in_all_processes_before_any_network_call(two):
    said = [load(two, f"refused-{r}") for r in range(2)]
    assert said[0] == said[1]
    words = {
        "odd": "e.g. 34", "chains": "e.g. 24", "paths": "'ancestors'", "adaptive": "sg.freeze",
        "records of islands": "leave it out", "islands": "keep none",
    }  # fmt: skip
    assert said[0].keys() == words.keys()
    for name, (message, calls) in said[0].items():
        assert words[name] in message
        assert calls == 0


def test_degenerate_weights_stop_all_processes_at_the_same_step_with_the_same_words(two):
    said = [load(two, f"degenerate-{r}") for r in range(2)]
    assert said[0] == said[1]
    assert len(said[0]) == 4
    for (name, _), (step, system, message, length) in said[0].items():
        assert (step, system, length) == (3, 1, 4)
        assert ("1 of 8" if name == "NaN" else "8 of 8") in message


def test_a_dead_island_gets_the_particles_of_a_living_one(two):
    post = load(two, "revived")
    assert post["log_z"].isfinite().all()
    assert post["log_w"].isfinite().all()
    assert set(post["eves"][1].tolist()) <= set(range(4))


def test_islands_that_met_count_their_new_families(two):
    """Where nothing is resampled the last record serves again, unless islands were exchanged since."""
    post = load(two, "met")
    here = [sum(len(set(half.tolist())) for half in row.split(8)) for row in post["eves"]]
    assert post["trace"]["unique_eves"][:, -1].tolist() == here
    lost = [row[:8].tolist() == row[8:].tolist() for row in post["eves"]]
    assert any(lost), "no island was lost"


@pytest.mark.parametrize(
    "islands", [{"every": 0}, {"every": 1.5}, {"fraction": 0.0}, {"fraction": 2}]
)
def test_islands_refuse_what_means_nothing(islands):
    with pytest.raises(sg.InvalidInput, match="at least 1, fraction in"):
        sg.distributed.Islands(**islands)


def test_a_killed_process_stops_the_job_soon_with_one_word(two):
    folder, told = two
    assert told["status"] != 0
    assert told["ended"] - float((folder / "killed").read_text()) < 30
    assert "Signal 9 (SIGKILL)" in told["stderr"]  # torchrun's summary names the process
    assert told["stderr"].count("LostProcess: Process") <= 1


def test_a_process_that_fails_stops_the_job_soon_and_it_alone_speaks(four):
    folder, told = four
    assert told["status"] != 0
    assert told["ended"] - float((folder / "broken-3").read_text()) < 30
    assert told["stderr"].count("ValueError: the simulator of this process broke") == 1
    assert "LostProcess" not in told["stderr"]
    assert told["stderr"].count("Traceback (most recent call last)") == 2  # its own, and torchrun's


def test_a_killed_job_goes_on_from_its_last_checkpoint_to_the_same_end(two):
    folder = two[0]
    # the last process was killed before it wrote its newest file
    os.replace(folder / "run.1-of-2.previous", folder / "run.1-of-2")
    told = start("resume", 2, folder)
    assert told["status"] == 0, told["stderr"]
    job = folder, told
    for effort in (load(job, "effort-0"), load(job, "effort-1")):
        assert effort["left"] == []
        again, all_calls = effort["calls"]
        assert again == all_calls * 2 // 6  # after step 3: 4 and 5; the last needs no network
    resumed, whole = load(job, "resumed"), load(job, "uninterrupted")
    for name in ("x", "log_w", "log_z", "eves"):
        assert torch.equal(resumed[name], whole[name]), name
    for kind in ("trace", "recorded"):
        for name, a in whole[kind].items():
            assert torch.equal(resumed[kind][name], a), name
    assert resumed["evaluations"] == whole["evaluations"]
