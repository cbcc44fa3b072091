"""Which parts of a snapshot to read again, or to leave out, when the host changed meanwhile.

Record and host cannot be seen in one moment; ``engine/snapshot.py`` looks at them in an order, and
asks here what follows from two looks that differ (docs/adr/0016). Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.model.mark import Mark, parse_mark
from hvtx.model.plan import NetworkFacts, OperationFacts, VmFacts
from hvtx.model.resource import (
    DEVICES,
    FIREWALL_KINDS,
    Address,
    Entry,
    Kind,
    Link,
    RawResource,
    Resource,
    State,
    address_spec,
)
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Epoch, Liveness, Operation

_DEVICES = DEVICES
_ON_DEVICES = DEVICES | {Kind.ADDRESS}
_LISTED = FIREWALL_KINDS | {Kind.ADDRESS}


class Before(NamedTuple):
    """The operations, before anything was looked at."""

    newest: int
    running: Mapping[int, bool]  # of those that had not ended, whether they held their locks

    def runs(self, operation: int) -> bool:
        """Whether an operation ran then or was begun later; what others did is all to be seen."""
        return operation > self.newest or self.running.get(operation, False)


class Record(NamedTuple):
    """The store at one moment."""

    life: int  # of the host, that this is read in
    seq: int
    newest: int  # operation
    rows: list[Resource]  # that are judged one by one
    tombstones: Mapping[str, Resource]  # by mark, those whose mark was seen
    operations: Sequence[Operation]  # that had not ended
    vms: Sequence[tuple[str, str, str, bool]]  # id, name, hypervisor, provisional
    lives: Mapping[int, Epoch]
    networks: Mapping[str, NetworkFacts]
    raw: Sequence[RawResource] = ()  # all of them as they stand in the table, or none
    attached: Mapping[str, str] = {}  # by VM that is a container's interface: whose it is


class Seen(NamedTuple):
    """What was seen of the host."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    entries: Sequence[Entry]


class Again(NamedTuple):
    """What of the host is looked at once more."""

    marks: set[str]  # whose entries are taken from the second look
    devices: set[int]  # by index, each by itself
    addressed: set[int]  # devices whose addresses are
    backends: set[str]  # of the firewall


def unknown_marks(known: Collection[str], seen: set[str]) -> list[str]:
    """Marks that were seen and are no live row's; a mark is unique among all rows."""
    return [mark for mark in seen.difference(known) if isinstance(parse_mark(mark), Mark)]


def late(
    before: Before,
    underway: set[int],
    record: Record,
    seen: Seen,
    expected: Mapping[int, tuple[Entry, ...]],
) -> list[Resource]:
    """Rows of which the host showed otherwise than they say, so that they are looked at again.

    Of firewalls and addresses those that an operation moved while the host was looked at:
    tombstones whose object was seen, and live rows whose object was not. Of devices all such, since
    a dump can miss one. What an operation still works on may be there or not, but a device that it
    is making is marked in a moment. What one worked on that has died since is looked at in any
    case: it may have been seen, and be gone.
    """
    found = [
        row
        for row in record.tombstones.values()
        if row.kind in _DEVICES or before.runs(row.operation)
    ]
    by_index = {link.ifindex: link for link in seen.links}
    moved = []
    for row in record.rows:
        if before.runs(row.operation):
            moved.append(row)
        elif row.kind in _DEVICES and row.ifindex not in by_index:
            found += [row] if row.life == record.life else []  # no device survives a life
    if not moved:
        return found
    # whatever their handles
    entries = {(entry.backend, *entry.marked_key) for entry in seen.entries}
    addresses = {(address.ifindex, address.address) for address in seen.addresses}

    def there(row: Resource) -> bool:
        device = row.kind in _DEVICES
        link = by_index.get(row.ifindex) if device else None
        if row.state != State.COMMITTED and row.operation in underway:
            return link is None or link.alias is not None
        if row.state != State.COMMITTED and (device or row.kind in _LISTED):
            return False
        if device:
            return link is not None and link.alias == row.mark
        if row.kind in FIREWALL_KINDS:
            wanted = expected.get(row.id, ())
            return entries.issuperset((e.backend, *e.marked_key) for e in wanted)
        if row.kind == Kind.ADDRESS:
            return (row.ifindex, address_spec(row)["address"]) in addresses
        return True

    return [*found, *(row for row in moved if not there(row))]


def again(rows: Iterable[Resource], links: Iterable[Link]) -> Again:
    """What belongs to these rows: devices by their index, of firewalls what carries their marks."""
    rows = list(rows)
    marks = {row.mark for row in rows}
    devices = {row.ifindex for row in rows if row.kind in _DEVICES}
    devices |= {link.ifindex for link in links if link.alias in marks}
    addressed = {row.ifindex for row in rows if row.kind == Kind.ADDRESS}
    backends = {row.backend for row in rows if row.kind in FIREWALL_KINDS}
    return Again(marks, devices, addressed, backends)


