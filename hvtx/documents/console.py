"""``hvtx/console/1``: `vm console --json`."""

from __future__ import annotations

from hvtx.model.typed import Any


def document(vm: str, socket: str) -> dict[str, Any]:
    """Where a VM's console is; ``socket`` is the path to connect to."""
    return {"schema": "hvtx/console/1", "vm": vm, "socket": socket}
