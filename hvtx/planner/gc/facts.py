"""Facts of a snapshot for the rules, from indexes built once for a plan.

Nothing is decided here: a row and a snapshot go in, a case comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from hvtx.model.firewall import stands_on
from hvtx.model.plan import Snapshot, VmFacts
from hvtx.model.reason import Reason
from hvtx.model.resource import (
    DEVICES,
    FIREWALL_KINDS,
    FLOWS,
    PORTS,
    Kind,
    Link,
    Resource,
    State,
    filters_on,
    only_flows_remain,
)
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Liveness
from hvtx.planner.gc.cases import Alive, Flows, Held, Owner, RowCase, RowEpoch, Seen, Work
from hvtx.planner.presence import Presence, SnapshotIndex, index, presence

_ALIVE = {
    Liveness.ALIVE: Alive.ALIVE,
    Liveness.UNKNOWN: Alive.UNKNOWN,
    Liveness.DEAD: Alive.DEAD,
}
_LIVELIEST = (Alive.ALIVE, Alive.UNKNOWN, Alive.DEAD)
_SEEN = {True: Seen.PRESENT, False: Seen.ABSENT, None: Seen.UNREAD}
_DEVICES = frozenset(kind.value for kind in DEVICES)
_ON_DEVICES = _DEVICES | {Kind.ADDRESS.value}
# members by another name: an enum's attribute takes five times as long (Python 3.11)
_VM, _NETWORK, _NOW, _EARLIER = Owner.VM, Owner.NETWORK, RowEpoch.NOW, RowEpoch.EARLIER
_IDLE, _RUNNING, _MOVED = Work.NONE, Work.RUNNING, Work.MOVED
_NOT_HELD, _NO_FLOWS, _NOBODY = Held.NO, Flows.NONE, Alive.NOBODY
_LEASE = Kind.LEASE.value
_TAP, _VETH, _COMMITTED = Kind.TAP.value, Kind.VETH.value, State.COMMITTED.value


class Tops(NamedTuple):
    """What stands on devices: names and addresses by the index of the device below."""

    uppers: dict[int, list[str]]
    ports: dict[int, list[Link]]
    addresses: dict[int, list[str]]


def tops(snapshot: Snapshot) -> Tops:
    """Index what stands on each device."""
    found = Tops({}, {}, {})
    for link in snapshot.links:
        if link.lower:
            found.uppers.setdefault(link.lower, []).append(link.name)
        if link.master:
            found.ports.setdefault(link.master, []).append(link)
    for address in snapshot.addresses:
        if not address.by_itself:
            found.addresses.setdefault(address.ifindex, []).append(address.address)
    return found


class Facts:
    """A snapshot and its indexes."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Index the snapshot once."""
        self.snapshot = snapshot
        self.sights: SnapshotIndex = index(snapshot)
        self.presences: dict[int, Presence] = {
            row.id: presence(row, snapshot, self.sights) for row in snapshot.rows
        }
        self.by_mark = {row.mark: row for row in snapshot.rows}
        self._tops = tops(snapshot)
        running = {o.vm for o in snapshot.operations.values() if o.running and o.vm}
        self.busy_vms = {vm for vm, facts in snapshot.vms.items() if facts.name in running}
        self._taps = [row for row in snapshot.rows if row.kind in PORTS]
        self._tap_indexes = snapshot.settled.taps.union(row.ifindex for row in self._taps)
        owned = [row for row in self._taps if row.vm and row.kind == _TAP]  # what can be held
        self.held_vms = {row.vm for row in owned if self._is_open(row)}
        self._unseen_vms = {row.vm for row in owned if self._is_unseen(row)} - self.held_vms
        self._staying = self._ports_that_stay()
        self._users = self._users_of_networks(row for row in self._taps if row.vm)

    # -- a row's case --------------------------------------------------------------------------

    def seen(self, row: Resource) -> Presence:
        """What was seen of a row's object: no device survives a life, so one is somebody else's."""
        seen = self.presences[row.id]
        if seen.here and row.life != self.snapshot.life.id and row.kind in _DEVICES:
            return seen._replace(here=None, problem=Reason.MARK_MISMATCH)
        return seen

    def case(self, row: Resource, seen: Presence) -> RowCase:
        """What the rules need to know of a row."""
        # by position, and members by another name: a plan of 5,000 dead VMs asks 30,000 times
        network = row.vm is None
        return RowCase(
            _NETWORK if network else _VM,
            row.kind,
            row.state,
            _NOW if row.life == self.snapshot.life.id else _EARLIER,
            _SEEN[seen.here],
            seen.problem,
            self._work(row),
            self._liveliest_user(row) if network else self.alive(row.vm),
            _NOT_HELD if network else self._held(row, seen),
            _flows(row) if row.observed else _NO_FLOWS,
            row.kind in _ON_DEVICES and bool(self.others_on(row, seen)),
            row.kind == _LEASE and not network and self._passes(row.vm),
        )

    def _passes(self, vm: str | None) -> bool:
        """Whether the record of a VM, by its id, goes with it."""
        facts = self.facts_of(vm)
        return facts is not None and facts.passing

    def life(self, row: Resource) -> RowEpoch:
        """Whether a row was made in this life of the host."""
        return RowEpoch.NOW if row.life == self.snapshot.life.id else RowEpoch.EARLIER

    def working(self, row: Resource) -> bool:
        """Whether a live process is working on the row, or on its VM."""
        return self._work(row) is not Work.NONE

    def _work(self, row: Resource) -> Work:
        if row.id in self.snapshot.moving:  # some of what was seen is of what it is no more
            return _MOVED
        operation = self.snapshot.operations.get(row.operation)
        running = operation is not None and operation.running and row.state != _COMMITTED
        return _RUNNING if running or row.vm in self.busy_vms else _IDLE

    def alive(self, vm: str | None) -> Alive:
        """How alive a VM is, by its id."""
        facts = self.snapshot.vms.get(vm) if vm else None
        return _NOBODY if facts is None else _ALIVE[facts.liveness]

    def facts_of(self, vm: str | None) -> VmFacts | None:
        """What is on record of a VM, by its id."""
        return self.snapshot.vms.get(vm) if vm else None

    def name(self, vm: str | None) -> str | None:
        """A VM's name, by its id."""
        facts = self.facts_of(vm)
        return facts.name if facts else None

    def _held(self, row: Resource, seen: Presence) -> Held:
        if row.kind == _TAP and seen.link is not None and self.holders(row, seen):
            return Held.ITSELF
        if row.vm in self.held_vms:
            return Held.SIBLING
        if row.vm in self._unseen_vms:
            return Held.UNSEEN
        return _NOT_HELD if row.kind == _VETH else self._staying.get(row.vm, _NOT_HELD)

    def holders(self, row: Resource, seen: Presence) -> tuple[str, ...]:
        """Who has a row's TAP device open, whatever its name is by now."""
        return self.snapshot.holders.get(seen.link.name if seen.link else row.key, ())

    def _is_open(self, row: Resource) -> bool:
        """Whether some process has a row's own device open, whatever its alias says by now."""
        seen = self.presences[row.id]
        own = seen.link is not None and seen.link.ifindex == row.ifindex
        return own and bool(self.holders(row, seen))

    def _is_unseen(self, row: Resource) -> bool:
        """Whether a row's device may be there and open, and that could not be inspected."""
        seen = self.presences[row.id]
        return self.life(row) is RowEpoch.NOW and seen.here is None and seen.problem is None

    def _ports_that_stay(self) -> dict[str | None, Held]:
        """The VMs, by id, of which a container's port has to stay, and why.

        It is up, and whoever is behind it may send: with it stay its rules and its address.
        """
        found: dict[str | None, Held] = {}
        for row in self._taps:
            if row.kind == _VETH and row.vm and self.life(row) is _NOW:
                seen = self.presences[row.id]
                if seen.problem is not None:
                    found[row.vm] = Held.STRANGE_PORT
                elif seen.here is None:
                    found[row.vm] = Held.UNSEEN
                elif self.others_on(row, seen):
                    found[row.vm] = Held.USED_PORT
        return found

    # -- who uses a network --------------------------------------------------------------------

    def _users_of_networks(self, taps: Iterable[Resource]) -> dict[str, set[Alive]]:
        users = {network: {Alive.ALIVE} for network in self.snapshot.settled.networks}
        for row in taps:
            if row.network and self.life(row) is RowEpoch.NOW:
                held = row.vm in self.held_vms
                alive = Alive.ALIVE if held else self.alive(row.vm)
                # a TAP whose VM is not on record: nobody can prove that VM dead
                alive = Alive.UNKNOWN if alive is Alive.NOBODY else alive
                users.setdefault(row.network, set()).add(alive)
        return users

    def _liveliest_user(self, row: Resource) -> Alive:
        """Who would miss a row of a network, or of the installation, if it went."""
        users = self._users_of(row)
        return next((alive for alive in _LIVELIEST if alive in users), Alive.NOBODY)

    def _users_of(self, row: Resource) -> set[Alive]:
        if row.role in ("pass", "passage"):
            return set()  # nobody: what is accepted in others' chains is made anew
        if row.network is not None:
            return self._users.get(row.network, set())
        if row.kind == Kind.SYSCTL:
            return set()  # nobody: the record goes, the setting stays on
        backend = row.backend
        networks = {
            other.network
            for other in self._standing
            if other.network and other.backend == backend and stands_on(other, row)
        }
        networks |= {network for network, used in self.snapshot.settled.backends if used == backend}
        return {user for network in networks for user in self._users.get(network, ())}

    @cached_property
    def _standing(self) -> Collection[Resource]:
        """A firewall row of each sort that a network has, and not those of each of its VMs."""
        found: dict[tuple[str, object, object, bool], Resource] = {}
        for row in self.snapshot.rows:
            if row.network and row.kind in FIREWALL_KINDS:
                said = row.spec.get
                sort = (row.network, said("backend"), said("what"), bool(said("forward")))
                found.setdefault(sort, row)
        return found.values()

    # -- what others put on a device -----------------------------------------------------------

    def others_on(self, row: Resource, seen: Presence) -> list[str]:
        """What others put on a row's device; an address goes with its bridge, or not at all."""
        if row.kind != Kind.ADDRESS:
            return self.dependents(row, seen.link)
        bridge = self._bridges.get(row.ifindex)
        return self.dependents(bridge, self.presences[bridge.id].link) if bridge else []

    @cached_property
    def _bridges(self) -> Mapping[int, Resource]:
        """Rows of bridges by their index; of several the first."""
        found: dict[int, Resource] = {}
        for row in self.snapshot.rows:
            if row.kind == Kind.BRIDGE:
                found.setdefault(row.ifindex, row)
        return found

    def dependents(self, row: Resource, link: Link | None) -> list[str]:
        """What others put on a device of a row or tombstone, sorted names first."""
        if link is None:
            return []
        found = list(self._tops.uppers.get(link.ifindex, ()))
        if row.kind == Kind.BRIDGE:
            ports = self._tops.ports.get(link.ifindex, ())
            found += [port.name for port in ports if port.ifindex not in self._tap_indexes]
        own = set(row.addresses)
        found += [a for a in self._tops.addresses.get(link.ifindex, ()) if a not in own]
        found.sort()
        return found + filters_on(link, self.snapshot.filtered)


def _flows(row: Resource) -> Flows:
    if only_flows_remain(row):
        return Flows.ONLY
    return Flows.PAST if FLOWS in row.observed else Flows.NONE
