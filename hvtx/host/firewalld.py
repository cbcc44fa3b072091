"""firewalld as it answers on the system bus, and its file of the zone `hvtx` while it does not run.

It is asked by systemd's busctl(1), and never started by being asked. One that works in another
network namespace is none. Interfaces: firewalld.dbus(5); files: firewalld.zone(5).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import HostRefused
from hvtx.host import files, firewalld_zones, lock_holder, output, paths, program
from hvtx.host.firewalld_zones import zone_file
from hvtx.model.firewalld_zone import ZONE, Zone, described, zone_settings
from hvtx.model.json_text import loads
from hvtx.model.typed import Any, NamedTuple

_NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_SECONDS = 10
_MOST = 1 << 20  # bytes of a file
_DRAFT = ".hvtx-new"
_INVALID, _BUILTIN = "INVALID_ZONE", "BUILTIN_ZONE"


class NotAnswered(HostRefused):
    """What firewalld, or the bus, said."""


class Firewalld(NamedTuple):
    """A firewalld that runs here."""

    busctl: str

    def zones(self) -> dict[str, tuple[str, ...]]:
        """The interfaces of each zone that is in force. Raises NotAnswered."""
        active = _table(self._ask("zone", "getActiveZones"))
        known = _words(self._ask("zone", "getZones"))
        return {zone: _words(_table(active.get(zone, {})).get("interfaces", [])) for zone in known}

    def permanent_zone_of(self, interface: str) -> str:
        """The zone that an interface has in what lasts; empty for none. Raises NotAnswered."""
        return _word(self._ask("config", "getZoneOfInterface", "s", interface))

    def lasting(self) -> Zone | None:
        """The zone `hvtx` as it lasts; None where there is none. Raises NotAnswered."""
        place = self._object()
        if place is None:
            return None
        described_as = _word(self._call(place, "config.zone", "getDescription"))
        return Zone(_words(self._call(place, "config.zone", "getInterfaces")), described_as)

    def keep(self, zone: Zone) -> None:
        """Let the zone `hvtx` last so, made where it is not there. Raises NotAnswered."""
        place = self._object()
        if place is None:
            self._ask("config", "addZone2", "sa{sv}", ZONE, *_dictionary(zone_settings(zone)))
            return
        own = {"description": zone.description, "interfaces": list(zone.interfaces)}
        self._call(place, "config.zone", "update2", "a{sv}", *_dictionary(own))

    def forget(self, zone: Zone) -> bool:
        """Take the zone out of what lasts, if it is as hvtx made it. Raises NotAnswered.

        One that a package has brought is then as the package has it.
        """
        place = self._object()
        if place is None or not described(zone):
            return False
        seen = _table(self._call(place, "config.zone", "getSettings2"))
        if _given(seen) != _given(zone_settings(zone)):
            return False
        try:
            self._call(place, "config.zone", "remove")
        except NotAnswered as problem:
            if _BUILTIN not in problem.message:
                raise
            # of a package, which has it in a file of its own: that is what is left
            self._call(place, "config.zone", "loadDefaults")
        return True

    def bind(self, interface: str) -> None:
        """Put an interface into the zone `hvtx` at once. Raises NotAnswered."""
        self._ask("zone", "addInterface", "ss", ZONE, interface)

    def unbind(self, interface: str) -> None:
        """Take it out at once. Raises NotAnswered."""
        self._ask("zone", "removeInterface", "ss", ZONE, interface)

    def _object(self) -> str | None:
        """The zone's object among what lasts."""
        try:
            return _word(self._ask("config", "getZoneByName", "s", ZONE))
        except NotAnswered as problem:
            if _INVALID in problem.message:
                return None
            raise

    def _ask(self, part: str, method: str, signature: str = "", *arguments: str) -> Any:
        place = f"{_PATH}/config" if part == "config" else _PATH
        return self._call(place, part, method, signature, *arguments)

    def _call(
        self, place: str, part: str, method: str, signature: str = "", *arguments: str
    ) -> Any:
        asked = (_NAME, place, f"{_NAME}.{part}", method, *filter(None, (signature,)), *arguments)
        return _call(self.busctl, asked)


def running() -> Firewalld | None:
    """The firewalld of this network namespace; None where none answers, or to others than root."""
    busctl = program.find(("busctl",)) if os.geteuid() == 0 else None
    if busctl is None:
        return None
    try:
        pid = _call(busctl, (*_BUS, "GetConnectionUnixProcessID", "s", _NAME))
    except NotAnswered:
        return None
    return Firewalld(busctl) if type(pid) is int and _is_here(pid) else None


def _is_here(pid: int) -> bool:
    """Whether a process is in this network namespace; yes, where that may not be seen."""
    try:
        own = os.stat("/proc/thread-self/ns/net")
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), own)
    except PermissionError:  # in the sandbox of a unit, which has less than all capabilities
        return True
    except OSError:
        return False


