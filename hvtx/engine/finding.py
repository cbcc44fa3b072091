"""What one of doctor's checks found."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One check's result: ``level`` is ok, warning or error."""

    check: str
    level: str
    message: str
    evidence: tuple[str, ...] = ()
    hint: str | None = None
