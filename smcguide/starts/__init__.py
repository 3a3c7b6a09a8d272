"""How the first population is made."""

from smcguide.starts.base import Start
from smcguide.starts.psi import PsiStart
from smcguide.starts.tempered import TemperedStart

__all__ = ["PsiStart", "Start", "TemperedStart"]
