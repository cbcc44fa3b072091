"""DEL of the container network interface: the owner's word that an attachment ends.

It needs neither the namespace nor what ADD told, and what is not there is done.
"""

from __future__ import annotations

from hvtx.engine import attachments, privileges
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import vm_scope
from hvtx.engine.transaction import begin
from hvtx.engine.undo import take_down
from hvtx.engine.vm_record import forget_vm
from hvtx.errors import PartialFailure
from hvtx.model.attachment import AttachmentKey
from hvtx.model.resource import Kind, State
from hvtx.model.typed import Any
from hvtx.planner.attaching import name_of
from hvtx.planner.scope import VmScope
from hvtx.store import records


def delete(runtime: Runtime, key: AttachmentKey) -> None:
    """Release an attachment and free its addresses and ports.

    Raises PartialFailure (the host refused a part, which stays `releasing`: gc does the rest),
    NotPermitted, Busy.
    """
    if runtime.store.missing:
        return
    runtime.enter()
    name = name_of(key)
    runtime.lock("vm", name)
    if attachments.find(runtime, key) is not None:
        remove(runtime, vm_scope(runtime, name))


def remove(runtime: Runtime, scope: VmScope) -> None:
    """The same of an attachment whose lock is held, whether it lives or not."""
    vm = scope.vm
    rows = [row for row in scope.rows if row.kind != Kind.LEASE]
    privileges.need_for(rows)
    # where all was released and only the end is not on record, no row tells of it
    cut = any(known.vm == vm.name for known in runtime.read(records.operations))
    half_done = cut or scope.provisional or any(row.state != State.COMMITTED for row in rows)
    with begin(runtime, "cni-del", vm=vm.name) as (_, operation):
        pass

    def forget(sql: Any) -> None:
        operation.history(sql, [forget_vm(sql, vm.id)])

    kept = take_down(operation, rows, reason="cni-del", gone=forget)
    if half_done:
        from hvtx.engine.interrupted import close_interrupted

        close_interrupted(runtime)
    if kept:
        from hvtx.engine import leftovers

        left = "; ".join(dict.fromkeys(outcome.message for _, outcome in kept))
        raise PartialFailure(
            f"attachment {vm.name} has ended, but not all of it could be released: {left}",
            hint=leftovers.hint(runtime, kept),
        )
