"""`explain`: whose an interface, address, host port, rule or mark is, on what evidence.

The answer is read off the same snapshot and the same plan that gc works from, so that what is said
here is what gc would do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import take_snapshot
from hvtx.errors import NotFound
from hvtx.model.mark import Mark, UnreadableMark, parse_mark
from hvtx.model.plan import Item, Reason, Snapshot
from hvtx.model.resource import Kind, Link, Resource
from hvtx.planner.gc import plan_gc
from hvtx.store import records

# What the names and marks of well-known programs look like; said only as a likeness.
_LIKENESS = (
    (re.compile(r"^(virbr\d+|vnet\d+)"), "libvirt's"),
    (re.compile(r"^(docker\d+|br-[0-9a-f]{12}|veth[0-9a-f]{7})"), "Docker's"),
    (re.compile(r"^(podman\d+|cni-podman\d+)"), "Podman's"),
    (re.compile(r"^(lxcbr\d+|lxdbr\d+|incusbr\d+)"), "LXC's, LXD's or Incus'"),
    (re.compile(r"^(cni\d+|flannel|cali|cilium|kube-)"), "a Kubernetes network plugin's"),
    (re.compile(r"^fc(tap|-)|^tap\d+$|^vmtap"), "a VM tool's or an administrator's"),
    (re.compile(r"^wg\d+"), "WireGuard's"),
)


def explain(runtime: Runtime, text: str) -> dict[str, Any]:
    """The interface's ``explain`` object; raises NotFound for what neither host nor record has."""
    if runtime.refused is not None:
        raise runtime.refused
    snapshot = take_snapshot(runtime)
    plan = plan_gc(snapshot, everything=True)
    for finder in (_by_mark, _by_link, _by_address, _by_port, _by_rule):
        found = finder(runtime, snapshot, text)
        if found is not None:
            matches, fallback = found
            item = next((item for item in plan.items if matches(item)), None)
            return _document(runtime, snapshot, text, item, fallback)
    raise NotFound(
        f"neither this host nor the record has anything called {text!r}",
        hint="give an interface, an address, a host port (8080, 53/udp), a mark, part of a rule",
    )


Finder = tuple[Callable[[Item], bool], str]


def _by_mark(runtime: Runtime, snapshot: Snapshot, text: str) -> Finder | None:
    parsed = parse_mark(text)
    if parsed is None:
        return None
    if isinstance(parsed, UnreadableMark):
        return (lambda item: item.mark == text), "a mark in a form that this program does not know"
    return (lambda item: item.mark == text), _unseen_mark(runtime, parsed, text)


def _unseen_mark(runtime: Runtime, mark: Mark, text: str) -> str:
    if mark.installation != runtime.installation:
        return f"a mark of another installation ({mark.installation}); nothing here carries it"
    row = records.tombstones(runtime.sql, [text]).get(text)
    if row is None:
        return "a mark of this installation that is not on record; nothing here carries it"
    return f"the mark of {row.kind} {row.key}, which was removed; nothing here carries it"


def _by_link(runtime: Runtime, snapshot: Snapshot, text: str) -> Finder | None:
    link = next((link for link in snapshot.links if link.name == text), None)
    row = next(
        (r for r in snapshot.rows if r.kind in (Kind.TAP, Kind.BRIDGE) and r.key == text), None
    )
    if link is None and row is None:
        return None
    words = "on record, but the host has no such device" if link is None else foreign_words(link)
    return (lambda item: (link is not None and item.link == link) or _is(item, row)), words


def _is(item: Item, row: Resource | None) -> bool:
    return row is not None and item.row == row.id


def foreign_words(link: Link) -> str:
    """What can be said of a stranger's device."""
    looks = next((whose for pattern, whose in _LIKENESS if pattern.match(link.name)), None)
    alias = f"its alias is {link.alias!r}" if link.alias else "no mark"
    return f"not ours: {alias}" + (f"; looks like {looks}" if looks else "")


def _by_address(runtime: Runtime, snapshot: Snapshot, text: str) -> Finder | None:
    try:
        address = str(ipaddress.ip_interface(text).ip)
    except ValueError:
        return None
    own = [
        row
        for row in snapshot.rows
        if (row.kind == Kind.LEASE and row.key == address)
        or (row.kind == Kind.ADDRESS and row.key.partition("/")[0] == address)
    ]
    if own:
        return (lambda item: _is(item, own[0])), "on record"
    here = [a for a in snapshot.addresses if a.address.partition("/")[0] == address]
    if here:
        name = next((x.name for x in snapshot.links if x.ifindex == here[0].ifindex), "a device")
        return (lambda item: False), f"not ours: an address of {name}"
    network = next(
        (
            facts.name
            for facts in snapshot.networks.values()
            for cidr in facts.subnets
            if ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
        ),
        None,
    )
    if network is None:
        return None
    return (lambda item: False), f"free: in the subnet of network {network!r}, leased to nobody"


