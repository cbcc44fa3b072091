"""``hvtx/cni/1``: `cni install`, `uninstall` and `print`, with ``--json``."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.cni_install import File, Outcome

_SCHEMA = "hvtx/cni/1"


def document(outcome: Outcome) -> dict[str, Any]:
    """What became of the files."""
    files = [{"path": entry.path, "state": entry.state} for entry in outcome.files]
    return {"schema": _SCHEMA, "files": files, "note": outcome.note}


def printed(files: Iterable[File]) -> dict[str, Any]:
    """The files as they would be written."""
    return {
        "schema": _SCHEMA,
        "files": [
            {"path": file.path, "mode": f"{file.mode:04o}", "text": file.text} for file in files
        ],
    }
