"""Programs that have a port of this host: for messages.

Nothing is decided by it, but that a port whose program names a container is that container's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from hvtx.host import procfs
from hvtx.host.listeners import listeners
from hvtx.model.shell import word
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish

_ANY = ("0.0.0.0", "::")  # noqa: S104 - what a program listens on
_MAPPED = "::ffff:"  # an IPv4 address, in a socket of IPv6
_MOST = 4  # programs that are named
_SERVICE = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.service")  # systemd.unit(5)


class Owner(NamedTuple):
    """A program with a socket at a port; ``pid`` is 0 where it cannot be seen from here."""

    pid: int
    name: str
    user: str
    unit: str  # of systemd, "nginx.service"; empty where it is of none
    address: str
    own: bool = False  # whether init is its parent: what a unit started, and nothing else did
    words: tuple[str, ...] = ()  # its command line

    def __str__(self) -> str:
        """For people."""
        if not self.pid:
            return f"a program of user {self.user} that is not seen from here"
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.name} (pid {self.pid}, user {self.user}{unit})"


def owners(port: Publish) -> list[Owner]:
    """Who has a socket that keeps others from ``port``, by pid.

    A socket of TCP that does not listen is in no table: its program is not found.
    """
    return owners_of([port])[port]


def owners_of(ports: Iterable[Publish]) -> dict[Publish, list[Owner]]:
    """The same of several: the kernel's tables and all processes are looked through once."""
    wanted = list(ports)
    tables = {protocol: listeners(protocol) for protocol in {port.protocol for port in wanted}}
    seen = {
        port: {
            inode: (address, uid)
            for address, number, uid, inode in tables[port.protocol]
            if number == port.host_port and _meets(address, port.host_ip)
        }
        for port in wanted
    }
    inodes = {inode for found in seen.values() for inode in found}
    holding = _holding(inodes) if inodes else []
    return {port: _owners(found, holding) for port, found in seen.items()}


def _owners(seen: Mapping[int, tuple[str, int]], holding: Iterable[tuple[int, int]]) -> list[Owner]:
    """Who has these sockets, by inode; what nobody has open that is seen from here, too."""
    found: dict[int, Owner] = {}
    unseen = dict(seen)
    for pid, inode in holding:
        if inode in seen:
            unseen.pop(inode, None)
            found.setdefault(pid, _described(pid, *seen[inode]))
    more = [Owner(0, "?", _user(uid), "", address) for address, uid in unseen.values()]
    return sorted([*found.values(), *more])


def ended_by(found: Iterable[Owner]) -> list[str]:
    """The commands that end programs: their units, which may start them again, where they have one.

    What was started from a unit by something else in it (a job of cron) is ended by itself.
    """
    known = list(found)
    units = dict.fromkeys(one.unit for one in known if one.unit and one.own)
    pids = [one.pid for one in known if one.pid and one.unit not in units]
    stops = (f"systemctl stop {word(unit)}" for unit in units)  # there may be a \\ in its name
    return [*stops, *(f"kill {pid}" for pid in pids)]


def listed(found: Sequence[Owner]) -> str:
    """Their names; of many the first."""
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(map(str, found[:_MOST])) + more


def _meets(address: str, host_ip: str | None) -> bool:
    return host_ip is None or address in _ANY or address.removeprefix(_MAPPED) == host_ip


def _holding(wanted: Collection[int]) -> list[tuple[int, int]]:
    """Processes, each with an inode among ``wanted`` that it has open."""
    names = {f"socket:[{inode}]": inode for inode in wanted}
    found = []
    with suppress(OSError):
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with suppress(OSError):
                for number in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(OSError):
                        inode = names.get(os.readlink(f"/proc/{pid}/fd/{number}"))
                        if inode is not None:
                            found.append((pid, inode))
    return found


def _described(pid: int, address: str, uid: int) -> Owner:
    name, unit, own, words = "?", "", False, tuple[str, ...]()
    with suppress(OSError):
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = "".join(c if c.isprintable() else "?" for c in file.read().rstrip("\n"))
        words = procfs.command_line(pid)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            own = stat.read(4096).rpartition(b")")[2].split()[1:2] == [b"1"]
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            unit = unit_in(file.read())
    return Owner(pid, name, _user(uid), unit, address, own, words)


def unit_in(cgroups: str) -> str:
    """The unit of the system's own manager in a text of /proc/PID/cgroup; empty if none (pure).

    What stands below a unit, or anywhere but in slices of the system, is named by whoever has been
    given it: a user's own manager, a container's. Such names may hold anything but a newline.
    """
    for line in cgroups.split("\n"):
        first, *parts = line.split(":", 2)[-1].split("/")
        if first or "user.slice" in parts:
            continue
        unit = next((part for part in parts if not part.endswith(".slice")), "")
        if _SERVICE.fullmatch(unit):
            return unit
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
