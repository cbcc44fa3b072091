"""``hvtx/removed/1``: `vm rm --json`, `network rm --json`."""

from __future__ import annotations

from hvtx.model.typed import Any


def document(kind: str, name: str) -> dict[str, Any]:
    """What was removed; ``kind`` is ``vm`` or ``network``."""
    return {"schema": "hvtx/removed/1", kind: name}
