"""One page that says what was run and whether to trust it."""

from smcguide.report.page import write_report

__all__ = ["write_report"]
