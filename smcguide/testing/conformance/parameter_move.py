"""What is promised of a move of parameters."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smcguide.errors import InvalidInput
from smcguide.parameter_moves.base import ParameterMove
from smcguide.potentials.base import Potential
from smcguide.potentials.terminal import Terminal
from smcguide.potentials.tweedie import Tweedie
from smcguide.testing.conformance.base import Suite, assert_same, rounding
from smcguide.testing.statistics import generator, z_test
from smcguide.testing.unknown import BananaLaw, unknown_noise_estimates, unknown_noise_model
from smcguide.triggers import always, ess_below

VALUES = pytest.mark.parametrize("potential", [Tweedie(), Terminal()], ids=repr)
NUM_VISITS = 20


class ParameterMoveSuite(Suite):
    """Write `instances`, returning one or two moves that in two dimensions visibly move and are
    sometimes rejected.

    Attributes:
        num_particles: size of the invariance test.
        num_systems: size of the evidence test.
        ceiling: largest standard error of the mean of its evidence ratios.
    """

    num_particles = 8000
    num_systems = 1500
    ceiling = 0.05

    def instances(self) -> Sequence[ParameterMove]:
        raise NotImplementedError(f"{type(self).__name__} must return one or two moves.")

    def test_sizes_are_positive_numbers(self) -> None:
        for move in self.instances():
            for p in (1, 2, 50):
                sizes = [move.size(n, p) for n in range(2 * move.num_moves)]
                assert all(0 < e < math.inf for e in sizes), f"{move!r}: sizes {sizes} for p = {p}"
                again = [move.size(n, p) for n in range(2 * move.num_moves)]
                assert sizes == again, f"{move!r} is random"

    def test_a_frozen_dataclass_that_knows_its_limits(self) -> None:
        for move in self.instances():
            assert dataclasses.is_dataclass(move)
            with pytest.raises(dataclasses.FrozenInstanceError):
                move.num_moves = 3  # type: ignore[misc]
            assert move == replace(move) != replace(move, every_step=not move.every_step)
            assert type(move).__name__ in repr(move)
            assert isinstance(move.needs_gradient, bool)
            with pytest.raises(InvalidInput, match="at least 1"):
                replace(move, num_moves=0)

    @pytest.mark.parametrize("k", [0, 2])
    def test_the_law_given_the_path_stays(
        self, device: torch.device, dtype: torch.dtype, k: int
    ) -> None:
        for move in self.instances():
            law = BananaLaw(move, k, torch.zeros((), dtype=dtype, device=device))
            x, begun = law.population((1, self.num_particles), f"{move!r} {k}")
            law.test(begun)
            fields: Mapping[str, Tensor] = begun
            source, rates = generator(f"moves {move!r} {k}", device), []
            for _ in range(NUM_VISITS):
                fields = law.visit(x, fields, source)
                rates.append(fields["parameter_acceptance"])
            rate = float(torch.stack(rates).mean())
            assert rate > 0.05, f"{move!r} accepts {rate:.2g} of its candidates"
            distance = (fields["theta"] - begun["theta"]).norm(dim=-1).mean()
            assert float(distance) > 0.5, f"{move!r} hardly moves"
            law.test(fields)

    def test_what_a_visit_leaves_behind_belongs_to_its_parameters(
        self, device: torch.device, dtype: torch.dtype
    ) -> None:
        for move in self.instances():
            law = BananaLaw(move, 1, torch.zeros((), dtype=dtype, device=device))
            x, before = law.population((2, 50), "fields")
            after = law.visit(x, before, generator("visit", device))
            assert not torch.equal(after["theta"], before["theta"]), f"{move!r} does not move"
            value = law.model.value_of(1, x, after)
            assert_same(after["log_psi"], value, rounding(dtype), f"log_psi after {move!r}")
            for name in before.keys() - {"theta", "log_psi"}:
                assert torch.equal(after[name], before[name]), f"{move!r} changes {name}"

    def test_only_the_generator_decides(self, device: torch.device, dtype: torch.dtype) -> None:
        for move in self.instances():
            law = BananaLaw(move, 1, torch.zeros((), dtype=dtype, device=device))
            given = law.population((1, 50), "few")
            first, again, other = (
                law.visit(*given, generator(name, device))["theta"] for name in "aab"
            )
            assert torch.equal(first, again), f"{move!r} does not follow the generator"
            assert not torch.equal(first, other), f"{move!r} ignores the generator"

    @VALUES
    @pytest.mark.parametrize("when", ["every_step", "resampled"])
    def test_evidence_and_posterior_means_are_unbiased(
        self, device: torch.device, dtype: torch.dtype, potential: Potential, when: str
    ) -> None:
        like = torch.zeros((), dtype=dtype, device=device)
        for move in self.instances():
            move = replace(move, every_step=when == "every_step")
            trigger = ess_below(0.9) if move.every_step else always()
            model = unknown_noise_model(move, potential, like)
            estimates = unknown_noise_estimates(model, trigger, 16, self.num_systems)
            z_test(estimates, 1.0, self.ceiling)
