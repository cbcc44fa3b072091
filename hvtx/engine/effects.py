"""The effects of an operation: what it makes and removes in the host, in order.

The only place that calls the drivers' ``create`` and ``release``. All of it happens outside of
store transactions; what became of each row goes back to the protocol
(:mod:`hvtx.engine.transaction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby

from hvtx.engine import flows, loopback, port_holders
from hvtx.engine.registry import driver_name
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import (
    FIREWALL_KINDS,
    GONE,
    PORTS,
    Kind,
    Link,
    Outcome,
    Resource,
    State,
    address_spec,
)
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.planner.order import creation_order, release_order
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.drivers.base import DeviceDriver, Driver
    from hvtx.engine.operation import RunningOperation
    from hvtx.model.plan import Item

_BEFORE_FLOWS = FIREWALL_KINDS | {Kind.VETH}  # what goes before flows are ended
_WITH_PORT = FIREWALL_KINDS | {Kind.LEASE}  # what stays with a container's port
_ATTACHED = 64  # devices that are asked at a time whether somebody has them: a descriptor each


def create(operation: RunningOperation, rows: Sequence[Resource]) -> dict[int, Mapping[str, Any]]:
    """Make everything but the process; what was read back, by row. Stops at the first error."""
    operation.raise_pending_interrupt()
    runtime = operation.runtime
    observed: dict[int, Mapping[str, Any]] = {}
    for name, batch in groupby(creation_order(rows), key=driver_name):
        if not name:
            continue
        part = list(batch)
        observed |= made_by(runtime.drivers.of(name), part)
        if part[0].kind in FIREWALL_KINDS:
            observed |= flows.end_past_new(operation, part, observed)
            if any(row.kind == Kind.PUBLISH for row in part):
                loopback.settle(runtime, part)
        failpoint.reach(f"acted:{'filter' if name == 'nftables' else name}")
    return observed


def made_by(driver: Driver, rows: Sequence[Resource]) -> Mapping[int, Mapping[str, Any]]:
    """What one driver makes of its rows: those of an operation, of a repair, or of a trial."""
    return driver.create(rows)


def exchange(
    operation: RunningOperation, gone: Sequence[Resource], made: Sequence[Resource]
) -> dict[int, Mapping[str, Any]]:
    """What stands for ``made`` takes the place of what stands for ``gone``, driver by driver.

    Whether there is a moment between the two is the driver's:
    :meth:`hvtx.drivers.base.ExchangingDriver.exchange`. Returns what was read back, by row of
    ``made``. Given again it comes to the same end. Raises HvtxError.
    """
    observed: dict[int, Mapping[str, Any]] = {}
    names = dict.fromkeys(driver_name(row) for row in creation_order([*made, *gone]))
    for name in names:
        driver = operation.runtime.drivers.exchanging(name)
        observed |= driver.exchange(
            [row for row in gone if driver_name(row) == name],
            [row for row in made if driver_name(row) == name],
        )
        failpoint.reach(f"exchanged:{name}")
    return observed


def remove(operation: RunningOperation, rows: Sequence[Resource]) -> dict[int, Outcome]:
    """Remove what rows stand for: go on past errors, keep what a refusal of its bridge would tear.

    Devices are held first, so that a VM whose device somebody else has open keeps all of its
    things, and none of them loses only its firewall. Containers' ports go before all else: where
    one stays, so do its firewall and its addresses.
    """
    rows = release_order(rows)
    unnamed = _unnamed_devices(operation, rows)
    taps = _taps_of(rows, unnamed)
    with ExitStack() as later:  # closed after the devices: what the kernel waits for overlaps
        try:
            busy = _attach_taps(operation, rows, taps)
            rows = [row for row in rows if row.id not in busy]
            ports = _standing_ports(operation, unnamed)
            return busy | _remove_attached(operation, rows, ports, later)
        finally:
            if taps:  # a VM of which one device is busy has others that are held by now
                operation.runtime.devices().detach()


def _unnamed_devices(operation: RunningOperation, rows: Sequence[Resource]) -> list[Resource]:
    """The devices of VMs of which ``rows`` has rules or addresses, and no device.

    A plan takes them so that was made of an old dump, or whose device has to stay.
    """
    runtime = operation.runtime
    bare = {row.vm for row in rows if row.vm and row.kind in _WITH_PORT}
    found: list[Resource] = []
    for vm in sorted(bare - {row.vm for row in rows if row.kind in PORTS}):
        own = runtime.read(records.resources_of_vm, vm)
        found += [row for row in own if row.kind in PORTS and row.life == runtime.life.id]
    return found


def _taps_of(rows: Sequence[Resource], unnamed: Sequence[Resource]) -> list[Resource]:
    """Every TAP of the VMs of which ``rows`` has a device or rules."""
    guarded = {row.vm for row in rows if row.kind in FIREWALL_KINDS}
    taps = [row for row in rows if row.kind == Kind.TAP]
    return taps + [row for row in unnamed if row.kind == Kind.TAP and row.vm in guarded]


def _standing_ports(
    operation: RunningOperation, unnamed: Sequence[Resource]
) -> dict[str | None, Outcome]:
    """Why containers' ports stay that are not to go themselves, by VM."""
    pairs = [row for row in unnamed if row.kind == Kind.VETH]
    if not pairs:
        return {}
    standing = operation.runtime.drivers.of("veth").standing(pairs)
    return {row.vm: standing[row.id] for row in pairs if row.id in standing}