def _by_port(runtime: Runtime, snapshot: Snapshot, text: str) -> Finder | None:
    found = re.fullmatch(r"(?:.*:)?([0-9]{1,5})(?:/(tcp|udp))?", text)
    if not found or not 1 <= int(found[1]) <= 65535:
        return None
    number, protocol = int(found[1]), found[2]
    published = [
        row
        for row in snapshot.rows
        if row.kind == Kind.PUBLISH
        and row.spec["host_port"] == number
        and protocol in (None, row.spec["protocol"])
    ]
    if published:
        return (lambda item: _is(item, published[0])), "published"
    row = runtime.sql.execute(
        "SELECT v.name FROM port p JOIN interface i ON i.id = p.interface JOIN vm v ON v.id = i.vm"
        " WHERE p.host_port = ? AND (? IS NULL OR p.protocol = ?)",
        (number, protocol, protocol),
    ).fetchone()
    if row:
        return (lambda item: False), f"reserved for VM {row[0]!r}, which is not running"
    return (lambda item: False), "not ours: no VM on record publishes this port"


def _by_rule(runtime: Runtime, snapshot: Snapshot, text: str) -> Finder | None:
    def matches(item: Item) -> bool:
        entries = (item.entry, *item.more) if item.entry else ()
        return text == item.key or any(
            e is not None and text in f"{e.place}: {e.text}" for e in entries
        )

    if len(text) < 3 or not any(text in f"{e.place}: {e.text}" for e in snapshot.entries):
        return None
    marks = {e.mark for e in snapshot.entries if e.mark and text in f"{e.place}: {e.text}"}
    return (lambda item: matches(item) or item.mark in marks), "a firewall rule"


# -- the answer ------------------------------------------------------------------------------------


def _document(
    runtime: Runtime, snapshot: Snapshot, text: str, item: Item | None, fallback: str
) -> dict[str, Any]:
    if item is None:
        return {
            "schema": "hvtx/explain/1",
            "object": text,
            "owner": "hvtx"
            if fallback.startswith(("reserved", "free", "on record"))
            else "foreign",
            "vm": None,
            "network": None,
            "record": None,
            "evidence": [],
            "gc": {"action": "skip", "reason": "foreign"},
            "message": f"{text}: {fallback}",
        }
    row = next((row for row in snapshot.rows if row.id == item.row), None)
    network = snapshot.networks.get(row.network) if row and row.network else None
    return {
        "schema": "hvtx/explain/1",
        "object": text,
        "owner": _owner(item),
        "vm": item.vm,
        "network": network.name if network else None,
        "record": _record(runtime, item, row),
        "evidence": list(item.evidence),
        "gc": {"action": item.action.value, "reason": item.reason.value},
        "message": _sentence(text, item, fallback),
    }


def _owner(item: Item) -> str:
    if item.reason is Reason.OTHER_INSTALLATION:
        return "other-installation"
    if item.reason in (Reason.FOREIGN, Reason.MARK_MISMATCH):
        return "foreign"
    if item.reason in (Reason.MARK_UNREADABLE, Reason.MARK_STRIPPED, Reason.UNRECORDED):
        return "unknown"
    if item.reason in (Reason.DUPLICATE_MARK, Reason.EDITED_COPY):
        return "unknown"
    return "hvtx"


def _record(runtime: Runtime, item: Item, row: Resource | None) -> dict[str, Any] | None:
    if not item.row:
        return None
    found = row or records.resources_by_id(runtime.sql, [item.row]).get(item.row)
    if found is None:
        return None
    began = runtime.sql.execute(
        "SELECT verb, began FROM operation WHERE id = ?", (found.operation,)
    ).fetchone()
    return {
        "id": found.id,
        "state": str(found.state),
        "mark": found.mark,
        "operation": found.operation,
        "verb": began[0] if began else None,
        "since": began[1] if began else None,
    }


def _sentence(text: str, item: Item, fallback: str) -> str:
    owner = _owner(item)
    if owner == "foreign":
        return f"{text}: {fallback if item.reason is Reason.FOREIGN else item.message}"
    whose = {
        "hvtx": f"{item.kind} of VM {item.vm!r}"
        if item.vm
        else f"{item.kind} of this installation",
        "other-installation": f"{item.kind} of another installation of hvtx",
        "unknown": f"{item.kind} whose owner cannot be proven",
    }[owner]
    return f"{text}: {whose}; {item.message}"
