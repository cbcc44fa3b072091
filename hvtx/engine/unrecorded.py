"""Removing what no live row accounts for, by the mark that was seen on it."""

from __future__ import annotations

from collections import Counter

from hvtx.drivers.base import FirewallDriver
from hvtx.engine.effects import released_by, remove_seen, remove_seen_file
from hvtx.engine.off_record_lives import OffRecordLives
from hvtx.engine.processes import alive_again
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation
from hvtx.errors import HvtxError
from hvtx.host import devices, installation_processes
from hvtx.host.files import is_there
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.place import Place
from hvtx.model.plan import Item, ItemResult, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import FIREWALL_KINDS, GONE, Kind, Outcome, State
from hvtx.model.seed import directory_of, is_of_network, mark_path
from hvtx.planner.execution import result_of
from hvtx.planner.lost import own_addresses
from hvtx.store import records
from hvtx.store.history import Event

_SIGHTED = 64  # items that are removed by their own marks between two looks at the firewall

_SERVES = ItemResult(Result.SKIPPED, "it stands in the place of what its VM, which runs now, needs")
_CONTAINER_LIVES = Outcome(False, "in-use", "stays: as long as it is there, its container lives")
_WENT = ItemResult(Result.SKIPPED, "it is gone by now")  # whoever removed it has told so