def _attach_taps(
    operation: RunningOperation, rows: Sequence[Resource], taps: Sequence[Resource]
) -> dict[int, Outcome]:
    """Hold the TAPs; what of ``rows`` is kept because somebody else holds one."""
    if not taps:
        return {}
    runtime = operation.runtime
    try:
        busy = runtime.devices().attach(taps)
    except OSError as problem:  # not even a socket to ask with
        why = Outcome(False, "observe-failed", f"TAP devices could not be attached: {problem}")
        busy = {tap.id: why for tap in taps}
    failpoint.reach("seized")
    held = {row.vm: busy[row.id] for row in taps if row.id in busy}
    kept = {
        row.id: held[row.vm]._replace(message=f"{row.key} is kept: {held[row.vm].message}")
        for row in rows
        if row.vm is not None and row.vm in held
    }
    return kept | {row: outcome for row, outcome in busy.items() if row in kept}


def _remove_attached(
    operation: RunningOperation,
    rows: Sequence[Resource],
    ports: dict[str | None, Outcome],
    later: ExitStack,
) -> dict[int, Outcome]:
    """The same of what nobody holds; ``ports``: why those of containers stay, by VM."""
    outcomes: dict[int, Outcome] = {}
    unended: flows.Unended | None = None
    flushed = False
    for name, batch in groupby(rows, key=driver_name):
        part = list(batch)
        if not flushed and part[0].kind not in _BEFORE_FLOWS:
            unended = _end_flows(rows, outcomes, later)
            flushed = True
        kept = {row.id: why for row in part if (why := _kept_by(row, rows, outcomes, ports))}
        part = [row for row in part if row.id not in kept]
        outcomes |= kept
        if not name:
            outcomes.update((row.id, GONE) for row in part)
        elif part:
            outcomes |= released_by(operation.runtime.drivers.of(name), part)
            left = [row for row in part if row.kind == Kind.VETH and not outcomes[row.id].gone]
            ports |= {row.vm: outcomes[row.id] for row in left}
            failpoint.reach(f"released:{name}")
    if not flushed:
        unended = _end_flows(rows, outcomes, later)
    if any(row.kind == Kind.PUBLISH for row in rows):
        outcomes |= loopback.settle_gone(operation.runtime, outcomes, rows)
    if unended is not None:
        outcomes |= flows.kept_for(rows, outcomes, unended)
    return outcomes | port_holders.end_gone(outcomes, rows)


