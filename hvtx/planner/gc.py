"""What is collectable, and why; what is not, and why not. Pure: a snapshot in, a plan out.

The reasons come in the order of the interface: marks, ``operation-running``, ``vm-alive``,
``liveness-unknown``, ``reserved``, ``in-use``, ``foreign-dependents``, then the reasons to delete.
A deletion needs all three: the row, its very mark on the object, and an owner proven dead (or an
operation that no longer runs).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hvtx.model.mark import Mark, UnreadableMark, parse_mark
from hvtx.model.plan import Action, Item, Plan, Reason, Snapshot, VmFacts
from hvtx.model.resource import (
    FIREWALL_KINDS,
    FLOWS,
    Entry,
    Kind,
    Link,
    Resource,
    State,
    filters_on,
    only_flows_remain,
)
from hvtx.model.vm import Liveness
from hvtx.planner.presence import Presence, Sights, index, presence
from hvtx.planner.remedy import gone

if TYPE_CHECKING:
    from hvtx.model.stranger import StrangeRule

_IFF_TAP = 0x2
# The release attaches before anything of the VM goes, which no holder, seen or not, lets happen.
_HIDDEN = "not every process may be looked into: one that holds it is met by attaching"
_ADDRESS = re.compile(
    r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)(/\d{1,3})?"
)
# Release order: firewall, process record, device, bridge before its addresses, then what only is
# written down; within a kind by row.
# members by another name: an enum's attribute takes five times as long (Python 3.11)
_COMMITTED, _RELEASED = State.COMMITTED.value, State.RELEASED.value
_SKIP, _VM_ALIVE = Action.SKIP, Reason.VM_ALIVE
_ORDER: dict[str, int] = {
    Kind.PUBLISH: 0,
    Kind.MASQUERADE: 1,
    Kind.FILTER: 2,
    Kind.PROCESS: 3,
    Kind.TAP: 4,
    Kind.BRIDGE: 5,
    Kind.ADDRESS: 6,
    Kind.SYSCTL: 7,
    Kind.FILE: 8,
    Kind.LEASE: 9,
}


def plan_gc(
    snapshot: Snapshot, *, everything: bool = False, rules: Sequence[StrangeRule] | None = None
) -> Plan:
    """Judge every row, every marked object, and the strangers that are worth naming.

    With ``everything`` all their devices and NAT rules, with all ``rules`` of the host every one
    of theirs, and their addresses.
    """
    judge = Judge(snapshot)
    items = [judge.row(row) for row in snapshot.rows]
    items += judge.marked_links()
    items += judge.marked_entries()
    items += judge.strangers(everything=everything)
    if rules is not None:
        shown = {item.key for item in items}
        items += [item for item in judge.rest(rules) if item.key not in shown]
    items.sort(key=_place)
    return Plan(tuple(items))


def _place(item: Item) -> tuple[Any, ...]:
    """Where an item stands in a plan: a total order, so that no dump's order shows through."""
    order = _ORDER.get(item.kind, 9) if item.row else 99
    if item.row and item.entry is None and item.state != _RELEASED:
        return (item.vm or "", order, item.row)  # the row's own item: there is one
    handle = item.entry.handle if item.entry else 0
    reason = item.reason.value
    return (item.vm or "", order, item.row, item.kind, item.key, reason, item.evidence, handle)


def release_order(rows: list[Resource]) -> list[Resource]:
    """Rows in the order in which they are released."""

    def key(row: Resource) -> tuple[int, bool, str, int]:
        """A firewall's base after everything that stands in it; one backend after the other."""
        base = row.spec.get("what") == "base"
        firewall = row.kind in FIREWALL_KINDS
        backend = str(row.spec["backend"]) if firewall else ""
        return (_ORDER[Kind.PUBLISH] if firewall else _ORDER[Kind(row.kind)], base, backend, row.id)

    return sorted(rows, key=key)


