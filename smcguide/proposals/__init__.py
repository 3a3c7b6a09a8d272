"""Proposals: what replaces the base kernel."""

from smcguide.proposals.base import Proposal, Step
from smcguide.proposals.bootstrap import Bootstrap
from smcguide.proposals.dtm import DTM
from smcguide.proposals.gradient import Gradient
from smcguide.proposals.published import Published

__all__ = ["DTM", "Bootstrap", "Gradient", "Proposal", "Published", "Step"]