def released_by(driver: Driver, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
    """What one driver says of each row that it is to remove; an error keeps all of them."""
    try:
        return driver.release(rows)
    except HvtxError as problem:
        kept = Outcome(False, problem.code, problem.message)
    except (OSError, DumpInterrupted) as problem:  # out of descriptors, of memory …
        name = driver_name(rows[0])
        kept = Outcome(False, "observe-failed", f"{name} could not be worked on: {problem}")
    return {row.id: kept for row in rows}


def remove_seen(driver: Driver, item: Item, addresses: Sequence[str] = ()) -> Outcome:
    """Remove a device that no live row accounts for, by the mark that was seen on it.

    ``addresses`` (with prefix length) of it are nobody else's.
    """
    link = item.link
    assert link is not None
    row = _seen_device(item.kind, link, item.mark, item.row, addresses)
    return released_by(driver, [row])[row.id]


def held_by_others(devices: DeviceDriver, taps: Sequence[Link]) -> list[Outcome]:
    """Those of some marked TAP devices that somebody has open, or that could not be attached to.

    All are asked, some at a time; none is held afterwards.
    """
    rows = [_seen_device(Kind.TAP, link, link.alias) for link in taps]
    busy: list[Outcome] = []
    for start in range(0, len(rows), _ATTACHED):
        try:
            try:
                busy += devices.attach(rows[start : start + _ATTACHED]).values()
            finally:
                devices.detach()
        except (OSError, DumpInterrupted) as problem:
            words = f"TAP devices could not be attached: {problem}"
            busy.append(Outcome(False, "observe-failed", words))
    return busy


def remove_seen_file(driver: Driver, item: Item) -> Outcome:
    """Remove a run-time directory or a seed that no row accounts for, by the mark seen on it."""
    row = _seen(item.kind, item.key, item.mark, item.row, {"path": item.key}, {})
    return released_by(driver, [row])[row.id]


def _seen_device(
    kind: str, link: Link, mark: str | None, row: int = 0, addresses: Sequence[str] = ()
) -> Resource:
    """A device as the row of it would be; of several that no row is of, each has its own number."""
    spec: dict[str, Any] = {"ifindex": link.ifindex, "device": link.name, "mac": link.mac}
    spec["addresses"] = list(addresses)
    return _seen(kind, link.name, mark, row or -link.ifindex, spec, {"ifindex": link.ifindex})


def _seen(
    kind: str,
    key: str,
    mark: str | None,
    row: int,
    spec: dict[str, Any],
    observed: dict[str, Any],
) -> Resource:
    assert mark is not None
    return Resource(
        id=row,
        kind=kind,
        key=key,
        # with no other state the mark alone is the proof: it may have been taken off meanwhile
        state=State.COMMITTED,
        mark=mark,
        spec=spec,
        observed=observed,
        operation=0,
        life=0,
        vm=None,
        network=None,
    )


def end_absent(operation: RunningOperation, rows: Sequence[Resource]) -> None:
    """End what stands beside objects that are proven absent, before their rows are closed.

    A service of an earlier life of the host, in a namespace that is gone, may have outlived it.
    """
    services = [row for row in rows if row.is_service]
    if services:
        released_by(operation.runtime.drivers.of("dnsmasq"), services)
    loopback.settle(operation.runtime, rows, {row.id for row in rows})
    with suppress(OSError):  # of another boot or pid namespace, for one
        port_holders.end_all(rows)


def _end_flows(
    rows: Sequence[Resource], outcomes: Mapping[int, Outcome], later: ExitStack
) -> flows.Unended | None:
    """End what still flows to guests whose rules are gone, and new ones of whom none begins."""
    gone = (row for row in rows if row.id in outcomes and outcomes[row.id].gone)
    addresses = sorted({address for row in gone for address in flows.guest_addresses(row)})
    return flows.end(addresses, later) if addresses else None


def _kept_by(
    row: Resource,
    rows: Sequence[Resource],
    outcomes: Mapping[int, Outcome],
    ports: Mapping[str | None, Outcome],
) -> Outcome | None:
    """Why a row is kept since a device refused to go; None: it is not.

    With the address of a bridge that stays, others' could go. A container's port that stays
    (``ports``) is up: its rules hold it, and its addresses are nobody else's.
    """
    if row.kind == Kind.ADDRESS and _bridge_stayed(row, rows, outcomes):
        return Outcome(False, "foreign-dependents", f"{row.key} stays with its bridge")
    if row.kind in _WITH_PORT and row.vm is not None and row.vm in ports:
        why = ports[row.vm]
        return why._replace(message=f"{row.key} is kept: {why.message}")
    return None


def _bridge_stayed(
    row: Resource, rows: Sequence[Resource], outcomes: Mapping[int, Outcome]
) -> bool:
    """Whether an address's bridge refused to go: deleting the address could take others with it."""
    return any(
        other.kind == Kind.BRIDGE
        and other.key == address_spec(row)["device"]
        and other.id in outcomes
        and not outcomes[other.id].gone
        for other in rows
    )