class Judge:
    """The decision table over one snapshot (pure: it only looks things up in it)."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Index the snapshot once."""
        self.snapshot = snapshot
        self.sights: Sights = index(snapshot)
        self.presences: dict[int, Presence] = {
            row.id: presence(row, snapshot, self.sights) for row in snapshot.rows
        }
        self._uppers: dict[int, list[str]] = {}
        for link in snapshot.links:
            if link.lower:
                self._uppers.setdefault(link.lower, []).append(link.name)
        self._addresses: dict[int, list[str]] = {}
        for address in snapshot.addresses:
            if not address.by_itself:
                self._addresses.setdefault(address.ifindex, []).append(address.address)
        running = {o.vm for o in snapshot.operations.values() if o.running and o.vm}
        self._busy_vms = {vm for vm, facts in snapshot.vms.items() if facts.name in running}
        taps = [row for row in snapshot.rows if row.kind == Kind.TAP and row.vm]
        self.held_vms = {row.vm for row in taps if self._holds(row)}
        self._unseen_vms = {row.vm for row in taps if self._unseen(row)} - self.held_vms
        self._users: dict[str, set[Liveness]] = {}  # who uses a network
        for row in taps:
            if row.network and row.life == snapshot.life.id:
                liveness = Liveness.ALIVE if row.vm in self.held_vms else self._liveness(row.vm)
                self._users.setdefault(row.network, set()).add(liveness)
        self._wholes: dict[int, bool] = {}
        self._places: dict[tuple[str, str, str], list[Resource]] = {}  # who needs what where
        self._filled: set[tuple[str, str, str]] = set()  # where the rows' own entries are
        self._by_mark = {row.mark: row for row in snapshot.rows}
        self._alive = {
            vm: facts
            for vm, facts in snapshot.vms.items()
            if facts.liveness is Liveness.ALIVE and vm not in self._busy_vms
        }

    # -- rows ----------------------------------------------------------------------------------

    def row(self, row: Resource) -> Item:
        """Judge one row; those of live VMs, nearly all, are told first."""
        seen = self.presences[row.id]
        vm = self._alive.get(row.vm or "")
        if vm is not None and self._as_it_should_be(row, seen):
            return self._item(row, _SKIP, _VM_ALIVE, seen, "its VM runs", vm.evidence)
        earlier = row.life != self.snapshot.life.id
        if earlier and seen.here and row.kind in (Kind.TAP, Kind.BRIDGE):
            # no device survives a life
            seen = seen._replace(here=None, problem=Reason.MARK_MISMATCH)
        if row.id in self.snapshot.moving:  # some of what was seen is of what it is no more
            words = "an operation changed it while it was looked at"
            return self._item(row, Action.SKIP, Reason.OPERATION_RUNNING, seen, words)
        if seen.problem is not None:
            words = _STRANGE if earlier else self._in_its_place(row, seen.problem)
            return self._item(row, Action.SKIP, seen.problem, seen, words)
        if self._worked_on(row):
            return self._item(
                row, Action.SKIP, Reason.OPERATION_RUNNING, seen, "an operation is working on it"
            )
        if row.kind == Kind.LEASE and row.state == State.COMMITTED:
            return self._lease(row, seen)
        if earlier:
            return self._row_of_earlier_life(row, seen)
        if row.vm is None:
            return self._row_of_network(row, seen)
        return self._row_of_vm(row, seen, self.snapshot.vms.get(row.vm))

    def _as_it_should_be(self, row: Resource, seen: Presence) -> bool:
        here = seen.here is True and seen.problem is None and FLOWS not in row.observed
        return here and row.state == _COMMITTED and row.life == self.snapshot.life.id

    def _row_of_vm(self, row: Resource, seen: Presence, vm: VmFacts | None) -> Item:
        liveness = vm.liveness if vm else Liveness.UNKNOWN
        evidence = vm.evidence if vm else ("its VM is not on record",)
        if (
            FLOWS in row.observed
            and (row.state, seen.here) == (State.COMMITTED, True)
            and liveness is not Liveness.DEAD  # else its port goes with it, and they do not matter
        ):
            return self._item(row, Action.DELETE, Reason.FLOWS_REMAIN, seen, _PAST, evidence)
        if liveness is Liveness.ALIVE:
            return self._row_of_live_vm(row, seen, evidence)
        if liveness is Liveness.UNKNOWN:
            return self._item(
                row,
                Action.SKIP,
                Reason.LIVENESS_UNKNOWN,
                seen,
                "its VM can be proven neither alive nor dead",
                evidence,
            )
        if row.vm in self.held_vms and not (row.kind == Kind.TAP and self._holders(row)):
            return self._item(
                row,
                Action.SKIP,
                Reason.VM_ALIVE,
                seen,
                "its VM's device is held open, so all of the VM is kept",
                evidence,
            )
        if row.vm in self._unseen_vms:
            return self._item(
                row,
                Action.SKIP,
                Reason.OBSERVE_FAILED,
                seen,
                "it could not be seen whether its VM's device is held open",
                evidence,
            )
        return self._collect(row, seen, evidence)

    def _row_of_live_vm(self, row: Resource, seen: Presence, evidence: tuple[str, ...]) -> Item:
        if row.state == State.INTENDED and self._whole(row):
            return self._item(
                row,
                Action.COMMIT,
                Reason.IN_USE_BEFORE_COMMIT,
                seen,
                "made whole by an interrupted start, and its VM runs: only the record is completed",
                evidence,
            )
        if seen.here is False and row.state == State.COMMITTED:
            return self._item(
                row,
                Action.SKIP,
                Reason.LOST,
                seen,
                gone(row, self._name(row.vm) or ""),
                evidence,
            )
        return self._item(row, Action.SKIP, Reason.VM_ALIVE, seen, "its VM runs", evidence)

    def _row_of_network(self, row: Resource, seen: Presence) -> Item:
        network = self.snapshot.networks.get(row.network) if row.network else None
        users = self._users_of(row)
        if row.state != State.COMMITTED:
            if Liveness.ALIVE in users:
                return self._item(row, Action.SKIP, Reason.VM_ALIVE, seen, "a VM that runs uses it")
            if Liveness.UNKNOWN in users:
                return self._item(
                    row,
                    Action.SKIP,
                    Reason.LIVENESS_UNKNOWN,
                    seen,
                    "a VM uses it that can be proven neither alive nor dead",
                )
            return self._collect(row, seen, ())
        owner = f"network {network.name!r}" if network else "every network of this installation"
        if network is None and row.network is not None:
            owner = "a network that is not on record"
        if seen.here is False:
            return self._item(
                row,
                Action.SKIP,
                Reason.LOST if Liveness.ALIVE in users else Reason.RESERVED,
                seen,
                f"belongs to {owner} and is gone: `hvtx repair` puts it back",
            )
        return self._item(row, Action.SKIP, Reason.RESERVED, seen, f"belongs to {owner}")

    def _users_of(self, row: Resource) -> set[Liveness]:
        """Who would miss a row of a network, or of the installation, if it went."""
        if row.network is not None:
            return self._users.get(row.network, set())
        if row.kind == Kind.SYSCTL or row.spec.get("what") == "pass":
            # nobody: the record goes, the setting stays on; the way to accepts is made anew
            return set()
        networks = {
            other.network
            for other in self.snapshot.rows
            if other.network and other.spec.get("backend") == row.spec.get("backend")
        }
        return {user for network in networks for user in self._users.get(network, ())}

    def _lease(self, row: Resource, seen: Presence) -> Item:
        """A committed lease stays while its VM is on record, dead or alive."""
        vm = self.snapshot.vms.get(row.vm or "")
        if vm is None or vm.liveness is not Liveness.DEAD or row.vm in self.held_vms:
            return self._row_of_vm(row, seen, vm)
        words = f"stays leased while VM {vm.name!r} is on record"
        return self._item(row, Action.SKIP, Reason.RESERVED, seen, words)

    def _collect(self, row: Resource, seen: Presence, evidence: tuple[str, ...]) -> Item:
        """The owner is proven dead, or never was: delete, forget, or say what is in the way."""
        if seen.here is None:
            return self._item(
                row,
                Action.SKIP,
                Reason.OBSERVE_FAILED,
                seen,
                "the host could not be read",
                evidence,
            )
        if seen.here is False and only_flows_remain(row):
            return self._item(row, Action.DELETE, Reason.FLOWS_REMAIN, seen, _UNENDED, evidence)
        if row.kind == Kind.PROCESS or (seen.here is False):
            return self._item(
                row,
                Action.FORGET,
                Reason.ALREADY_GONE,
                seen,
                "on record and proven absent: only the record is closed",
                evidence,
            )
        held = self._holders(row) if row.kind == Kind.TAP else ()
        if row.kind == Kind.TAP and self.snapshot.hidden:
            evidence = (*evidence, _HIDDEN)
        if held:
            return self._item(
                row,
                Action.SKIP,
                Reason.IN_USE,
                seen,
                f"{row.key} is held open by {', '.join(held)}",
                held,
            )
        foreign = self._dependents(row, seen) or self._on_its_bridge(row)
        if foreign:
            return self._item(
                row,
                Action.SKIP,
                Reason.FOREIGN_DEPENDENTS,
                seen,
                f"others put something on it: {', '.join(foreign)}",
                evidence,
            )
        reason, words = {
            State.INTENDED: (Reason.INTENT_ABANDONED, "made by an operation that was interrupted"),
            State.RELEASING: (Reason.RELEASE_INTERRUPTED, "its removal was interrupted"),
        }.get(State(row.state), (Reason.VM_DEAD, "its VM is dead"))
        return self._item(row, Action.DELETE, reason, seen, words, evidence)

    def _row_of_earlier_life(self, row: Resource, seen: Presence) -> Item:
        vm = self.snapshot.vms.get(row.vm) if row.vm else None
        if vm is not None and vm.liveness is not Liveness.DEAD:
            alive = vm.liveness is Liveness.ALIVE  # within one boot a new life proves no VM dead
            reason = Reason.VM_ALIVE if alive else Reason.LIVENESS_UNKNOWN
            words = "its VM was started in an earlier life of this host and is not proven dead"
            return self._item(row, Action.SKIP, reason, seen, words, vm.evidence)
        if seen.here and row.kind in FIREWALL_KINDS:
            return self._item(
                row,
                Action.DELETE,
                Reason.STALE_RESTORED,
                seen,
                "of an earlier life of this host; someone's save and restore brought it back",
            )
        if seen.here and row.kind == Kind.FILE:  # a run directory on a disk outlives the boot
            return self._row_of_vm(row, seen, vm)
        return self._item(
            row,
            Action.FORGET,
            Reason.REBOOTED,
            seen,
            "on record for an earlier life of this host: only the record is closed",
        )

    # -- what carries a mark, but is no row's object ----------------------------------------------

    def marked_links(self) -> list[Item]:
        """Devices with a mark that no row accounts for."""
        items = []
        for mark, links in self.sights.marks_of_links.items():
            row = self._by_mark.get(mark)
            loose = [link for link in links if row is None or self.presences[row.id].link != link]
            parsed = parse_mark(mark) if loose else None
            if parsed is not None:
                items += [self._marked_link(link, mark, parsed, row) for link in loose]
        return items

    def _marked_link(
        self, link: Link, mark: str, parsed: Mark | UnreadableMark, row: Resource | None
    ) -> Item:
        kind = Kind.BRIDGE if link.kind == "bridge" else Kind.TAP
        tombstone = self.snapshot.tombstones.get(mark)
        evidence = (f"alias {mark}", f"index {link.ifindex}")
        base = Item(
            Action.SKIP,
            Reason.UNRECORDED,
            kind,
            link.name,
            None,
            0,
            None,
            evidence,
            "",
            mark,
            link=link,
        )
        foreign = self._foreign_mark(base, parsed)
        if foreign is not None:
            return foreign
        if row is not None:
            return base._replace(
                reason=Reason.DUPLICATE_MARK, message="carries the mark of another object of ours"
            )
        if tombstone is None:
            return base._replace(
                message="marked by this installation, but not on record: `hvtx explain` it"
            )
        base = base._replace(row=tombstone.id, state=tombstone.state)
        if tombstone.kind != kind or tombstone.spec.get("ifindex") != link.ifindex:
            return base._replace(
                reason=Reason.DUPLICATE_MARK,
                message="carries the mark of an object that was removed",
            )
        held = self.snapshot.holders.get(link.name, ())
        if held:
            return base._replace(
                reason=Reason.IN_USE,
                message=f"{link.name} is held open by {', '.join(held)}",
                evidence=(*evidence, *held),
            )
        dependents = self._dependents(tombstone, Presence(True, (), None, link))
        if dependents:
            return base._replace(
                reason=Reason.FOREIGN_DEPENDENTS,
                message=f"others put something on it: {', '.join(dependents)}",
            )
        return base._replace(
            action=Action.DELETE,
            reason=Reason.RELEASED_LEFTOVER,
            message="on record as removed, yet there with the very same mark",
        )

    def marked_entries(self) -> list[Item]:
        """Firewall objects with a mark that no row accounts for, and surplus copies."""
        items = []
        for mark, entries in self.sights.by_mark.items():
            row = self._by_mark.get(mark) or self.snapshot.tombstones.get(mark)
            if row is not None and self._just_as_recorded(row, entries):
                continue
            parsed = parse_mark(mark)
            live = row is not None and row.state != State.RELEASED
            known = self.snapshot.expected.get(row.id, ()) if row and live else ()
            left = Counter(_text(entry) for entry in known)
            # sorted: which copy stays must not depend on the dump's order
            for entry in sorted(entries, key=lambda entry: (entry.handle, _text(entry))):
                if left[_text(entry)] > 0:
                    left[_text(entry)] -= 1
                    continue
                items.append(self._marked_entry(entry, mark, parsed, row))
        return _merged(items)

    def _just_as_recorded(self, row: Resource, entries: Sequence[Entry]) -> bool:
        """Whether these are a live row's own objects, each once: nearly all are."""
        known = self.snapshot.expected.get(row.id, ())
        return (
            row.state != State.RELEASED
            and all(entry in known for entry in entries)
            and len(set(entries)) == len(entries)
        )

    def _marked_entry(
        self, entry: Entry, mark: str, parsed: Mark | UnreadableMark | None, row: Resource | None
    ) -> Item:
        where = f"{entry.place}: {entry.text}"
        base = Item(
            Action.SKIP,
            Reason.UNRECORDED,
            row.kind if row else Kind.FILTER,
            row.key if row else where,
            self._name(row.vm) if row else None,
            row.id if row else 0,
            row.state if row else None,
            (f"comment {mark}", where),
            "",
            mark,
            entry=entry,
        )
        foreign = self._foreign_mark(base, parsed)
        if foreign is not None:
            return foreign
        if row is None:
            return base._replace(
                message="marked by this installation, but not on record: `hvtx explain` it"
            )
        known = self.snapshot.expected.get(row.id, ())
        if _text(entry) not in {_text(other) for other in known}:
            here = any(e.place == entry.place for e in known)
            return base._replace(
                reason=Reason.EDITED_COPY if here else Reason.DUPLICATE_MARK,
                message="a changed copy of a rule of ours"
                if here
                else "carries the mark of a rule of ours",
            )
        if row.state != State.RELEASED:
            if self._worked_on(row):
                return base._replace(
                    reason=Reason.OPERATION_RUNNING,
                    message="a surplus copy, but an operation is working on it",
                )
            return base._replace(
                action=Action.DELETE,
                reason=Reason.DUPLICATE_COPY,
                message="a surplus copy; one stays while its record does",
            )
        return self._leftover(base, entry, row)

    def _leftover(self, base: Item, entry: Entry, row: Resource) -> Item:
        """What is to become of an entry as its tombstone says it was."""
        serving = self._serves(self.sights.by_mark[row.mark])
        if serving is not None and not self._beside_its_own(entry):
            return base._replace(
                reason=serving,
                message="of an earlier start, and restored into the place of what is needed now",
            )
        base = base._replace(alone=serving is not None)
        if row.life != self.snapshot.life.id:
            return base._replace(
                action=Action.DELETE,
                reason=Reason.STALE_RESTORED,
                message="of an earlier life of this host; someone's restore brought it back",
            )
        return base._replace(
            action=Action.DELETE,
            reason=Reason.RELEASED_LEFTOVER,
            message="on record as removed, yet there with the very same mark",
        )

    def _serves(self, entries: Sequence[Entry]) -> Reason | None:
        """Why what stands in a row's own place stays, whatever its mark: its owner lives by it.

        A restore of saved rules puts the elements of an earlier start there; without them packets
        of the VM that runs now would be lost. They go together, so one that serves keeps all but
        those beside their own copy.
        """
        if not self._places:
            self._look_at_places()
        rows = [row for entry in entries for row in self._places.get(_text(entry), ())]
        return next((reason for row in rows if (reason := self._needs(row)) is not None), None)

    def _look_at_places(self) -> None:
        for row in self.snapshot.rows:
            there = {_text(entry) for entry in self.sights.by_mark.get(row.mark, ())}
            for own in self.snapshot.expected.get(row.id, ()):
                if _text(own) in there:
                    self._filled.add(_text(own))
                else:
                    self._places.setdefault(_text(own), []).append(row)

    def _beside_its_own(self, entry: Entry) -> bool:
        """Whether a rule is there for the one that needs it, so that this one serves nobody.

        ``iptables-restore -n`` empties the chains that it fills, and adds to the built-in ones.
        """
        return _text(entry) in self._filled and _text(entry) not in self._places

    def _needs(self, row: Resource) -> Reason | None:
        """Why the owner of a row needs its object now; None if it is dead, or there is none."""
        if self._worked_on(row):
            return Reason.OPERATION_RUNNING
        if row.vm is None:
            return Reason.RESERVED if row.state == State.COMMITTED else None
        liveness = self._liveness(row.vm)
        if liveness is Liveness.ALIVE or row.vm in self.held_vms:
            return Reason.VM_ALIVE
        return Reason.LIVENESS_UNKNOWN if liveness is Liveness.UNKNOWN else None

    def _foreign_mark(self, base: Item, parsed: Mark | UnreadableMark | None) -> Item | None:
        whose = parsed.installation if parsed else None
        if whose is not None and whose != self.snapshot.installation:
            return base._replace(
                reason=Reason.OTHER_INSTALLATION,
                message=f"marked by another installation of hvtx ({whose})",
            )
        if not isinstance(parsed, Mark):
            return base._replace(
                reason=Reason.MARK_UNREADABLE,
                message="its mark has a form this program does not know",
            )
        return None

    # -- strangers -------------------------------------------------------------------------------

    def strangers(self, *, everything: bool) -> list[Item]:
        """TAP devices and NAT rules without our mark; all devices with ``everything``."""
        named = {p.link.ifindex for p in self.presences.values() if p.link is not None}
        items = []
        for link in self.snapshot.links:
            tap = link.kind == "tun" and bool(link.tun_flags & _IFF_TAP)
            if (
                link.ifindex in named
                or parse_mark(link.alias) is not None
                or not (tap or everything)
            ):
                continue
            held = self.snapshot.holders.get(link.name, ())
            evidence = (f"alias {link.alias}" if link.alias else "no alias", *held)
            other = Kind.BRIDGE if link.kind == "bridge" else "device"
            kind = Kind.TAP if tap else other
            items.append(
                Item(
                    Action.SKIP, Reason.FOREIGN, kind, link.name, None, 0, None, evidence,
                    "not ours: it carries no mark of hvtx", link=link,
                )
            )  # fmt: skip
        subnets = [
            (cidr, facts.name)
            for facts in self.snapshot.networks.values()
            for cidr in facts.subnets
        ]
        for entry in self.snapshot.entries:
            if entry.mark is not None or not entry.nat:
                continue
            touched = mentions(entry.text, subnets)
            if not touched and not everything:
                continue
            words = f"; it mentions network {touched}" if touched else ""
            key = f"{entry.place}: {entry.text}"
            items.append(
                Item(
                    Action.SKIP, Reason.FOREIGN, "rule", key, None, 0, None, ("no mark",),
                    f"not ours: it carries no mark of hvtx{words}", entry=entry,
                )
            )  # fmt: skip
        return items

    def rest(self, rules: Sequence[StrangeRule]) -> list[Item]:
        """Strangers' rules of every kind, and the addresses of their devices."""
        names = {link.ifindex: link.name for link in self.snapshot.links}
        ours = {p.link.ifindex for p in self.presences.values() if p.link is not None}
        seen = {(e.place, e.handle) for e in self.snapshot.entries if e.handle and e.nat}
        theirs = [
            ("rule", rule.key, "no mark")
            for rule in rules
            if rule.mark is None and (rule.place, rule.handle) not in seen
        ]
        theirs += [
            (Kind.ADDRESS, address.address, f"on {names.get(address.ifindex, '?')}")
            for address in self.snapshot.addresses
            if address.ifindex not in ours
        ]
        return [
            Item(
                Action.SKIP, Reason.FOREIGN, kind, key, None, 0, None, (evidence,),
                "not ours: it carries no mark of hvtx",
            )
            for kind, key, evidence in theirs
        ]  # fmt: skip

    # -- small questions -------------------------------------------------------------------------

    def _in_its_place(self, row: Resource, problem: Reason) -> str:
        """What stands in the place of a row's thing, and what lets gc go on."""
        from hvtx.planner.leftovers import mends

        return ": ".join((_PROBLEMS[problem], *mends(row, problem, self.snapshot, self.sights)))

    def _worked_on(self, row: Resource) -> bool:
        """Whether a live process is working on the row, or on its VM."""
        operation = self.snapshot.operations.get(row.operation)
        working = operation is not None and operation.running and row.state != State.COMMITTED
        return working or row.vm in self._busy_vms or row.id in self.snapshot.moving

    def _liveness(self, vm: str | None) -> Liveness:
        facts = self.snapshot.vms.get(vm) if vm else None
        return facts.liveness if facts else Liveness.UNKNOWN

    def _holds(self, row: Resource) -> bool:
        """Whether some process has a row's own device open, whatever its alias says by now."""
        link = self.presences[row.id].link
        return link is not None and link.ifindex == row.spec["ifindex"] and bool(self._holders(row))

    def _unseen(self, row: Resource) -> bool:
        """Whether a row's device may be there and held, and that could not be looked at."""
        seen = self.presences[row.id]
        return row.life == self.snapshot.life.id and seen.here is None and seen.problem is None

    def _name(self, vm: str | None) -> str | None:
        facts = self.snapshot.vms.get(vm) if vm else None
        return facts.name if facts else None

    def _holders(self, row: Resource) -> tuple[str, ...]:
        link = self.presences[row.id].link
        return self.snapshot.holders.get(link.name if link else row.key, ())

    def _whole(self, row: Resource) -> bool:
        """Whether everything that the row's operation intended is there."""
        if row.operation not in self._wholes:
            self._wholes[row.operation] = all(
                self.presences[other.id].here and self.presences[other.id].complete
                for other in self.snapshot.rows
                if other.operation == row.operation and other.state == State.INTENDED
            )
        return self._wholes[row.operation]

    def _dependents(self, row: Resource, seen: Presence) -> list[str]:
        """What others put on a device, sorted names first."""
        link = seen.link
        if link is None:
            return []
        upper = list(self._uppers.get(link.ifindex, ()))
        if row.kind == Kind.BRIDGE:
            ours = {r.spec["ifindex"] for r in self.snapshot.rows if r.kind == Kind.TAP}
            upper += [
                other.name
                for other in self.snapshot.links
                if other.master == link.ifindex and other.ifindex not in ours
            ]
        own = set(row.spec.get("addresses", ()))
        upper += [a for a in self._addresses.get(link.ifindex, ()) if a not in own]
        upper.sort()
        return upper + filters_on(link, self.snapshot.filtered)

    def _on_its_bridge(self, row: Resource) -> list[str]:
        """What others put on the bridge of an address: the two go together, or not at all."""
        if row.kind != Kind.ADDRESS:
            return []
        index = row.spec["ifindex"]
        bridges = [r for r in self.snapshot.rows if r.kind == Kind.BRIDGE]
        bridge = next((r for r in bridges if r.spec["ifindex"] == index), None)
        return self._dependents(bridge, self.presences[bridge.id]) if bridge else []

    def _item(
        self,
        row: Resource,
        action: Action,
        reason: Reason,
        seen: Presence,
        message: str,
        evidence: tuple[str, ...] = (),
    ) -> Item:
        name = self._name(row.vm)
        shown = (*seen.evidence, *evidence)
        # by position: a plan of 5,000 VMs has 30,000 of them
        return Item(
            action, reason, row.kind, row.key, name, row.id, row.state, shown, message, row.mark,
            link=seen.link,
        )  # fmt: skip


