"""The history as it is read.

Annotations are not strings here: NamedTuple compiles each that is one, at every start.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.typed import Any, NamedTuple


class Line(NamedTuple):
    """One line: what an operation did, and to what."""

    time: str  # RFC 3339 in UTC
    operation: int | None
    verb: str
    vm: str | None
    kind: str | None
    key: str | None
    event: str  # made, removed, kept, skipped, forgotten, completed, began, ended, failed …
    reason: str | None
    message: str
    detail: Mapping[str, Any] | None = None  # what the thing was: enough to have it again
