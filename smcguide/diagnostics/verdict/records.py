"""Findings, and the verdict that they make."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

SERIOUS, DOUBTFUL, NOTE = "serious", "doubtful", "note"
SEVERITIES = (SERIOUS, DOUBTFUL, NOTE)


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a run.

    Attributes:
        severity: SERIOUS (numbers are wrong, or nobody can tell), DOUBTFUL (worse than it need be, look
            again) or NOTE (worth knowing).
        title: what is the matter.
        evidence: the numbers that say so.
        remedy: what to change.
        name: the same short key for the same matter in any run.
    """

    severity: str
    title: str
    evidence: str
    remedy: str
    name: str


@dataclass(frozen=True)
class Verdict:
    """What speaks against a run, worst first.

    Attributes:
        findings: empty where nothing was found.
        unchecked: what could not be looked at, and what that would take.
    """

    findings: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def is_trusted(self) -> bool:
        """Whether nothing serious was found."""
        return not self.of(SERIOUS)

    @property
    def names(self) -> tuple[str, ...]:
        """The findings' short keys."""
        return tuple(finding.name for finding in self.findings)

    def of(self, severity: str) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_dicts(self) -> list[Mapping[str, str]]:
        """The findings as dictionaries of strings."""
        return [asdict(finding) for finding in self.findings]

    def _counts(self) -> str:
        counts = {severity: len(self.of(severity)) for severity in SEVERITIES}
        words = {SERIOUS: "serious", DOUBTFUL: "doubtful", NOTE: "to note"}
        said = [f"{number} {words[severity]}" for severity, number in counts.items() if number]
        return ", ".join(said) or "nothing found"

    def __repr__(self) -> str:
        return f"Verdict({': '.join(filter(None, [self._counts(), ', '.join(self.names)]))})"

    def __str__(self) -> str:
        lines, said = [f"Verdict: {self._counts()}."], set[str]()
        for finding in self.findings:
            advice = finding.remedy.rstrip(".").split(". ")
            new = [sentence for sentence in advice if sentence not in said]
            said.update(advice)
            lines.append(f"{finding.severity.upper()}: {finding.title}")
            lines.append(f"    {finding.evidence}")
            lines.append(f"    Remedy: {'. '.join(new) or 'as above'}.")
        return "\n".join([*lines, *(f"Not checked: {what}" for what in self.unchecked)])
