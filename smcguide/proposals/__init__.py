"""Proposals: what replaces the base kernel."""

from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.proposals.dtm import DTM, Published
from smcguide.proposals.gradient import Gradient

__all__ = ["DTM", "Bootstrap", "Gradient", "Proposal", "Published", "Step"]
