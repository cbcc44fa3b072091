"""Presence of a row's object on the host: one verdict per row, from a snapshot.

Silence proves nothing: a row whose area could not be read is ``unknown``, never ``absent``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter

from hvtx.model.place import Place
from hvtx.model.plan import Snapshot
from hvtx.model.reason import Reason
from hvtx.model.remaking import awaits_mark
from hvtx.model.resource import (
    BRIDGE_GROUP,
    DEVICES,
    EXCHANGE,
    FIREWALL_KINDS,
    Entry,
    Kind,
    Link,
    Resource,
    address_spec,
    device_spec,
    file_spec,
    identity_in,
    process_observed,
)
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Liveness, ProcessFacts
from hvtx.planner.states import judge_process

SET_VALUE = " -> "  # between the key of an element of a map and where it leads
OBJECT_KEY = itemgetter(0, 1, 2)  # `Entry.object_key`, called by C code alone


class Presence(NamedTuple):
    """``here``: True, False, or None for unknown; ``problem`` wins over both."""

    here: bool | None
    evidence: tuple[str, ...]
    problem: Reason | None = None
    link: Link | None = None
    complete: bool = True  # False where only a part of several entries is there


_ONLY_ON_RECORD = Presence(True, ())
_LINK_KINDS: Mapping[str, str] = {Kind.TAP: "tun", Kind.VETH: "veth", Kind.BRIDGE: "bridge"}


class SnapshotIndex(NamedTuple):
    """What was seen, indexed once for a whole plan."""

    by_index: Mapping[int, Link]
    by_name: Mapping[str, Link]
    by_mark: Mapping[str, Sequence[Entry]]
    bare: EntriesByKey
    marks_of_links: Mapping[str, Sequence[Link]]
    addresses: frozenset[tuple[int, str]]  # by the index of their device


class EntriesByKey:
    """Entries by what they are, whatever their mark; sorted out when first asked for.

    That is when something is missing, which is hardly ever so.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Keep them for later."""
        self._entries = entries
        self._sorted: dict[tuple[str, Place, str], list[Entry]] = {}

    def get(self, key: tuple[str, Place, str]) -> Sequence[Entry]:
        """The entries of this backend, place and text."""
        if not self._sorted:
            for entry in self._entries:
                same = entry.object_key
                self._sorted.setdefault(same, []).append(entry)
        return self._sorted.get(key, ())


def index(snapshot: Snapshot) -> SnapshotIndex:
    """Index a snapshot's sights."""
    by_mark: dict[str, list[Entry]] = {}
    for entry in snapshot.entries:
        if entry.mark:
            by_mark.setdefault(entry.mark, []).append(entry)
    marks: dict[str, list[Link]] = {}
    for link in snapshot.links:
        if link.alias:
            marks.setdefault(link.alias, []).append(link)
    return SnapshotIndex(
        by_index={link.ifindex: link for link in snapshot.links},
        by_name={link.name: link for link in snapshot.links},
        by_mark=by_mark,
        bare=EntriesByKey(snapshot.entries),
        marks_of_links=marks,
        addresses=frozenset((one.ifindex, one.address) for one in snapshot.addresses),
    )


def presence(row: Resource, snapshot: Snapshot, sights: SnapshotIndex) -> Presence:
    """The verdict for one row; rows without an object of their own count as here."""
    if row.kind in DEVICES:
        return _link_presence(row, snapshot, sights)
    if row.kind in FIREWALL_KINDS:
        return _entry_presence(row, snapshot, sights)
    if row.kind == Kind.ADDRESS:
        return _address_presence(row, snapshot, sights)
    if row.kind == Kind.FILE:
        return _file_presence(row, snapshot)
    if row.is_service:
        return _service_presence(row, snapshot)
    return _ONLY_ON_RECORD


def _link_presence(row: Resource, snapshot: Snapshot, sights: SnapshotIndex) -> Presence:
    failed = snapshot.failures.get("links")
    if failed:
        return Presence(None, (failed,))
    seen = sights.by_index.get(row.ifindex)
    if seen is None:
        foreign_object = sights.by_name.get(row.key)
        if foreign_object is None:
            return Presence(False, (f"no device with index {row.ifindex}",))
        alias = f"alias {foreign_object.alias}" if foreign_object.alias else "no alias"
        return Presence(
            None,
            (f"{foreign_object.name} has index {foreign_object.ifindex} and {alias}",),
            Reason.MARK_MISMATCH,
            foreign_object,
        )
    kind = _LINK_KINDS[row.kind]
    if seen.kind == kind and seen.alias == row.mark:
        drift = () if seen.name == row.key else (f"renamed to {seen.name}",)
        return Presence(True, (f"alias {seen.alias}", *drift), None, seen)
    if (
        row.kind in (Kind.BRIDGE, Kind.VETH)
        and awaits_mark(row)
        and (seen.kind, seen.alias, seen.group) == (kind, None, BRIDGE_GROUP)
        and seen.mac == device_spec(row)["mac"]
    ):
        return Presence(True, (f"recorded MAC {seen.mac} and group",), None, seen, complete=False)
    alias = f"alias {seen.alias}" if seen.alias else "no alias"
    return Presence(None, (f"{seen.name} has {alias}",), Reason.MARK_MISMATCH, seen)


