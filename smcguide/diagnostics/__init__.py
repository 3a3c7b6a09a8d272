"""Numbers that say whether a run can be trusted."""
