"""``hvtx/logs/1``: `vm logs --json`."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.model.typed import Any


def document(vm: str, path: str, lines: Sequence[str]) -> dict[str, Any]:
    """A VM's log; ``path`` is the file that is written to now."""
    return {"schema": "hvtx/logs/1", "vm": vm, "path": path, "lines": list(lines)}
