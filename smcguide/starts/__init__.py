"""How the first population is made."""

from smcguide.starts.base import Start

__all__ = ["Start"]
