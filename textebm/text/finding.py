"""What a check found: evidence, the option that cures it, and what that should do."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