def _entry_presence(row: Resource, snapshot: Snapshot, sights: SnapshotIndex) -> Presence:
    failed = snapshot.failures.get(row.backend)
    if failed:
        return Presence(None, (failed,))
    wanted, seen = snapshot.expected.get(row.id, ()), sights.by_mark.get(row.mark, ())
    # nearly always, and soon said: without a call for each of a table's many rules
    if wanted and {*map(OBJECT_KEY, seen)}.issuperset(map(OBJECT_KEY, wanted)):
        return Presence(True, (f"comment {row.mark}",))
    expected = Counter(e.object_key for e in wanted)
    own = Counter(e.object_key for e in seen)
    found = [key for key in expected if own[key]]
    missing = [key for key in expected if not own[key]]
    for key in missing:
        others = sights.bare.get(key)
        if others and EXCHANGE in row.observed:  # another row's is where it was, or is to be
            own_marks = {known.mark for known in snapshot.rows}
            others = [entry for entry in others if entry.mark not in own_marks]
        if others:
            other = min(others, key=lambda entry: entry.mark or "")  # whatever the dump's order
            reason = Reason.MARK_STRIPPED if other.mark is None else Reason.MARK_MISMATCH
            carried = f"comment {other.mark}" if other.mark else "no mark"
            return Presence(None, (f"{other.place}: {other.text} has {carried}",), reason)
    changed = _edited(missing, seen)
    if changed is None and not found and row.imported:
        # nobody puts it back: if it were gone, it would stay for good, and off the record
        changed = _changed(wanted, seen)
    if changed is not None:
        words = (f"{changed.place}: {changed.text} carries its mark",)
        return Presence(None, words, Reason.EDITED_COPY)
    if not found:
        return Presence(False, ("nothing in the firewall carries its mark",))
    return Presence(True, (f"comment {row.mark}",), complete=not missing)


def _edited(missing: Sequence[tuple[str, Place, str]], seen: Sequence[Entry]) -> Entry | None:
    """An element of a map with the mark and key of one that is missing, which leads elsewhere.

    No release takes it, and no start finds its place free: it is no copy beside what was made.
    """
    keys = {_key(*one) for one in missing if SET_VALUE in one[2]}
    if not keys:
        return None
    found = [e for e in seen if not e.handle and _key(*e.object_key) in keys]
    return min(found, key=lambda e: (str(e.place), e.text), default=None)


def _key(backend: str, place: Place, text: str) -> tuple[str, Place, str]:
    return backend, place, text.partition(SET_VALUE)[0]


def _changed(wanted: Sequence[Entry], seen: Sequence[Entry]) -> Entry | None:
    """What stands where a rule stood, with its mark, and is not as it was."""
    places = {entry.place for entry in wanted}
    return next((entry for entry in seen if entry.place in places), None)


def _address_presence(row: Resource, snapshot: Snapshot, sights: SnapshotIndex) -> Presence:
    failed = snapshot.failures.get("addresses") or snapshot.failures.get("links")
    if failed:
        return Presence(None, (failed,))
    spec = address_spec(row)
    ifindex, wanted = spec["ifindex"], spec["address"]
    if (ifindex, wanted) not in sights.addresses:
        return Presence(False, (f"{wanted} is not on {spec['device']}",))
    link = sights.by_index.get(ifindex)
    if link is None or link.alias != spec["owner"]:
        return Presence(None, (f"{spec['device']} lacks the network's mark",), Reason.MARK_MISMATCH)
    return Presence(True, (f"on {link.name} with {link.alias}",))


def _file_presence(row: Resource, snapshot: Snapshot) -> Presence:
    path = file_spec(row)["path"]
    found = snapshot.files.get(path)
    unread = snapshot.failures.get(path)
    if unread is not None:
        return Presence(None, (unread,))
    if found is None:
        return Presence(False, (f"{path} is not there",))
    if found != row.mark:
        return Presence(None, (f"it carries {found!r}",), Reason.MARK_MISMATCH)
    return Presence(True, (f"its mark is {found}",))


def _service_presence(row: Resource, snapshot: Snapshot) -> Presence:
    """Whether a network's dnsmasq runs; one that was not started yet is absent."""
    identity = identity_in(process_observed(row))
    if identity is None:
        return Presence(False, ("it was never started",))
    seen = snapshot.processes.get(row.id, ProcessFacts(False, error="it was not inspected"))
    verdict, evidence = judge_process(row, identity, snapshot.life, seen)
    here = {Liveness.ALIVE: True, Liveness.DEAD: False}.get(verdict)
    return Presence(here, evidence)
