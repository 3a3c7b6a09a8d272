"""Random streams made from one seed."""

import numpy as np
import torch
from torch import Generator


def generators(seed: int, device: torch.device) -> list[Generator]:
    """Two independent streams: one for the model's noise, one for resampling."""
    states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    return [Generator(device).manual_seed(int(s >> np.uint64(1))) for s in states]
