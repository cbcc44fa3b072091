"""Ending tracked connections to guests that are gone, or that bypass a published port.

Firewall rules see the first packet of a flow; what is established goes on without them, until its
entry in connection tracking is deleted. What could not be ended is on record (``FLOWS``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

from hvtx.engine import lines, notice
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.model.firewall import addresses_in, firewall_spec
from hvtx.model.resource import FIREWALL_KINDS, FLOWS, GONE, Kind, Outcome, Resource, State
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.model.vm import Publish
from hvtx.store import intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.engine.operation import RunningOperation


class Unended(NamedTuple):
    """Addresses of guests to which something may still flow, and why."""

    addresses: frozenset[str]
    words: str


def end(addresses: Sequence[str], later: ExitStack) -> Unended | None:
    """End what still flows to guests that are gone; what could not be ended ends no release."""
    try:
        failpoint.reach("flushing")
        from hvtx.drivers import flows  # the last thing to load: out of descriptors, it fails

        flows.flush(addresses, later)
    except (HvtxError, OSError) as problem:
        left: frozenset[str] = getattr(problem, "addresses", frozenset(addresses))
        return Unended(left, _said(problem))
    return None


def kept_for(
    rows: Sequence[Resource], outcomes: Mapping[int, Outcome], unended: Unended
) -> dict[int, Outcome]:
    """The firewall rows that stay on record, though their rules are gone, until all has ended."""
    from hvtx.model.reason import Reason

    left: dict[str | None, set[str]] = {}  # by VM
    for row in rows:
        own = unended.addresses.intersection(guest_addresses(row))
        left.setdefault(row.vm, set()).update(own)
    kept = {}
    for row in rows:
        if outcomes[row.id].gone and not unended.addresses.isdisjoint(guest_addresses(row)):
            to = ", ".join(sorted(left[row.vm]))
            words = f"connections to {to} may continue: {unended.words}"
            kept[row.id] = Outcome(False, Reason.FLOWS_REMAIN, words)
    return kept


def guest_addresses(row: Resource) -> list[str]:
    """The addresses of the guest that a firewall row is about."""
    if row.kind not in FIREWALL_KINDS or row.vm is None:
        return []
    spec = firewall_spec(row)
    return [*addresses_in(spec), *filter(None, [spec.get("address")])]


def end_past_new(
    operation: RunningOperation, rows: Sequence[Resource], observed: Mapping[int, Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """End what datagrams to a freshly published port still follow: rules see new flows only.

    What cannot be ended now keeps no VM from starting: ``observed`` of its rows, which is
    returned, says so, and gc goes on with it.
    """
    doors = _doors(rows)
    words = _close_doors(doors.values())
    if words is None:
        return {}
    notice.warning(f"{words}; `hvtx gc --apply` tries again")
    with operation.runtime.store.transaction() as sql:
        operation.history(sql, [Event("failed", words)])
    return {row: {**observed.get(row, {}), FLOWS: True} for row in doors}


def owed(rows: Sequence[Resource]) -> str | None:
    """What is noted of these rows as not ended; None if nothing is."""
    doors = _doors([row for row in rows if FLOWS in row.observed])
    return _bypassed(doors.values()) if doors else None


def end_past(operation: RunningOperation, rows: Sequence[Resource]) -> Outcome:
    """The same for ports that are published already; whether it is still due is noted."""
    from hvtx.model.reason import Reason

    doors = _doors(rows)
    words = _close_doors(doors.values())
    due = words is not None
    # as they are now: `rows` may be of before the VM's lock was had
    now = operation.runtime.read(records.resources_by_id, list(doors)) if doors else {}
    changed = [
        row
        for row in now.values()
        if row.state != State.RELEASED and (FLOWS in row.observed) != due
    ]
    if changed:
        with operation.runtime.store.transaction() as sql:
            for row in changed:
                intents.amend_observed(sql, row.id, {FLOWS: True if due else None})
            if not due:
                operation.history(
                    sql, [lines.ended(row, operation.vm_name(sql, row)) for row in changed]
                )
    return GONE if words is None else Outcome(False, Reason.FLOWS_REMAIN, words)


def end_taken(gone: Sequence[Resource], staying: Sequence[Resource]) -> Outcome | None:
    """End what came by rows that are gone while their VM goes on; None if all has ended.

    What comes by one of the ports of ``staying`` too goes on.
    """
    from hvtx.model.reason import Reason

    doors = [_door(row) for row in gone if row.kind == Kind.PUBLISH]
    if not doors:
        return None
    kept = [_door(row) for row in staying if row.kind == Kind.PUBLISH]
    try:
        failpoint.reach("flushing:taken")
        from hvtx.drivers import flows

        flows.flush_taken((flows.Door(*d) for d in doors), [flows.Door(*d) for d in kept])
    except (HvtxError, OSError) as problem:
        ports = ", ".join(f"{port.host_port}/{port.protocol}" for port, _ in doors)
        words = f"connections by port {ports} may continue: {_said(problem)}"
        return Outcome(False, Reason.FLOWS_REMAIN, words)
    return None


def _door(row: Resource) -> tuple[Publish, tuple[str, ...]]:
    """A port that a row publishes, with its guest's addresses."""
    s = firewall_spec(row)
    return (
        Publish(s["protocol"], s["host_ip"], s["host_port"], s["guest_port"]),
        tuple(address for address in (s["ipv4"], s["ipv6"]) if address),
    )


def _doors(rows: Sequence[Resource]) -> dict[int, tuple[Publish, tuple[str, ...]]]:
    """The UDP ports that rows publish, each with its guest's addresses, by row."""
    return {
        row.id: _door(row)
        for row in rows
        if row.kind == Kind.PUBLISH and firewall_spec(row)["protocol"] == "udp"
    }


def _close_doors(doors: Iterable[tuple[Publish, tuple[str, ...]]]) -> str | None:
    """End flows to ports that do not lead to the guests they are published for; why not, if so."""
    wanted = list(doors)
    if not wanted:
        return None
    try:
        failpoint.reach("flushing:ports")
        from hvtx.drivers import flows

        flows.flush_ports(flows.Door(*door) for door in wanted)
    except (HvtxError, OSError) as problem:
        return f"{_bypassed(wanted)}: {_said(problem)}"
    return None


def _bypassed(doors: Iterable[tuple[Publish, tuple[str, ...]]]) -> str:
    ports = ", ".join(f"{port.host_port}/{port.protocol}" for port, _ in doors)
    return f"flows that existed before may bypass the VM at port {ports}"


def _said(problem: Exception) -> str:
    hint = getattr(problem, "hint", None)
    return f"{problem} ({hint})" if hint else str(problem)
