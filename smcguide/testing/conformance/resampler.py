"""What is promised of a resampler."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.resamplers.base import Resampler
from smcguide.testing.conformance.base import Suite, normal
from smcguide.testing.statistics import generator, mean_counts_test, z_test

N, RUNS = 13, 20_000


def counts_of(ancestors: Tensor, num_particles: int) -> Tensor:
    """How often each particle was chosen, (S, num_particles), for ancestors (S, num)."""
    zeros = ancestors.new_zeros(len(ancestors), num_particles)
    return zeros.scatter_add_(1, ancestors, torch.ones_like(ancestors))


def some_log_weights(spread: float, device: torch.device) -> Tensor:
    """(N,), one of them dead."""
    log_w = spread * normal((N,), generator("counts", device))
    log_w[4] = -torch.inf
    return log_w


class ResamplerSuite(Suite):
    """Write `instances`, returning one or two resamplers; for biased ones `largest_bias`, too.

    Attributes:
        takes_num: whether any number of ancestors can be asked for, not N only.
    """

    takes_num = True

    def instances(self) -> Sequence[Resampler]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two resamplers.")

    def largest_bias(self, resampler: Resampler, W: Tensor) -> float:
        """Bound on | P(an ancestor is particle i) - W_i | for weights W; 0 for exact schemes. Mean
        counts are then allowed to be off by num times as much."""
        return 0.0

    @pytest.mark.parametrize("spread", [0.5, 3.0], ids="spread {}".format)
    def test_mean_counts_are_n_times_the_weights(self, device: torch.device, spread: float) -> None:
        log_w = some_log_weights(spread, device)
        W = torch.softmax(log_w, 0)
        for resampler in self.instances():
            ancestors = resampler(log_w.expand(RUNS, N), generator("resampling", device))
            if bias := self.largest_bias(resampler, W):
                _near(counts_of(ancestors, N), N * W, N * bias)
            else:
                mean_counts_test(counts_of(ancestors, N), W)

    @pytest.mark.parametrize("num", [1, 5, 29], ids="num {}".format)
    def test_mean_counts_are_num_times_the_weights(self, device: torch.device, num: int) -> None:
        log_w = some_log_weights(0.5, device)
        W = torch.softmax(log_w, 0)
        for resampler in self.instances():
            if not self.takes_num:
                with pytest.raises(InvalidInput, match="Use "):
                    resampler(log_w.expand(3, N), generator("resampling", device), num)
                continue
            ancestors = resampler(log_w.expand(RUNS, N), generator("resampling", device), num)
            assert (ancestors.shape, ancestors.dtype) == ((RUNS, num), torch.int64)
            _near(counts_of(ancestors, N), num * W, num * self.largest_bias(resampler, W))

    def test_the_conditional_law_is_the_law_given_slot_zero(self, device: torch.device) -> None:
        """Number the particles from one drawn with probability W on and condition on it: counts and
        slots are as if nothing had been conditioned on."""
        log_w = some_log_weights(1.0, device)
        W, source = torch.softmax(log_w, 0), generator("conditional", device)
        for resampler in self.instances():
            if type(resampler).conditional is Resampler.conditional:
                with pytest.raises(InvalidInput, match=r"use Multinomial\(\)"):
                    resampler.conditional(log_w[None], source)
                continue
            reference = torch.multinomial(W, RUNS, replacement=True, generator=source)[:, None]
            order = (reference + torch.arange(N, device=device)) % N
            ancestors = order.gather(1, resampler.conditional(log_w[order], source))
            assert bool((ancestors[:, :1] == reference).all()), f"{resampler!r}: not in slot 0"
            counts = counts_of(ancestors, N)
            mean_counts_test(counts, W)
            for slot in (1, N // 2, N - 1):
                _near(torch.nn.functional.one_hot(ancestors[:, slot], N), W, 0.0)
            free = counts_of(resampler(log_w.expand(RUNS, N), source), N)
            spread = (counts - N * W).square() - (free - N * W).square()
            z_test(spread, 0.0, ceiling=0.2)

    def test_ancestors_are_indices(self, device: torch.device) -> None:
        log_w = normal((3, 11), generator("indices", device))
        for resampler in self.instances():
            ancestors = resampler(log_w, generator("resampling", device))
            assert ancestors.shape == (3, 11)
            assert (ancestors.dtype, ancestors.device) == (torch.int64, log_w.device)
            assert 0 <= int(ancestors.min()) <= int(ancestors.max()) < 11

    @pytest.mark.parametrize("alive", ["head", "tail", "odd"])
    def test_zero_weight_is_never_chosen_in_a_large_float32_population(
        self, device: torch.device, alive: str
    ) -> None:
        N = 65_536
        log_w = normal((16, N), generator("float32", device), torch.float32)
        index = torch.arange(N, device=device)
        living = {"head": index < N - 9, "tail": index >= 9, "odd": index % 2 == 1}[alive]
        log_w = log_w.masked_fill(~living, -torch.inf)
        for resampler in self.instances():
            ancestors = resampler(log_w, generator("resampling", device))
            dead = int((~living)[ancestors].sum())
            assert dead == 0, f"{resampler!r} chose {dead} particles of weight zero"

    def test_one_heavy_weight_takes_all(self, device: torch.device) -> None:
        log_w = torch.full((2, 9), -2000.0, dtype=torch.float64, device=device)
        log_w[0, 8], log_w[1, 0] = 700.0, 0.0
        for resampler in self.instances():
            ancestors = resampler(log_w, generator("resampling", device))
            assert bool((ancestors[0] == 8).all()), f"{resampler!r}: {ancestors[0].tolist()}"
            assert bool((ancestors[1] == 0).all()), f"{resampler!r}: {ancestors[1].tolist()}"

    def test_a_single_particle_stays(self, device: torch.device) -> None:
        log_w = torch.full((3, 1), -5.0, dtype=torch.float64, device=device)
        for resampler in self.instances():
            assert resampler(log_w, generator("resampling", device)).tolist() == [[0], [0], [0]]

    def test_only_the_generator_decides(self, device: torch.device) -> None:
        log_w = normal((2, 50), generator("weights", device))
        kept = log_w.clone()
        for resampler in self.instances():
            first, again, other = (
                resampler(log_w, generator(name, device)) for name in ("a", "a", "b")
            )
            assert torch.equal(first, again), f"{resampler!r} does not follow the generator"
            assert not torch.equal(first, other), f"{resampler!r} ignores the generator"
            assert torch.equal(log_w, kept), f"{resampler!r} changed its input"

    def test_only_ratios_of_weights_matter(self, device: torch.device) -> None:
        log_w = normal((2, 50), generator("weights", device))
        for resampler in self.instances():
            plain = resampler(log_w, generator("a", device))
            shifted = resampler(log_w - 512.0, generator("a", device))
            assert torch.equal(plain, shifted), f"{resampler!r} depends on the scale of weights"

    def test_systems_do_not_see_each_other(self, device: torch.device) -> None:
        log_w = normal((3, 40), generator("weights", device))
        others = log_w.clone()
        others[1:] = others[1:].flip(1) * 2
        for resampler in self.instances():
            here = resampler(log_w, generator("a", device))[0]
            there = resampler(others, generator("a", device))[0]
            assert torch.equal(here, there), f"{resampler!r}: system 0 depends on the others"

    def test_systems_have_their_own_randomness(self, device: torch.device) -> None:
        log_w = normal((1, 40), generator("weights", device)).expand(6, 40)
        for resampler in self.instances():
            ancestors = resampler(log_w, generator("a", device))
            assert len(torch.unique(ancestors, dim=0)) > 1, f"{resampler!r}: systems are copies"


def _near(counts: Tensor, expected: Tensor, bias: float) -> None:
    """Mean counts (R, N) are within `bias` of those expected, none of weight zero, none wild."""
    assert not bool(counts[:, expected == 0].any()), "particles of weight zero were chosen"
    total = float(expected.sum())
    assert bool((counts.sum(1) == round(total)).all()), f"not {total:.0f} ancestors"
    nearest = counts.double().mean(0).clamp(expected - bias, expected + bias)
    z_test(counts, nearest, ceiling=(total / len(counts)) ** 0.5)
