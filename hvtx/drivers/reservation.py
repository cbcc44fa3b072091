"""Reservations: by a file for each interface a network's dnsmasq knows whose MAC gets what.

The file of addresses carries the mark; the one with the names stands beside it and goes with it.
Both are moved into their directories whole, since dnsmasq reads them as they appear.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.errors import Busy, HostRefused, HvtxError
from hvtx.host import forgotten, paths
from hvtx.host.files import is_there
from hvtx.model.resource import GONE, Kind, Outcome, ReservationSpec, Resource, file_spec
from hvtx.model.typed import Any
from hvtx.rulesets import dnsmasq


class ReservationDriver:
    """Makes and removes reservations (``FileSpec`` with ``reservation``)."""

    kinds = frozenset({Kind.FILE})

    def __init__(self, host: Host) -> None:
        """Everything lies below the host's run directory."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Write the files; ``{"displaces": True}`` where dnsmasq still serves another by it."""
        return {
            row.id: _write_names(row) if _is_of_names(row) else _create(row) for row in resources
        }

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove the files that carry their mark; the network's dnsmasq may know them on.

        A lock of a network that somebody keeps is waited for once, whatever the number of files.
        """
        outcomes, seconds = {}, self._host.lock_timeout
        for row in resources:
            outcome = _release(self._host, row, seconds)
            outcomes[row.id] = outcome
            if outcome.reason == Busy.code:
                seconds = 0.0
        return outcomes


def network_directory(row: Resource) -> str:
    """The directory of the network that a reservation is for."""
    return os.path.dirname(os.path.dirname(file_spec(row)["path"]))


def _names_path(path: str) -> str:
    hosts, name = os.path.split(path)
    return os.path.join(os.path.dirname(hosts), dnsmasq.NAMES, name)


def _is_of_names(row: Resource) -> bool:
    """Whether a file says what names an interface may reach, and is no reservation."""
    return os.path.basename(os.path.dirname(file_spec(row)["path"])) == dnsmasq.EGRESS


def _write_names(row: Resource) -> dict[str, Any]:
    from hvtx.model.service import names_spec  # few VMs have names
    from hvtx.rulesets import egress_names

    path, directory = file_spec(row)["path"], network_directory(row)
    try:
        paths.make_directory(os.path.dirname(path), 0o755)
        if is_there(path):
            raise FileExistsError(17, "it exists already", path)
        _write(directory, path, egress_names.file_of(names_spec(row), row.mark))
    except OSError as problem:
        raise HostRefused(
            f"the names in {path} cannot be written: {problem.strerror}",
            hint="hvtx repair makes the network's directory again; look at the run directory's"
            " space, too",
        ) from problem
    return {"displaces": True}  # dnsmasq reads it when it starts


def _create(row: Resource) -> dict[str, Any]:
    spec, path, directory = (
        file_spec(row)["reservation"],
        file_spec(row)["path"],
        network_directory(row),
    )
    try:
        for name in (dnsmasq.HOSTS, dnsmasq.NAMES):
            paths.make_directory(os.path.join(directory, name), 0o755)
        if is_there(path):
            raise FileExistsError(17, "it exists already", path)
        _write(directory, _names_path(path), dnsmasq.names(spec))
        _write(directory, path, dnsmasq.reservation(spec, row.mark))
        gone = forgotten.read(os.path.join(directory, dnsmasq.FORGOTTEN))
    except OSError as problem:
        raise HostRefused(
            f"the reservation {path} cannot be written: {problem.strerror}",
            hint="hvtx repair makes the network's directory again; look at the run directory's"
            " space, too",
        ) from problem
    stale = dnsmasq.displaces(spec, gone.splitlines()) or len(gone) > forgotten.MOST
    return {"displaces": True} if stale else {}


def _write(directory: str, path: str, text: str) -> None:
    draft = os.path.join(directory, f".{os.path.basename(path)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    data = text.encode("ascii")  # by itself: a file that encodes loads a module for it
    with os.fdopen(os.open(draft, flags, 0o644), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
    os.rename(draft, path)


@contextlib.contextmanager
def _table_lock(directory: str, seconds: float) -> Iterator[None]:
    """Nobody fills the table of names meanwhile, from files of which one is about to go."""
    if not is_there(directory):  # somebody emptied the run directory
        yield
        return
    with forgotten.locked(os.path.join(directory, dnsmasq.NAMED_LOCK), seconds):
        yield


def _close(host: Host, row: Resource) -> None:
    """Let an interface reach nothing by names any more. Raises HostRefused, NotPermitted."""
    from hvtx.host import named_sets
    from hvtx.model.service import names_spec
    from hvtx.rulesets import egress_names

    mac = names_spec(row)["mac"]
    named_sets.removed(egress_names.closed(host.installation, network_directory(row), mac))


def _release(host: Host, row: Resource, seconds: float) -> Outcome:
    path, directory, names = file_spec(row)["path"], network_directory(row), _is_of_names(row)
    beside = [os.path.join(directory, f".{os.path.basename(path)}")]
    if not names:
        beside.insert(0, _names_path(path))
    try:
        carried = dnsmasq.mark_in(_text(path))
        if carried is None and is_there(path):
            return Outcome(False, "mark-mismatch", f"{path} carries no mark")
        if carried not in (None, row.mark):
            return Outcome(False, "mark-mismatch", f"{path} does not carry the mark {row.mark}")
        if names:
            with _table_lock(directory, seconds):
                _close(host, row)
                if carried is not None:
                    os.unlink(path)
        elif carried is not None:
            with forgotten.locked(os.path.join(directory, dnsmasq.FORGOTTEN), seconds) as file:
                os.write(file, dnsmasq.forgotten(file_spec(row)["reservation"]).encode())
                os.unlink(path)
        for left in beside:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        if not names:
            _end_lease(directory, file_spec(row)["reservation"])
    except OSError as problem:
        return Outcome(False, "host-refused", f"{path} cannot be removed: {problem.strerror}")
    except Busy as problem:
        return Outcome(False, Busy.code, f"{path} cannot be removed: {problem.message}")
    except HvtxError as problem:
        return Outcome(False, "host-refused", f"what {path} opens stays open: {problem.message}")
    return GONE


def _end_lease(directory: str, spec: ReservationSpec) -> None:
    """Have the name of a guest that is gone forgotten; unsaid, it is so when its lease ends."""
    if spec["ipv4"] is None:
        return
    from hvtx.host import dhcp_release  # no start has a lease to end

    with contextlib.suppress(OSError):  # there is no service, or no bridge any more
        served = dnsmasq.server_in(_text(os.path.join(directory, dnsmasq.CONFIGURATION)))
        if served is not None:
            dhcp_release.send(*served, spec["ipv4"], spec["mac"])


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        return file.read(4096)


def mark_of(path: str) -> str | None:
    """The mark that a reservation carries; None without one. OSError if it is unreadable."""
    return dnsmasq.mark_in(_text(path))
