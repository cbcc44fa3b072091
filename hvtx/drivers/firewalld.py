"""Rows `passage` of firewalld: a network's bridge in its zone `hvtx`, at once and for good.

The entry of a row is what lasts, with the row's mark (:mod:`hvtx.model.firewalld_zone`); what is in
force follows from it. firewalld is never reloaded: that would drop what others have changed at run
time. So a zone that it does not know yet is only written down, and counts from its next start or
reload on. What another installation of hvtx changes at the same time is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.drivers.base import Host, not_among
from hvtx.errors import Conflict, HostRefused, HvtxError
from hvtx.host import firewalld
from hvtx.host.firewalld import Firewalld, locked
from hvtx.model.firewalld_zone import (
    BACKEND,
    ZONE,
    Zone,
    marks_in,
    stays,
    text_without,
    with_interface,
    without,
    zone_in,
)
from hvtx.model.place import Place
from hvtx.model.resource import GONE, Entry, Outcome, Resource
from hvtx.model.shell import word
from hvtx.model.typed import Any

_PLACE = Place(BACKEND, "", "zone", ZONE)


def outdated(row: Resource) -> bool:
    """Whether an earlier version made a row's objects otherwise: none has."""
    del row
    return False


class FirewalldDriver:
    """Rows with backend ``firewalld``."""

    def __init__(self, host: Host) -> None:
        """Nothing is asked yet."""
        self._seconds = host.lock_timeout

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row (pure)."""
        return (Entry(BACKEND, _PLACE, resource.bridge, resource.mark),)

    def observe(self) -> tuple[Entry, ...]:
        """All marks that the zone's file has, with their interfaces; firewalld is not asked.

        One whose interface somebody took out counts, too. Raises HostRefused where that cannot be
        read.
        """
        marks = marks_in(zone_in(firewalld.in_file() or "").description)
        return tuple(Entry(BACKEND, _PLACE, name, mark) for name, mark in marks.items())

    def lacking(self, resources: Sequence[Resource]) -> list[Resource]:
        """Those rows of which an entry is not there. Raises as :meth:`observe`."""
        return not_among(self.observe(), self.expected, resources)

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put each row's bridge into the zone; what is there with its mark stays.

        Returns ``{"elements": n}`` by row: 1 where firewalld does not know the zone yet, else 2.
        Raises Conflict (somebody else put the bridge where it is), HostRefused.
        """
        return self._bound(resources, again=False)

    def repair(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """The same of rows on record: a bridge that is in the zone without a mark gets it again.

        `firewall-cmd --runtime-to-permanent` drops the marks that are younger than the last reload,
        `--delete-zone` all. Raises as :meth:`create`.
        """
        return self._bound(resources, again=True)

    def _bound(self, resources: Sequence[Resource], *, again: bool) -> Mapping[int, dict[str, Any]]:
        daemon = _daemon()
        with locked(self._seconds):
            return {row.id: {"elements": _bind(daemon, row, again=again)} for row in resources}

    def exchange(
        self, gone: Sequence[Resource], made: Sequence[Resource]
    ) -> Mapping[int, dict[str, Any]]:
        """Release, then make: in between there is neither, and a Conflict may come after the first.

        See :class:`hvtx.drivers.base.ExchangingDriver`.
        """
        for outcome in self.release(gone).values():
            if not outcome.gone:
                raise Conflict(outcome.message, hint="hvtx doctor")
        return self.create(made) if made else {}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Take out what carries a row's mark; whoever put the bridge elsewhere keeps that.

        A bridge without a mark goes, too, if its row says that it was put there.
        """
        return {
            row.id: self._released(row.bridge, row.mark, made=bool(row.observed))
            for row in resources
        }

    def remove(self, entry: Entry) -> Outcome:
        """Take out what carries an entry's mark. Never raises."""
        return self._released(entry.text, entry.mark or "")

    def remove_copies(self, resource: Resource) -> Outcome:
        """Nothing: an interface is in one zone, once."""
        del resource
        return GONE

    def _released(self, bridge: str, mark: str, *, made: bool = False) -> Outcome:
        try:
            with locked(self._seconds):
                return _release(bridge, mark, made)
        except HvtxError as problem:
            return Outcome(False, "observe-failed", problem.message)


def _daemon() -> Firewalld:
    daemon = firewalld.running()
    if daemon is None:
        raise HostRefused(
            "firewalld does not answer on the system bus",
            hint="systemctl start firewalld; hvtx repair",
        )
    return daemon


def _bind(daemon: Firewalld, row: Resource, *, again: bool = False) -> int:
    bridge, zones = row.bridge, daemon.zones()
    now = next((zone for zone, names in zones.items() if bridge in names), "")
    lasting = daemon.lasting()
    before = Zone((), "") if lasting is None else lasting
    mark = marks_in(before.description).get(bridge)
    where = daemon.permanent_zone_of(bridge)
    if now not in ("", ZONE) or where not in ("", ZONE):
        raise _taken(bridge, now if now not in ("", ZONE) else where)
    if mark != row.mark:
        there = bridge in before.interfaces or now == ZONE
        if mark is not None or (there and not again):
            raise _taken(bridge, ZONE)
        daemon.keep(with_interface(lasting, bridge, row.mark))
    elif bridge not in before.interfaces:
        daemon.keep(with_interface(without(before, row.mark), bridge, row.mark))
    if ZONE not in zones:
        return 1
    if now != ZONE:
        daemon.bind(bridge)
    return 2


def _taken(bridge: str, zone: str) -> Conflict:
    named = word(zone)
    return Conflict(
        f"somebody else put {bridge} into firewalld's zone {zone}",
        hint=f"firewall-cmd --permanent --zone={named} --remove-interface={bridge};"
        f" firewall-cmd --zone={named} --remove-interface={bridge}; hvtx repair",
    )


def _release(bridge: str, mark: str, made: bool) -> Outcome:
    daemon = firewalld.running()
    if daemon is None:
        return _release_from_file(bridge, mark, made)
    zone = daemon.lasting()
    known = None if zone is None else marks_in(zone.description).get(bridge)
    if known is None and not made:
        return GONE
    if known not in (None, mark):
        return _another(bridge, str(known))
    if bridge in daemon.zones().get(ZONE, ()):
        daemon.unbind(bridge)
    if zone is None or (known is None and bridge not in zone.interfaces):
        return GONE
    left = without(zone, mark, bridge)
    last = not left.interfaces and not marks_in(left.description) and not stays(left)
    if not last or not daemon.forget(zone):  # the zone goes with the last, in one step
        daemon.keep(left)
    return GONE


def _release_from_file(bridge: str, mark: str, made: bool) -> Outcome:
    text = firewalld.in_file()
    if text is None:
        return GONE
    zone = zone_in(text)
    known = marks_in(zone.description).get(bridge)
    if known is None and not (made and bridge in zone.interfaces):
        return GONE
    if known not in (None, mark):
        return _another(bridge, str(known))
    firewalld.put_file(text_without(text, mark, bridge))
    return GONE


def _another(bridge: str, known: str) -> Outcome:
    words = f"{bridge} in firewalld's zone {ZONE} carries {known}"
    return Outcome(False, "mark-mismatch", words)
