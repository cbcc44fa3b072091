"""Who lives and is on no record: as long as somebody does, nothing unrecorded goes.

Which of the unrecorded things are its own nothing tells. What cannot be looked at speaks for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hvtx.drivers.base import DeviceDriver
from hvtx.engine.effects import held_by_others
from hvtx.engine.looks import known_taps
from hvtx.host import devices, installation_processes, openfiles
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import PORTS, Link, Outcome
from hvtx.model.typed import Any
from hvtx.store import records

_FRESH = 0.5  # seconds: how old an answer may be when something is removed on it


class OffRecordLives:
    """Looks for VMs and containers of this installation that are on no record."""

    def __init__(
        self, installation: str, read: Callable[..., Any], devices: Callable[[], DeviceDriver]
    ) -> None:
        """Look at nothing yet."""
        self._installation = installation
        self._read = read
        self._devices = devices
        self._objection: Outcome | None = None
        self._looked = float("-inf")
        self._attached = False
        self._late: Outcome | None = None

    def objection(self) -> Outcome | None:
        """Why nothing unrecorded may go now, or None; looked at now and then."""
        if self._late is None and time.monotonic() - self._looked > _FRESH:
            try:
                self._objection = self._look()
            except (OSError, DumpInterrupted) as problem:
                words = f"stays: who lives could not be looked at: {problem}"
                self._objection = Outcome(False, "observe-failed", words)
            self._looked = time.monotonic()
        return self._late or self._objection

    def device_stays(self, why: Outcome) -> None:
        """A device could not be taken: whose it is may live, so that nothing goes from now on.

        But where it is known to be nobody's, and stays for what others put on it.
        """
        if why.reason != "foreign-dependents":
            self._late = why._replace(message=f"stays: {why.message}")

    def _look(self) -> Outcome | None:
        links = devices.every()  # before the record: who makes a device has put it there first
        own = self._read(records.resources_of_kind, *PORTS)
        known = known_taps(self._installation, links, own, ())
        unknown = [link for link in links if link.name not in known]
        # whom this does not show is met by attaching; one that has no device open by no other look
        holders = openfiles.tap_holders({link.name for link in unknown}).found.values()
        started = installation_processes.with_other_taps(known)
        living = [
            *self._containers(unknown),
            *started.found,
            *(f"{one.command} (pid {one.pid})" for each in holders for one in each),
        ]
        if living:
            who = ", ".join(dict.fromkeys(living))
            words = f"stays as long as a VM or container that is not on record lives: {who}"
            return Outcome(False, "in-use", words)
        if not started.complete:
            words = (
                "stays: a VM that is not on record may run, as some processes cannot be looked"
                " into; run hvtx as root"
            )
            return Outcome(False, "observe-failed", words)
        return self._unseen_holder(unknown)

    def _containers(self, unknown: list[Link]) -> list[str]:
        """The pairs of containers, in words: as long as there is one, its container lives."""
        pairs = {link.alias: link.name for link in unknown if link.kind == "veth" and link.alias}
        removed = self._read(records.tombstones, pairs) if pairs else ()
        return [f"the container of {name}" for mark, name in pairs.items() if mark not in removed]

    def _unseen_holder(self, unknown: list[Link]) -> Outcome | None:
        """A device that cannot be attached to: somebody has it whom no look at processes shows.

        He is in another pid namespace, say. Asked once: after that devices go before all else.
        """
        if self._attached:
            return None
        taps = [link for link in unknown if link.kind == "tun"]
        busy = held_by_others(self._devices(), taps)
        if busy:
            return busy[0]._replace(message=f"stays: {busy[0].message}")
        self._attached = True
        return None