def suspects(
    rows: Iterable[Resource],
    vms: Mapping[str, VmFacts],
    links: Iterable[Link],
    settled: Collection[str] = (),
) -> set[str]:
    """Names of TAP devices that no live VM of ours accounts for; ``settled``: marks of such."""
    living = {vm for vm, known in vms.items() if known.liveness is Liveness.ALIVE}
    found = {row.key for row in rows if row.kind == Kind.TAP and row.vm not in living}
    alive = {row.mark for row in rows if row.vm in living}.union(settled)
    return found | {link.name for link in links if link.kind == "tun" and link.alias not in alive}


def devices_judged(
    rows: Iterable[Resource], links: Iterable[Link], settled: Collection[str]
) -> set[int]:
    """The indexes of devices about whose traffic control a plan may ask.

    Those that rows stand for, or that stand in the place of one; and those with a mark that no
    settled VM's row has.
    """
    own = [row for row in rows if row.kind in _ON_DEVICES]
    indexes = {row.ifindex for row in own}
    names = {row.key for row in own}
    return {
        link.ifindex
        for link in links
        if link.ifindex in indexes
        or link.name in names
        or (link.alias and link.alias not in settled and parse_mark(link.alias) is not None)
    }


def doubtful(
    rows: Iterable[Resource],
    vms: Mapping[str, VmFacts],
    underway: set[int],
    looked_again: Iterable[Resource],
) -> list[Resource]:
    """Rows that something may be concluded from: their owner is dead, or they were left half-done.

    And those that were looked at again.
    """
    dead = {vm for vm, known in vms.items() if known.liveness is Liveness.DEAD}
    found = {row.id: row for row in looked_again}
    for row in rows:
        if row.vm in dead or (row.state != State.COMMITTED and row.operation not in underway):
            found[row.id] = row
    return list(found.values())


Begun = Sequence[tuple[int, str, str | None]]  # operation, verb, name of its VM


def operation_facts(
    record: Record, underway: set[int], *, ended: Iterable[int] = (), begun: Begun = ()
) -> dict[int, OperationFacts]:
    """The operations of the record, with those that have ``ended`` or were ``begun`` since.

    What such an operation did is in some of the looks and not in others, so it counts as running
    even if it has ended. So does one whose lock is free because it has ended by now.
    """
    known = {
        operation.id: OperationFacts(operation.verb, operation.vm, operation.id in underway)
        for operation in record.operations
    }
    known.update((number, known[number]._replace(running=True)) for number in ended)
    known.update((number, OperationFacts(verb, vm, True)) for number, verb, vm in begun)
    return known


def asked_again(record: Record, doubted: Iterable[Resource], begun: Begun) -> dict[int, Resource]:
    """Rows that may have moved since the record was read, by id: the doubtful ones of these.

    And each row of a VM that an operation was begun on since.
    """
    vms = vms_of(record, begun)
    return {row.id: row for row in (*doubted, *(r for r in record.rows if r.vm in vms))}


def vms_of(record: Record, begun: Begun) -> set[str]:
    """The VMs (by id) that operations were begun on."""
    names = {vm for _, _, vm in begun}
    return {vm for vm, name, _, _ in record.vms if name in names}


def unmarked(
    rows: Iterable[Resource], underway: Collection[int], links: Iterable[Link]
) -> frozenset[int]:
    """Rows whose device a running operation has made by now, and has not marked.

    It does so in its next message. That may have to wait for rtnetlink's lock, which all network
    namespaces of a host share, for longer than anybody who looks would.
    """
    made = [
        row
        for row in rows
        if row.operation in underway and row.kind in _DEVICES and row.state == State.INTENDED
    ]
    if not made:  # nearly always: the links of thousands of VMs are left alone
        return frozenset()
    bare = {link.ifindex for link in links if link.alias is None}
    return frozenset(row.id for row in made if row.ifindex in bare)


Whereabouts = tuple[str, int, Mapping[str, Any]]  # state, operation, what was learnt of a row


def moved_since(asked: Mapping[int, Resource], now: Mapping[int, Whereabouts]) -> frozenset[int]:
    """Which rows moved; ``now`` is where each is that is still there.

    With one row of a VM all that were asked for: what is concluded of one follows from the others,
    most of all from that of the process, of which a start learns last.
    """
    moved = {
        number
        for number, row in asked.items()
        if now.get(number) != (row.state, row.operation, row.observed)
    }
    vms = {asked[number].vm for number in moved} - {None}
    return frozenset(moved | {number for number, row in asked.items() if row.vm in vms})
