"""Pretrained priors that ship with the package, loaded exactly as a user's own diffusers folder."""

from importlib.resources import files
from pathlib import Path

from smcguide.errors import InvalidInput
from smcguide.priors.diffusers import from_diffusers
from smcguide.priors.network import NetworkPrior

_NAMES = ("digits",)


def load(name: str) -> NetworkPrior:
    """A prior that ships with the package.

    Arguments:
        name: "digits", 8 x 8 handwritten digits, events (1, 8, 8) with pixels in [-1, 1].

    Raises:
        InvalidInput: for an unknown name.
    """
    if name not in _NAMES:
        raise InvalidInput(f"load: no embedded prior {name!r}; there are {_NAMES}.")
    return from_diffusers(Path(str(files(__package__))) / name)
