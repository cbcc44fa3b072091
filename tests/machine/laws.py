"""What must hold of every sequence: pure questions about what was there before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hvtx.model.resource import BRIDGE_GROUP, FIREWALL_KINDS, Kind, Resource
from hvtx.rulesets.nftables_elements import pieces
from tests.machine.world import Look, Record

Key = tuple[Any, ...]
_FRESH = ("bridge", "veth")  # made by one message, and marked by the next
_DEVICES = (Kind.TAP, Kind.VETH)


def is_ours(mark: str | None, installation: str) -> bool:
    """Whether a mark is of this installation."""
    return bool(installation) and bool(mark) and str(mark).startswith(f"hvtx:1:{installation}:")


def foreign_objects(look: Look, record: Record, made: set[int], pids: set[int]) -> dict[Key, Any]:
    """What no run of hvtx may change: everything that does not carry our mark in its own place.

    ``made`` are the devices that others made, whatever mark they copied onto them; ``pids``
    their processes.
    """
    ours = record.installation
    table_of = f"hvtx-{ours}"
    found: dict[Key, Any] = {}
    own_links = set()
    for index, link in look.links.items():
        fresh = link.kind in _FRESH and link.group == BRIDGE_GROUP and link.alias is None
        if index not in made and (is_ours(link.alias, ours) or fresh):
            own_links.add(index)
        else:
            found["link", index] = link
    known = {a for row in record.rows if row.kind == Kind.BRIDGE for a in row.spec["addresses"]}
    for address in look.addresses:
        if address.ifindex not in own_links or address.address not in known:
            found["address", *address] = True
    for place, comment in look.tables.items():
        if not (place[1] == table_of and is_ours(comment, ours)):
            found["table", *place] = comment
    for rule, (expressions, comment) in look.rules.items():
        if not (rule[1] == table_of and is_ours(comment, ours)):
            found["rule", *rule] = (expressions, comment)
    for element, (data, comment) in look.elements.items():
        if not (element[1] == table_of and is_ours(comment, ours)):
            found["element", *element] = (data, comment)
    for pid in pids & set(look.processes):
        found["process", pid] = True
    return found


def everything(look: Look) -> dict[Key, Any]:
    """The same keys, of all that is there."""
    found: dict[Key, Any] = {("link", index): link for index, link in look.links.items()}
    found |= {("address", *address): True for address in look.addresses}
    found |= {("table", *place): comment for place, comment in look.tables.items()}
    found |= {("rule", *rule): value for rule, value in look.rules.items()}
    found |= {("element", *element): value for element, value in look.elements.items()}
    return found | {("process", pid): True for pid in look.processes}


def alive(look: Look, record: Record) -> dict[str, int]:
    """The VMs on record whose recorded process runs: name and pid."""
    names = {identity: name for name, identity in record.vms.items()}
    return {
        names[row.vm]: row.observed["pid"]
        for row in record.rows
        if row.kind == Kind.PROCESS
        and row.vm in names
        and "pid" in row.observed
        and look.processes.get(row.observed["pid"]) == row.observed["start"]
        and row.life == record.life
    }


def ids_of(record: Record) -> dict[str, int]:
    """The id of the network namespace of each attachment that was committed in this life."""
    names = {identity: name for name, identity in record.vms.items()}
    return {
        names[row.vm]: row.observed["nsid"]
        for row in record.rows
        if row.kind == Kind.NETNS
        and row.vm in names
        and (row.state, row.life) == ("committed", record.life)
        and "nsid" in row.observed
    }


def attached(look: Look, record: Record) -> set[str]:
    """The attachments that live: a network namespace has the id on record."""
    return {vm for vm, nsid in ids_of(record).items() if nsid in look.ids}


def needed(look: Look, record: Record, vm: str) -> dict[Key, Any]:
    """What of the host a live VM lives by and has now: its own things and its networks'."""
    own = [row for row in record.of(vm) if row.life == record.life]
    networks = {row.network for row in own if row.network} | {None}
    shared = [
        row
        for row in record.rows
        if row.vm is None
        and row.network in networks
        and row.state == "committed"
        and row.life == record.life
    ]
    return dict(_there(look, record, [*own, *shared]))