def _call(busctl: str, asked: tuple[str, ...]) -> Any:
    """The answer's only value; None without one. Raises NotAnswered."""
    head = (busctl, "--system", "--json=short", "--auto-start=no", f"--timeout={_SECONDS}")
    try:
        done = program.capture((*head, "call", *asked), _SECONDS + 5)
    except OSError as problem:
        raise NotAnswered(f"{busctl} cannot be started: {problem.strerror}") from problem
    if not program.ended_well(done.status, shown=not done.errors):
        said = done.errors.decode(errors="replace").strip() or "no answer"
        raise NotAnswered(
            f"firewalld: {asked[3]}: {said.removeprefix('Call failed: ')}",
            hint="firewall-cmd --state; hvtx doctor",
        )
    told = done.output.decode(errors="replace").strip()
    if not told:
        return None
    try:
        return loads(told)["data"][0]
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        raise NotAnswered(
            f"firewalld: {asked[3]}: an answer that is none: {told[:80]}"
        ) from problem


def _word(answer: object) -> str:
    """A text of an answer (pure). Raises NotAnswered for another thing."""
    if not isinstance(answer, str):
        raise NotAnswered(f"firewalld: a text was asked for: {str(answer)[:80]}")
    return answer


def _words(answer: object) -> tuple[str, ...]:
    """Texts of an answer (pure). Raises NotAnswered for another thing."""
    if not isinstance(answer, list):
        raise NotAnswered(f"firewalld: a list was asked for: {str(answer)[:80]}")
    return tuple(map(_word, answer))


def _table(answer: object) -> dict[str, Any]:
    """A dictionary of an answer (pure). Raises NotAnswered for another thing."""
    if not isinstance(answer, dict):
        raise NotAnswered(f"firewalld: a dictionary was asked for: {str(answer)[:80]}")
    return answer


def _dictionary(settings: dict[str, Any]) -> list[str]:
    """``a{sv}`` in the words of busctl."""
    words = [str(len(settings))]
    for name, value in settings.items():
        words.append(name)
        if isinstance(value, bool):
            words += ["b", str(value).lower()]
        elif isinstance(value, str):
            words += ["s", value]
        else:
            words += ["as", str(len(value)), *value]
    return words


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that say something; in variants of their own where busctl shows them so."""
    plain = {
        name: value.get("data") if isinstance(value, dict) else value
        for name, value in settings.items()
    }
    return {name: value for name, value in plain.items() if value}


# -- its file --------------------------------------------------------------------------------------


def in_file() -> str | None:
    """The file of the zone `hvtx`; None where there is none. Raises NotAnswered."""
    try:
        return paths.read_regular(zone_file(), _MOST).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise NotAnswered(f"{zone_file()} cannot be read: {problem.strerror}") from problem


def put_file(text: str | None) -> None:
    """Let the file be so, whole; None: remove it. Raises NotAnswered."""
    try:
        if text is None:
            os.unlink(zone_file())
        else:
            output.write_out(
                zone_file(), text.encode(), mode=0o644, sync=True, make=False, draft=_DRAFT
            )
    except OSError as problem:
        raise NotAnswered(f"{zone_file()} cannot be written: {problem.strerror}") from problem


@contextmanager
def locked(seconds: float, root: str = "/") -> Iterator[None]:
    """While no other installation of hvtx changes the zone, of which a host has one.

    What they lock is a file of root's that nobody else can open: a lock of a file, or of a
    directory, that others may read is anybody's to take. Where firewalld has no directory, none of
    them can change anything; ``root`` is of another system, in which none runs. Raises NotAnswered
    where another one holds it for more than ``seconds``.
    """
    place = os.path.dirname(os.path.dirname(zone_file()))
    try:
        unneeded = os.path.realpath(root) != "/" or not files.is_there(place)
    except OSError as problem:
        raise NotAnswered(f"{place} cannot be looked at: {problem.strerror}") from problem
    if unneeded:
        yield
        return
    path = firewalld_zones.LOCK
    try:
        descriptor = _own_file(path)
    except OSError as problem:
        raise NotAnswered(f"{path} cannot be opened: {problem.strerror}") from problem
    try:
        _lock(descriptor, path, seconds)
        yield
    finally:
        os.close(descriptor)


def _own_file(path: str) -> int:
    """A file that is ours or root's alone, made where there is none. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        seen = os.fstat(descriptor)
        paths.need_regular(seen, path)
        paths.need_trusted(seen, descriptor, path)
        if seen.st_mode & 0o077:  # who has it open by now keeps it so
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                message, hint = lock_holder.told("firewalld's zone hvtx", lock_holder.of_file(path))
                raise NotAnswered(message, hint=hint) from None
            time.sleep(0.01)
        else:
            return
