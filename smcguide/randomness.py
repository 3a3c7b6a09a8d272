"""Random streams made from one seed, and the numbers of the step.

On the CPU many numbers in float64 come from numpy's SFC64, seeded with 192 bits of the torch generator
for each tensor: uniform, exponential and normal ones take less time than torch's. Few numbers, float32
and every other device are torch's own. Either way the torch generator is the only state.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

Shape = tuple[int, ...]
_MANY = 1024  # numbers, which pay for a stream of their own


def generators(seed: int, device: torch.device) -> list[Generator]:
    """Two independent streams: one for the model's noise, one for resampling."""
    states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    return [Generator(device).manual_seed(int(s >> np.uint64(1))) for s in states]


def normals(shape: Shape, generator: Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers on the generator's device."""
    if dtype == torch.float64 and _is_worth_a_stream(shape, generator):
        return _filled(shape, generator, "standard_normal")
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)


def uniforms(shape: Shape, generator: Generator) -> Tensor:
    """Uniform numbers in [0, 1), float64, on the generator's device."""
    if _is_worth_a_stream(shape, generator):
        return _filled(shape, generator, "random")
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


def exponentials(shape: Shape, generator: Generator) -> Tensor:
    """Exponential numbers of mean 1, float64, on the generator's device."""
    if _is_worth_a_stream(shape, generator):
        return _filled(shape, generator, "standard_exponential")
    return torch.log1p(-uniforms(shape, generator)).neg_()


def _is_worth_a_stream(shape: Shape, generator: Generator) -> bool:
    return generator.device.type == "cpu" and math.prod(shape) >= _MANY


def _filled(shape: Shape, generator: Generator, kind: str) -> Tensor:
    words = torch.empty(3, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    out = torch.empty(shape, dtype=torch.float64)
    getattr(_stream(words.numpy().view(np.uint64)), kind)(out=out.numpy())
    return out


def _stream(words: np.ndarray) -> "np.random.Generator":
    """The stream that random words seed as they are: numpy's own way mixes them for longer than many
    draws take."""
    seed: Any = _seed_sequence()(words)
    return np.random.Generator(np.random.SFC64(seed))


@cache
def _seed_sequence() -> type:
    """Made at the first call: importing numpy.random takes a while."""

    class Words(np.random.bit_generator.ISeedSequence):
        def __init__(self, words: np.ndarray) -> None:
            self.words = words

        def generate_state(self, n_words: int, dtype: Any = None) -> Any:
            return self.words

    return Words


@contextmanager
def seeded(generator: Generator) -> Iterator[None]:
    """For code that draws from torch's global generator on the CPU: seeded by `generator` inside, as
    it was after."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))  # and no accelerator's
        yield
