"""Many processes: the same script with and without `torchrun --nproc-per-node 4 script.py`."""

from smcguide.distributed.islands import Islands
from smcguide.distributed.running import run
from smcguide.distributed.sharded import Sharded
from smcguide.distributed.systems import run_systems
from smcguide.distributed.world import LostProcess, World, device, join

__all__ = [
    "Islands",
    "LostProcess",
    "Sharded",
    "World",
    "device",
    "join",
    "run",
    "run_systems",
]
