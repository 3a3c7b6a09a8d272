"""What is promised of a resampler."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from smcguide.resamplers.base import Resampler
from smcguide.testing.conformance.base import Suite, normal
from smcguide.testing.statistics import generator, mean_counts_test


def counts_of(ancestors: Tensor) -> Tensor:
    """How often each particle was chosen, (S, N), for ancestors (S, N)."""
    return torch.zeros_like(ancestors).scatter_add_(1, ancestors, torch.ones_like(ancestors))


class ResamplerSuite(Suite):
    """Write `instances`, returning one or two resamplers."""

    def instances(self) -> Sequence[Resampler]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two resamplers.")

    @pytest.mark.parametrize("spread", [0.5, 3.0], ids="spread {}".format)
    def test_mean_counts_are_n_times_the_weights(self, device: torch.device, spread: float) -> None:
        N, runs = 13, 20_000
        log_w = spread * normal((N,), generator("counts", device))
        log_w[4] = -torch.inf
        for resampler in self.instances():
            ancestors = resampler(log_w.expand(runs, N), generator("resampling", device))
            mean_counts_test(counts_of(ancestors), torch.softmax(log_w, 0))

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