def _there(look: Look, record: Record, rows: list[Resource]) -> Iterator[tuple[Key, Any]]:
    for row in rows:
        if row.kind in (*_DEVICES, Kind.BRIDGE):
            link = look.links.get(row.spec["ifindex"])
            if link is not None and link.alias == row.mark:
                yield ("link", link.ifindex), (link.name, link.alias)
        elif row.kind in FIREWALL_KINDS:
            for piece in pieces(record.installation, row.spec):
                at = (piece.family, piece.table, piece.set, piece.key)
                if at in look.elements and look.elements[at][0] == piece.data:
                    yield ("element", *at), piece.data
        elif row.kind == Kind.ADDRESS:
            for address in look.addresses:
                if address == (row.spec["ifindex"], row.spec["address"]):
                    yield ("address", *address), True


def still(look: Look) -> dict[Key, Any]:
    """The same keys of a later look."""
    found: dict[Key, Any] = {
        ("link", index): (link.name, link.alias) for index, link in look.links.items()
    }
    found |= {("element", *at): data for at, (data, _) in look.elements.items()}
    found |= {("address", *address): True for address in look.addresses}
    return found


def lacking(look: Look, record: Record, vm: str) -> list[str]:
    """What of a VM that should be whole is not there, in words."""
    missing = []
    for row in record.of(vm):
        if row.state != "committed":
            missing.append(f"{row.kind} {row.key} is {row.state}")
        if row.kind in _DEVICES:
            link = look.links.get(row.spec["ifindex"])
            if link is None or link.alias != row.mark:
                missing.append(f"{row.kind} {row.key}: {link}")
            elif not link.up or look.links.get(link.master) is None:
                missing.append(f"{row.kind} {row.key} is down or not plugged: {link}")
        elif row.kind in FIREWALL_KINDS:
            for piece in pieces(record.installation, row.spec):
                there = look.elements.get((piece.family, piece.table, piece.set, piece.key))
                if there != (piece.data, row.mark):
                    missing.append(f"{row.key}: {piece.set} has {there}")
    return missing


def off_record(look: Look, record: Record, made: set[int]) -> list[str]:
    """Objects of ours that no row, live or released, speaks of; devices whose row is closed.

    (Rules of closed rows may come back: somebody restored what he had saved.)
    """
    ours, found = record.installation, []
    for index, link in look.links.items():
        if index not in made and link.alias in record.closed:
            found.append(f"device {link.name}, whose row is closed: {link.alias}")
        if index not in made and is_ours(link.alias, ours) and link.alias not in record.marks:
            found.append(f"device {link.name} with {link.alias}")
    for place, comment in look.tables.items():
        if is_ours(comment, ours) and comment not in record.marks:
            found.append(f"table {place} with {comment}")
    for element, (_, comment) in look.elements.items():
        if is_ours(comment, ours) and comment not in record.marks:
            found.append(f"element {element} with {comment}")
    return found


def unmarked(before: Look, after: Look, record: Record, stripped: set[int]) -> list[str]:
    """Devices that hvtx made and left without a mark that its rows know."""
    found = []
    for index, link in after.links.items():
        if index in before.links or index in stripped:
            continue
        if link.alias in record.marks:
            continue
        first = [
            row
            for row in record.rows
            if row.kind in (Kind.BRIDGE, Kind.VETH)
            and row.spec["ifindex"] == index
            and row.spec["mac"] == link.mac
            and link.group == BRIDGE_GROUP
        ]
        if not first:
            found.append(f"device {link.name} ({link.alias})")
    return found


def changed(before: dict[Key, Any], after: dict[Key, Any]) -> list[str]:
    """What of ``before`` is gone or another thing by now."""
    return [
        f"{key}: {value} -> {after.get(key, 'gone')}"
        for key, value in before.items()
        if after.get(key) != value
    ]
