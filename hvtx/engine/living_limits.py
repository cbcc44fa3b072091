"""The limits of a VM that runs: changed under its devices, carried through if interrupted.

The rows of its devices say the new limits before the kernel is asked, together with the VM's
record: whoever finds the change interrupted holds the devices to what their rows say. Each
direction is held to the old limit or to the new one all along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hvtx.errors import HostRefused, HvtxError
from hvtx.host import failpoint
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.limiting import told
from hvtx.model.policy import Limits
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Operation as Interrupted
from hvtx.model.vm import Vm
from hvtx.store import intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.drivers.base import DeviceDriver
    from hvtx.engine.transaction import Operation

VERB = "set"


def devices_of(rows: Iterable[Resource], life: int) -> list[Resource]:
    """The devices of a VM that are up in this life of the host."""
    return [
        row
        for row in rows
        if row.kind == Kind.TAP and row.state == State.COMMITTED and row.life == life
    ]


def with_limits(row: Resource, limits: Limits) -> Resource:
    """A device's row as it is with these limits (pure)."""
    spec = {name: value for name, value in row.spec.items() if name != "limit"}
    return row._replace(spec={**spec, "limit": told(limits)} if any(limits) else spec)


def record(sql: Any, vm: Vm, devices: Sequence[Resource]) -> None:
    """Put limits on record, of a VM and of its devices."""
    records.set_vm(sql, vm)
    for row in devices:
        intents.record_spec(sql, row.id, row.spec)


def change(operation: Operation, before: Vm, old: Sequence[Resource], limits: Limits) -> None:
    """Hold the devices of a running VM to what is on record by now, or put all back as it was.

    ``old`` are its devices' rows as they were. The caller holds the VM's lock, and has begun the
    operation with :func:`record`. Raises HostRefused, NotPermitted.
    """
    driver = operation.runtime.devices()
    try:
        operation.raise_pending_interrupt()
        hold(driver, [with_limits(row, limits) for row in old])
        failpoint.reach("acted:limit")
    except (Exception, KeyboardInterrupt):
        hold(driver, old)
        back = Event("changed", f"VM {before.name}: its limits are as they were", reason="undone")
        operation.end("undone", events=[back], then=lambda sql: record(sql, before, old))
        raise
    operation.end("done")


def hold(driver: DeviceDriver, devices: Sequence[Resource]) -> None:
    """Hold devices to the limits of their rows. Raises HostRefused, NotPermitted."""
    try:
        driver.limit(devices)
    except (OSError, DumpInterrupted) as problem:  # what is there by now is listed first
        words = problem.strerror if isinstance(problem, OSError) else problem
        raise HostRefused(
            f"the kernel refused the limit of {', '.join(row.key for row in devices)}: {words}",
            hint="`hvtx doctor` checks this host",
        ) from problem


def carry_through(interrupted: Iterable[Interrupted], hold_vm: Callable[[str], bool]) -> set[int]:
    """Carry interrupted changes through; the operations of which that could not be done yet.

    ``hold_vm`` holds the devices of a VM, by its name, to their rows (:func:`hold`); False if it
    cannot yet.
    """
    left = set()
    for operation in interrupted:
        if operation.verb == VERB and operation.vm is not None:
            try:
                done = hold_vm(operation.vm)
            except HvtxError:
                done = False
            if not done:
                left.add(operation.id)
    return left


def devices_by_name(sql: Any, name: str, life: int) -> list[Resource]:
    """The devices of a VM that are up, by its name."""
    vm = records.find_vm(sql, name)
    return devices_of(records.resources_of_vm(sql, vm.id), life) if vm is not None else []
