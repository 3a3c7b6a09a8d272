"""Random streams made from one seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator


def generators(seed: int, device: torch.device) -> list[Generator]:
    """Two independent streams: one for the model's noise, one for resampling."""
    states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    return [Generator(device).manual_seed(int(s >> np.uint64(1))) for s in states]


@contextmanager
def seeded(generator: Generator) -> Iterator[None]:
    """For code that draws from torch's global generator on the CPU: seeded by `generator` inside, as
    it was after."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))  # and no accelerator's
        yield
