"""``hvtx/doctor/1``: `doctor --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.finding import Finding


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """What the checks found."""
    return {
        "schema": "hvtx/doctor/1",
        "findings": [
            {
                "check": finding.check,
                "level": finding.level,
                "message": finding.message,
                "evidence": list(finding.evidence),
                "hint": finding.hint,
            }
            for finding in findings
        ],
    }
