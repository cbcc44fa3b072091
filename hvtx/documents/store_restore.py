"""``hvtx/store-restore/1``: `store restore --json`."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.store_backup import Restored


def document(done: Restored) -> dict[str, Any]:
    """What was put back, what is kept of before, and which command goes on from here."""
    return {
        "schema": "hvtx/store-restore/1",
        "file": done.copied.file,
        "installation": done.copied.installation,
        "change": done.copied.change,
        "vms": done.copied.vms,
        "networks": done.copied.networks,
        "kept": done.kept,
        "next": done.next,
        "why": done.why,
    }
