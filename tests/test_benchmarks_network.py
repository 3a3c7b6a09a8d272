"""The benchmarks of time and memory beside the network: what is compared is alike, counts are exact."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import memory
from living import Living

share = pytest.importorskip("share", reason="needs diffusers", exc_type=ImportError)


class Counting(nn.Module):
    """A network that tells which batches it was given, and how often a gradient came back."""

    def __init__(self):
        super().__init__()
        self.batches, self.back = [], 0

    def forward(self, x, t):
        self.batches.append(len(x))
        if x.requires_grad:
            x.register_hook(self.came)
        return type("Output", (), {"sample": 2 * x})

    def came(self, gradient):
        self.back += 1


# ---- share of the network ------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", share.PROPOSALS)
def test_bare_calls_are_those_that_are_said_to_be_needed(proposal: str) -> None:
    net, (forward, backward) = Counting(), share.NEEDED[proposal]
    share.bare(net, 3.0, torch.ones(5, 2), proposal, 2)
    assert sorted(net.batches) == sorted([2, 2, 1] * forward)
    assert net.back == 3 * backward


def test_a_step_makes_the_calls_that_it_is_compared_with(tmp_path: Path) -> None:
    figure = tmp_path / "share.png"
    rows = share.main(["--fast", "--network", "digits", "--sizes", "4,8", "--figure", str(figure)])
    assert [(r["N"], r["proposal"]) for r in rows] == [(n, p) for n in (4, 8) for p in share.NEEDED]
    for r in rows:
        assert (r["forward"], r["backward"]) == share.NEEDED[r["proposal"]]
        assert r["low"] <= r["ratio"] <= r["high"] and r["bare"] > 0
    assert figure.stat().st_size > 10_000


def test_the_large_network_is_one_of_five_million_parameters_and_runs() -> None:
    (row,) = share.main(["--fast", "--network", "unet64", "--sizes", "2"])[:1]
    assert (row["forward"], row["backward"]) == (1, 0)


def test_the_large_network_is_always_the_same_and_leaves_the_global_generator_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        first = share.unet64.prior().net
        torch.manual_seed(1)
        before = torch.get_rng_state()
        second = share.unet64.prior().net
        assert torch.equal(torch.get_rng_state(), before)
    sizes = [p.numel() for p in first.parameters()]
    assert 4.9e6 < sum(sizes) < 5.1e6
    assert not any(p.requires_grad for p in first.parameters())
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


# ---- memory --------------------------------------------------------------------------------------


def test_living_tensors_are_counted_once_and_until_the_last_view_is_gone() -> None:
    with Living() as living:
        a = torch.ones(1000)
        b = a.view(10, 100)[2]
        assert living.now == 4000
        c = b + 1
        del a
        assert living.now == 4400
        del b
        assert (living.now, living.peak) == (400, 4400)
    del c
    assert living.now == 0


def test_what_a_graph_keeps_is_counted() -> None:
    with Living() as living:
        x = torch.ones(1000, requires_grad=True)
        y = x.sin().exp().sum()  # x and exp are kept, sin is not
        assert living.now == 8000 + 4
        del y
        assert living.now == 4000


@pytest.mark.parametrize(("proposal", "fields"), [("Bootstrap", 2), ("Gradient", 3), ("DTM", 3)])
def test_populations_before_and_after_and_the_noise_are_needed(proposal: str, fields: int) -> None:
    case = {"prior": "Gaussian", "proposal": proposal, "paths": False, "N": 256, "d": 256}
    found = memory.measure(case)
    assert found["needed"] == 2 * fields + 1
    assert found["states"] == 256 * (256 * 4 * found["needed"] + 64)
    assert found["states"] < found["tensors"] < 3 * found["states"]
    assert memory.measure(case)["tensors"] == found["tensors"]


def test_a_case_in_a_process_of_its_own_counts_the_same_and_sees_resident_memory() -> None:
    case = {"prior": "Gaussian", "proposal": "Gradient", "paths": True, "N": 256, "d": 1024}
    here, there = memory.measure(case), memory.apart(case)
    assert there["tensors"] == here["tensors"]
    assert here | {"resident": 0} == there | {"resident": 0}
    assert there["resident"] > 0.5 * there["tensors"]


def test_memory_makes_a_table_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "memory.png"
    series = memory.main(["--fast", "--figure", str(figure)])
    assert [len(s) for s in series] == [3] * 4 + [2] * 4
    assert len({r["N"] for r in series[0]}) == 3 and len({r["d"] for r in series[-1]}) == 2
    assert figure.stat().st_size > 10_000
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + sum(map(len, series)) and len({len(line) for line in table}) == 1
