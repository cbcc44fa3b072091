"""A VM's record leaves the store."""

from __future__ import annotations

from hvtx.model.typed import Any
from hvtx.store import records
from hvtx.store.history import Event


def forget_vm(sql: Any, vm: str) -> Event:
    """Take a VM's record out of the store (its resources are gone); the line that tells of it.

    The line keeps the record, so that `vm create --from-log` can make it again.
    """
    own = records.attachment_of(sql, vm)
    record = records.vm_record(sql, vm)
    records.remove_vm(sql, vm)
    words = f"VM {record['name']}" + (f", {own.words}" if own else "")
    return Event("removed", words, vm=record["name"], detail=record)
