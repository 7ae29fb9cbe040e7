"""What a check found: evidence, the option that cures it, and what that should do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """name: a short key for programs. evidence: what was counted or measured, beside its reference. option: what to
    turn. effect: what that should do."""

    name: str
    evidence: str
    option: str
    effect: str

    def __str__(self) -> str:
        return f"{self.evidence}: {self.option}, {self.effect}"

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """findings: none where nothing was found wrong. references: (what, value, what to read beside it)."""

    findings: tuple[Finding, ...]
    references: tuple[tuple[str, str, str], ...]

    def lines(self) -> list[str]:
        """For a log or a card: the findings, then the figures beside their references."""
        count = len(self.findings)
        head = f"verdict: {count} finding{'s' if count != 1 else ''}" if count else "verdict: nothing found wrong"
        told = [f"- {finding}" for finding in self.findings]
        return [head, *told, *(f"  {name} {value} ({beside})" for name, value, beside in self.references)]

    def markdown(self) -> str:
        """For a model card."""
        lines = [f"- {finding}" for finding in self.findings] or ["Nothing was found wrong."]
        beside = [f"- {name} {value} ({reference})" for name, value, reference in self.references]
        return "\n".join(["## Verdict", "", *lines, "", *beside]).replace("<", "&lt;").rstrip() + "\n"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        references = [{"name": name, "value": value, "beside": beside} for name, value, beside in self.references]
        return {"findings": [finding.to_dict() for finding in self.findings], "references": references}
