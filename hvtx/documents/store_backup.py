"""``hvtx/store-backup/1``: `store backup --json`."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.store_backup import Copied


def document(done: Copied) -> dict[str, Any]:
    """Where the backup is, and what is in it."""
    return {
        "schema": "hvtx/store-backup/1",
        "file": done.file,
        "installation": done.installation,
        "change": done.change,
        "vms": done.vms,
        "networks": done.networks,
    }