class MarkedRemover:
    """Removes a copy, a leftover, a restored rule, or an unrecorded object of a plan of gc's."""

    def __init__(self, runtime: Runtime) -> None:
        """Look at nothing yet."""
        self.runtime = runtime
        self._sights: dict[str, Counter[tuple[Place, str, str | None]]] = {}
        self._asked = 0
        self._lives = OffRecordLives(runtime.installation, runtime.read, runtime.devices)

    def __call__(self, operation: Operation, item: Item) -> ItemResult:
        """Remove it, under the lock of its VM, unless it is needed by now, or gone."""
        if self._needed_now(item):
            return _SERVES
        if self._gone_already(item):
            return _WENT
        outcome = self._remove(item)
        event = Event(
            "removed" if outcome.gone else "kept",
            outcome.message or item.key,
            item.kind,
            item.key,
            item.reason.value,
            item.vm,
        )
        with self.runtime.store.transaction() as sql:
            operation.history(sql, [event])
        return result_of(outcome)

    def _remove(self, item: Item) -> Outcome:
        assert item.mark is not None
        if item.reason is Reason.UNRECORDED:
            objection = self._lives.objection()
            if objection is None and item.kind == Kind.VETH:
                objection = _CONTAINER_LIVES
            if objection is not None:
                return objection._replace(message=f"{item.key} {objection.message}")
        if item.kind == Kind.FILE:
            return self._remove_file(item, item.mark)
        if item.entry is None:
            return self._remove_device(item)
        firewall = self.runtime.firewall(item.entry.backend)
        if item.alone or item.reason is Reason.UNRECORDED:
            return _remove_each(firewall, item)
        row = self.runtime.read(records.resources_by_id, [item.row])[item.row]
        if item.reason is Reason.DUPLICATE_COPY:
            return firewall.remove_copies(row)
        outcome = released_by(firewall, [row])[row.id]
        if not outcome.gone and row.role == "base":
            # it was restored into the tables and chains of the base that is there now, which stay
            return _remove_each(firewall, item)
        return outcome

    def _remove_device(self, item: Item) -> Outcome:
        try:
            own = self._own_addresses(item)
        except (OSError, DumpInterrupted) as problem:
            words = f"the addresses of {item.key} could not be listed: {problem}"
            return Outcome(False, "observe-failed", words)
        outcome = remove_seen(self.runtime.drivers.of(item.kind), item, own)
        if not outcome.gone and item.reason is Reason.UNRECORDED and item.kind == Kind.TAP:
            self._lives.device_stays(outcome)
        return outcome

    def _own_addresses(self, item: Item) -> list[str]:
        """Those of a bridge that its network gave it; by what is there where no record tells."""
        if item.link is None or item.kind != Kind.BRIDGE:
            return []
        if item.row:
            return self.runtime.read(records.resources_by_id, [item.row])[item.row].addresses
        return own_addresses(each.address for each in devices.addresses(item.link.ifindex))

    def _remove_file(self, item: Item, mark: str) -> Outcome:
        """It goes if no process is at it, nor may be, and its mark is still not on record."""
        if self.runtime.read(records.marks_on_record, [mark]):
            return Outcome(False, "contended", f"{item.key} is on record by now")
        ended = self._end_service(item.key)
        if not ended.gone:
            return ended
        seen = installation_processes.at(directory_of(item.key))
        if seen.found:
            return Outcome(False, "in-use", f"{item.key} is in use by {', '.join(seen.found)}")
        if not seen.complete:
            words = f"may be in use: some processes cannot be looked into{seen.told_unseen}"
            return Outcome(False, "observe-failed", f"{item.key} {words}, run hvtx as root")
        outcome = remove_seen_file(self.runtime.drivers.of(item.kind), item)
        return ended if outcome.gone else outcome

    def _end_service(self, path: str) -> Outcome:
        """The dnsmasq of a network that is not on record; it serves nobody who is, and would stay.

        Where there is none it is gone.
        """
        if not is_of_network(path):
            return GONE
        return self.runtime.drivers.of("dnsmasq").end_unknown(path)

    def _gone_already(self, item: Item) -> bool:
        """Whether somebody else has removed it since; what cannot be inspected is not gone."""
        try:
            if item.entry is not None:
                surplus = item.reason is Reason.DUPLICATE_COPY
                seen = self._entries(item.entry.backend)
                return all(seen[entry.marked_key] <= surplus for entry in (item.entry, *item.more))
            if item.kind == Kind.FILE:
                return not is_there(item.key) and not is_there(mark_path(item.key))
            assert item.link is not None
            return devices.now(item.link.ifindex) is None
        except (HvtxError, OSError, DumpInterrupted):
            return False

    def _entries(self, backend: str) -> Counter[tuple[Place, str, str | None]]:
        """How many entries of each place, text and mark a firewall holds; read now and then."""
        self._asked += 1
        if backend not in self._sights or self._asked > _SIGHTED:
            seen = self.runtime.firewall(backend).observe()
            self._sights[backend] = Counter(entry.marked_key for entry in seen)
            self._asked = 1
        return self._sights[backend]

    def _needed_now(self, item: Item) -> bool:
        """Whether a restored entry of an earlier start serves its VM, which runs by now.

        The plan knows only the VM that it saw; one started meanwhile would lose its packets.
        """
        row = self.runtime.read(records.resources_by_id, [item.row]).get(item.row)
        if item.entry is None or row is None or row.state != State.RELEASED or row.vm is None:
            return False
        if not alive_again(self.runtime, {row.vm}):
            return False
        driver = self.runtime.firewall(item.entry.backend)
        seen: dict[str | None, set[tuple[Place, str]]] = {}
        for entry in driver.observe():
            seen.setdefault(entry.mark, set()).add((entry.place, entry.text))
        missing = {
            (entry.place, entry.text)
            for other in self.runtime.read(records.resources_of_vm, row.vm)
            if other.kind in FIREWALL_KINDS and other.backend == item.entry.backend
            for entry in driver.expected(other)
            if (entry.place, entry.text) not in seen.get(other.mark, ())
        }
        if item.alone:
            return any((entry.place, entry.text) in missing for entry in (item.entry, *item.more))
        # all that carries the mark would go together
        return not missing.isdisjoint(seen.get(row.mark, ()))


def _remove_each(firewall: FirewallDriver, item: Item) -> Outcome:
    """Remove the entries that were seen, each if it is still exactly that."""
    assert item.entry is not None
    # elements and rules before the tables that they stand in
    entries = sorted((item.entry, *item.more), key=lambda entry: entry.place.is_table)
    outcomes = [firewall.remove(entry) for entry in entries]
    return next((outcome for outcome in outcomes if not outcome.gone), GONE)
