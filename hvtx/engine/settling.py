"""Find the VMs of which nothing needs judging, from the bytes of record and kernel.

Rows of theirs are not made into values, and neither are their elements; what is not settled is
(:mod:`hvtx.planner.settled` says what that takes). A VM can be taken back until the snapshot is
whole: its process may be dead, or an operation may have begun on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from hvtx.drivers.base import OwnElements
from hvtx.drivers.nftables import BACKEND
from hvtx.model.firewall import FirewallSpec
from hvtx.model.plan import Settled
from hvtx.model.resource import FIREWALL_KINDS, Entry, Link, RawResource, Resource
from hvtx.planner.settled import FIREWALL, PROCESS, TAP, Carried, just_device, settled
from hvtx.store import records

_CHUNK = 500  # VMs whose texts are read as one
_READ = FIREWALL | {TAP}  # kinds whose specs say what is to be there


class Settling:
    """VMs whose devices and elements are just as recorded."""

    def __init__(self, elements: OwnElements | None) -> None:
        """None so far; ``elements``: of our own sets, None if nothing is to be settled."""
        self._elements = elements
        self._rows: dict[str, list[RawResource]] = {}
        self._links: dict[str, dict[int, Link]] = {}
        self._by_mark: dict[str, str] = {}

    def compare(self, own: Mapping[str, list[RawResource]], sights: Carried) -> None:
        """Compare the rows of VMs (by id) with what was seen, and keep those that are as seen."""
        waiting = iter(own.items())
        while some := list(islice(waiting, _CHUNK)):
            self._compare(some, sights)

    def _compare(self, some: Sequence[tuple[str, list[RawResource]]], sights: Carried) -> None:
        read = [row for _, own in some for row in own if row[1] in _READ]
        specs = dict(
            zip(
                (row[0] for row in read),
                records.decoded_texts([row[5] for row in read]),
                strict=True,
            )
        )
        for vm, own in some:
            links = self._as_recorded(own, specs, sights)
            if links is not None:
                self._rows[vm], self._links[vm] = own, links
                self._by_mark.update((row[4], vm) for row in own)

    def _as_recorded(
        self, own: Sequence[RawResource], specs: Mapping[int, dict[str, Any]], sights: Carried
    ) -> dict[int, Link] | None:
        """A VM's TAPs by their rows if all of it is as recorded, else None."""
        links: dict[int, Link] = {}
        runs = False
        for row in own:
            kind = row[1]
            if not sights.alone(kind, row[4]):
                return None
            if kind in FIREWALL:
                spec = cast("FirewallSpec", specs[row[0]])
                if not self._are_there(spec, row[4]):
                    return None
            elif kind == TAP:
                link = just_device(row, specs[row[0]].get("ifindex") or 0, sights)
                if link is None:
                    return None
                links[row[0]] = link
            runs = runs or kind == PROCESS
        return links if runs else None

    def _are_there(self, spec: FirewallSpec, mark: str) -> bool:
        if self._elements is None or spec.get("backend") != BACKEND:
            return False
        return self._elements.are_just(spec, mark)

    # -- what is asked of them, and what is taken back ------------------------------------------

    @property
    def vms(self) -> Collection[str]:
        """By id, those that were not taken back."""
        return self._rows.keys()

    @property
    def marks(self) -> Collection[str]:
        """The marks of their rows."""
        return self._by_mark.keys()

    @property
    def taps(self) -> set[int]:
        """The indexes of their TAPs."""
        return {link.ifindex for own in self._links.values() for link in own.values()}

    def rows_of_kind(self, kind: str) -> list[Resource]:
        """Their rows of a kind."""
        return records.decoded([r for own in self._rows.values() for r in own if r[1] == kind])

    def claimed(self, rows: Iterable[Resource]) -> set[str]:
        """VMs where something of theirs stands where it belongs to another row, too."""
        return {
            self._by_mark[mark]
            for row in rows
            if row.kind in FIREWALL_KINDS and row.backend == BACKEND
            for mark in self._holders(row)
            if mark in self._by_mark
        }

    def _holders(self, row: Resource) -> Iterator[str]:
        return iter(()) if self._elements is None else self._elements.holders(row)

    def take_back(self, vms: Iterable[str]) -> tuple[list[Resource], list[Entry]]:
        """The rows and the elements of VMs that are judged row by row after all."""
        raw = [row for vm in vms for row in self._rows.pop(vm, ())]
        for vm in {row[9] for row in raw}:
            self._links.pop(vm or "", None)
        marks = {row[4] for row in raw}
        for mark in marks:
            self._by_mark.pop(mark, None)
        if self._elements is None or not raw:
            return [], []
        return records.decoded(raw), self._elements.entries(only=marks)

    def result(self) -> Settled:
        """What a plan needs of those that are left."""
        backends = {
            (row[10], BACKEND)
            for own in self._rows.values()
            for row in own
            if row[1] in FIREWALL and row[10]
        }
        links = {row: link for own in self._links.values() for row, link in own.items()}
        return settled(self._rows, links, backends)