def _text(entry: Entry) -> tuple[str, str, str]:
    """What two copies of a firewall object have in common."""
    return (entry.backend, entry.place, entry.text)


def _merged(items: list[Item]) -> list[Item]:
    """One item for all entries of a mark that are judged alike (a table has many rules)."""
    merged: dict[tuple[object, ...], Item] = {}
    for item in items:
        same = (item.mark, item.reason, item.row)
        first = merged.get(same)
        if first is None or item.entry is None:
            merged[same] = item
        else:
            merged[same] = first._replace(more=(*first.more, item.entry))
    return [
        item._replace(evidence=(*item.evidence, f"and {len(item.more)} more with this mark"))
        if item.more
        else item
        for item in merged.values()
    ]


_UNENDED = "its rules are gone, and what flows by them to its VM's addresses has not all ended"
_PAST = "what was sent to its port before it was published may not all have ended, and goes past it"
_STRANGE = "recorded for an earlier life of this host, yet something of that name is there"
_PROBLEMS = {
    Reason.MARK_MISMATCH: "something is there in its place, without the recorded mark",
    Reason.MARK_STRIPPED: "a rule of its shape is there, without its mark",
    Reason.EDITED_COPY: "it carries its mark, and is not as it was taken over",
}


def mentions(words: str, subnets: list[tuple[str, str]]) -> str | None:
    """The name of the first network whose subnet an address or prefix in a rule's text touches."""
    for found in _ADDRESS.finditer(words):
        try:
            network = ipaddress.ip_network(found[1] + (found[2] or ""), strict=False)
        except ValueError:
            continue
        for cidr, name in subnets:
            subnet = ipaddress.ip_network(cidr)
            if network.version == subnet.version and network.prefixlen and network.overlaps(subnet):
                return name
    return None
