"""Numbers of the step: their laws from either source, and the generator their only state."""

import pytest
import torch
from scipy import stats

from smcguide import randomness
from smcguide.randomness import exponentials, normals, uniforms
from smcguide.testing import generator

F64 = torch.float64
DRAWS = {
    "norm": lambda shape, g: normals(shape, g, F64),
    "uniform": uniforms,
    "expon": exponentials,
}
MANY, FEW = (4, 50_000), (40, 20)  # from numpy and from torch
each_law = pytest.mark.parametrize("law", DRAWS)


@each_law
@pytest.mark.parametrize("shape", [MANY, FEW], ids=["many", "few"])
def test_numbers_have_their_law(law, shape):
    found = DRAWS[law](shape, generator(law))
    assert found.shape == shape and found.dtype == F64
    assert stats.kstest(found.flatten().numpy(), law).pvalue > 1e-4
    assert stats.kstest(1.4 * found.flatten().numpy() + 0.1, law).pvalue < 1e-4


@each_law
def test_both_sources_are_used(law, monkeypatch):
    """The large ones are not torch's, the small ones are."""
    asked = []
    right = randomness._filled
    monkeypatch.setattr(randomness, "_filled", lambda *a: asked.append(a) or right(*a))
    for shape in (MANY, FEW):
        DRAWS[law](shape, generator(law))
    assert [shape for shape, *_ in asked] == [MANY]


@each_law
def test_the_generator_is_the_only_state(law):
    g = generator(law)
    state = g.get_state()
    first, second = DRAWS[law](MANY, g), DRAWS[law](MANY, g)
    g.set_state(state)
    assert torch.equal(DRAWS[law](MANY, g), first)
    assert torch.equal(DRAWS[law](MANY, g), second)


def test_tensors_one_after_the_other_are_independent():
    """Many short streams, one for each tensor: numbers at the same place, and at neighbouring ones."""
    g = generator("streams")
    rows = torch.stack([normals((1024,), g, F64) for _ in range(2000)])
    one_after_other = (rows[1:] * rows[:-1]).mean(0) * 1999**0.5
    side_by_side = (rows[:, 1:] * rows[:, :-1]).mean(0) * 2000**0.5
    for scores in (one_after_other, side_by_side, rows.mean(0) * 2000**0.5):
        assert stats.kstest(scores.numpy(), "norm").pvalue > 1e-4


def test_float32_is_torchs():
    g, same = generator("32"), generator("32")
    assert torch.equal(normals(MANY, g, torch.float32), torch.randn(MANY, generator=same))
