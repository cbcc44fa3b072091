"""Find the VMs of which nothing needs judging, from the bytes of record and kernel.

Rows of theirs are not made into values, and neither are their elements; what is not settled is
(:mod:`hvtx.planner.settled` says what that takes). A VM can be taken back until the snapshot is
whole: its process may be dead, or an operation may have begun on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.drivers.base import OwnElements
from hvtx.model.firewall import FirewallSpec
from hvtx.model.plan import Settled
from hvtx.model.resource import FIREWALL_KINDS, Entry, Link, RawResource, Resource
from hvtx.model.typed import cast
from hvtx.planner.settled import FILE, FIREWALL, PROCESS, TAP, Carried, just_device, settled
from hvtx.rulesets.nftables_layout import BACKEND
from hvtx.store import raw_rows

_CHUNK = 3000  # rows whose texts are read as one


class Settling:
    """VMs whose devices and elements are just as recorded."""

    def __init__(self, elements: OwnElements | None) -> None:
        """None so far; ``elements``: of our own sets, None if nothing is to be settled."""
        self._elements = elements
        self._rows: dict[str, list[RawResource]] = {}
        self.links: dict[int, Link] = {}  # their TAPs by their rows
        self._by_mark: dict[str, str] = {}

    def compare(self, own: Mapping[str, list[RawResource]], sights: Carried) -> None:
        """Compare the rows of VMs (by id) with what was seen, and keep those that are as seen."""
        if self._elements is None:
            return
        rows = [row for each in own.values() for row in each]
        vms = {row[4]: row[9] or "" for row in rows}
        different = sights.elsewhere(rows)
        different |= self._changed_devices([row for row in rows if row[1] == TAP], sights)
        filtering = [row for row in rows if row[1] in FIREWALL]
        for at in range(0, len(filtering), _CHUNK):
            some = filtering[at : at + _CHUNK]
            specs = cast("list[FirewallSpec]", raw_rows.specs_of(some))
            pairs = list(zip(specs, [row[4] for row in some], strict=True))
            different.update(mark for spec, mark in pairs if spec.get("backend") != BACKEND)
            different.update(self._elements.differing(p for p in pairs if p[1] not in different))
        out = {vms[mark] for mark in different}
        runs = {row[9] for row in rows if row[1] == PROCESS}
        out |= own.keys() - runs
        self._rows = {vm: each for vm, each in own.items() if vm not in out}
        self._by_mark = {mark: vm for mark, vm in vms.items() if vm in self._rows} if out else vms
        if out:
            own_taps = {r[0] for each in self._rows.values() for r in each if r[1] == TAP}
            self.links = {row: link for row, link in self.links.items() if row in own_taps}

    def _changed_devices(self, rows: Sequence[RawResource], sights: Carried) -> set[str]:
        """The marks of TAPs that are not there as recorded; the others are kept."""
        found = set()
        for row, spec in zip(rows, raw_rows.specs_of(rows), strict=True):
            link = just_device(row, spec.get("ifindex") or 0, sights)
            if link is None:
                found.add(row[4])
            else:
                self.links[row[0]] = link
        return found

    # -- what is asked of them, and what is taken back ------------------------------------------

    @property
    def vms(self) -> Collection[str]:
        """By id, those that were not taken back."""
        return self._rows.keys()

    @property
    def marks(self) -> Collection[str]:
        """The marks of their rows."""
        return self._by_mark.keys()

    def files(self) -> list[Resource]:
        """Their rows of files."""
        return raw_rows.decoded([r for own in self._rows.values() for r in own if r[1] == FILE])

    def processes(self) -> list[Resource]:
        """Their rows of processes, with what was learnt of each and without its spec."""
        rows = [r for own in self._rows.values() for r in own if r[1] == PROCESS]
        learnt = raw_rows.observed_of(rows)
        return [
            Resource(*row[:5], {}, observed, *row[7:])
            for row, observed in zip(rows, learnt, strict=True)
        ]

    def claimed(self, rows: Iterable[Resource]) -> set[str]:
        """VMs where something of theirs stands where it belongs to another row, too."""
        if self._elements is None or not self._by_mark:  # of VMs that all died, none is left
            return set()
        return {
            self._by_mark[mark]
            for row in rows
            if row.kind in FIREWALL_KINDS and row.backend == BACKEND
            for mark in self._elements.holders(row)
            if mark in self._by_mark
        }

    def take_back(self, vms: Iterable[str]) -> tuple[list[Resource], list[Entry]]:
        """The rows and the elements of VMs that are judged row by row after all."""
        raw = [row for vm in vms for row in self._rows.pop(vm, ())]
        if self._elements is None or not raw:
            return [], []
        marks = {row[4] for row in raw}
        for row in raw:
            self._by_mark.pop(row[4], None)
            self.links.pop(row[0], None)
        return raw_rows.decoded(raw), self._elements.entries(only=marks)

    def result(self) -> Settled:
        """What a plan needs of those that are left."""
        return settled((r for own in self._rows.values() for r in own), self.links, BACKEND)
