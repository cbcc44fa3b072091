"""Ending what a VM process left running, when an operator ends its VM."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.host import survivors
from hvtx.model.resource import process_observed
from hvtx.model.typed import TYPE_CHECKING
from hvtx.model.user import is_own
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.drivers.vm_process.stop import Tell
    from hvtx.engine.operation import RunningOperation
    from hvtx.model.resource import Resource
    from hvtx.model.vm import Identity


def end_survivors(
    operation: RunningOperation,
    row: Resource,
    identity: Identity,
    devices: Sequence[str],
    tell: Tell | None,
    *,
    force: bool,
) -> None:
    """End other processes of the user that the VM alone runs as; its own process has ended.

    ``devices`` are the names of its TAPs.

    A user of the settings, and that of hvtx, may have other processes: none of theirs is touched.
    """
    user = process_observed(row).get("user")
    if not isinstance(user, int) or not is_own(user):
        return
    runtime = operation.runtime
    found = survivors.end(user, identity, devices, force=force)
    events = []
    if found.ended:
        words = f"ended further processes of VM {row.key}: {found.ended}"
        events.append(Event("completed", words))
    if found.left:
        words = f"processes of user {user}, which is VM {row.key}'s, are left: {found.left}"
        events.append(Event("failed", words))
        if tell is not None:
            tell(f"{words} (ps -u {user})")
    if events:
        with runtime.store.transaction() as sql:
            operation.history(sql, events)
