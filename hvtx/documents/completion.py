"""``hvtx/completion/1``: `completion --json`."""

from __future__ import annotations

from hvtx.model.typed import Any


def document(shell: str, script: str) -> dict[str, Any]:
    """What a shell is to read so that it completes command lines of hvtx."""
    return {"schema": "hvtx/completion/1", "shell": shell, "script": script}
