"""dnsmasq, one process for a network: DHCP, router advertisements and DNS on its bridge alone.

It starts as a gate, like a VM process (:mod:`hvtx.drivers.vm_process.gate`): a shell that waits for
one word, and ends if its starter does before that. So its identity is on record before it serves.
It is known by that identity (boot, pid and start), never by its pid or its name: others' dnsmasq is
not touched. One that the record does not know (an older store was put back) is the network's where
the pid in the network's directory is that of a process which reads the configuration there.

It becomes a user of its own as soon as its sockets are bound. That user may not enter hvtx's run
directory; so the process gets a mount namespace in which nothing but the way to its own files is
shown there (:mod:`hvtx.host.path_mounts`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.drivers.dnsmasq.serving import await_logger, end, ended, of_installation, serving
from hvtx.errors import HostRefused, HvtxError, ServiceRefused
from hvtx.host import (
    capabilities,
    children,
    forgotten,
    inherited_limits,
    logger,
    path_mounts,
    paths,
    procfs,
    signals,
)
from hvtx.host import dnsmasq as installed
from hvtx.host.files import is_there
from hvtx.host.vmuser import may_make_namespaces
from hvtx.model.gate import SCRIPT, SHELL, SIGNATURE
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State, identity_in, process_observed
from hvtx.model.service import service_spec
from hvtx.model.typed import Any
from hvtx.model.user import User
from hvtx.model.vm import Identity
from hvtx.rulesets import dnsmasq

_MOST = 1 << 24  # bytes of a file of ours
READY_SECONDS = 10.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class DnsmasqDriver:
    """Starts and ends networks' dnsmasq (``ServiceSpec``)."""

    kinds = frozenset({Kind.PROCESS})

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        self._host = host
        self._gates: dict[int, tuple[Identity, int]] = {}  # by row: who waits, and its pipe
        self._before: dict[int, Identity] = {}  # by row: who served, whatever is on record
        self.ended: dict[int, Identity] = {}  # of them, whom `open` has ended

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Start processes that wait for :meth:`open`; who they are."""
        return {row.id: self._create(row) for row in resources}

    def _create(self, row: Resource) -> dict[str, Any]:
        spec = service_spec(row)
        identity = identity_in(process_observed(row))
        if identity is not None and _is_alive(identity):
            raise HostRefused(f"{row.key} runs already, as pid {identity.pid}", hint="hvtx repair")
        if (before := serving(spec["directory"])) is not None:
            self._before[row.id] = before
        try:
            words, user = self._prepared(row)
            writer, pid, pipe = _spawned(words, spec["directory"])
        except OSError as problem:
            raise ServiceRefused(
                f"{row.key} cannot be started: {problem.strerror or problem}",
                hint="look at the permissions and the space of the run directory, and at the"
                " limits on processes and open files",
            ) from problem
        try:
            found = procfs.identify(pid)
        except OSError as problem:
            os.close(pipe)
            children.wait(pid)
            raise ServiceRefused(
                f"{row.key} ended before it could serve: {_words(spec['directory'])}",
                hint="look at the limits on processes and memory",
            ) from problem
        self._gates[row.id] = (found, pipe)
        return {**found._asdict(), "user": user, "logger": writer}

    def open(self, resources: Sequence[Resource]) -> None:
        """Let them serve, and wait until they do. Raises HostRefused."""
        for row in resources:
            identity, pipe = self._gates.pop(row.id)
            directory = service_spec(row)["directory"]
            path = os.path.join(directory, dnsmasq.FORGOTTEN)
            served = os.path.join(directory, dnsmasq.SERVED)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(served)
                forgotten.empty(path)
                self._make_way(row)
                with contextlib.suppress(BrokenPipeError):  # it has ended: the wait tells
                    os.write(pipe, b"go\n")
            except OSError as problem:
                raise _refused(row, f"cannot serve: {path}: {problem.strerror}") from problem
            finally:
                os.close(pipe)
            try:
                _wait_ready(row, identity)
                if _has_names(row):
                    _link(os.path.join(directory, dnsmasq.CONFIGURATION), served)
            except BaseException:
                with contextlib.suppress(OSError):
                    end(identity)
                raise

    def _make_way(self, row: Resource) -> None:
        """End who served there until now, off an older record. Raises HostRefused, OSError."""
        before = self._before.pop(row.id, None)
        if before is not None and _is_alive(before):  # who is on record has been ended by now
            if not end(before):
                words = f"cannot serve: pid {before.pid}, which served before, does not end"
                raise _refused(row, words)
            self.ended[row.id] = before

    def learns(self, row: Resource) -> bool:
        """Have it act by what is told to it by now; False where it has to be started for that.

        Names that it looks up already may be open to others by now. What it has read is asked, not
        its configuration: that is another where its successor never served. Raises HostRefused,
        Busy.
        """
        path = os.path.join(service_spec(row)["directory"], dnsmasq.SERVED)
        try:
            if paths.read_regular(path, _MOST) != self._told(row).encode():
                return False
            from hvtx.drivers.dnsmasq import names_table

            names_table.fill(self._host, row)
        except OSError:
            return False
        return True

    def _prepared(self, row: Resource) -> tuple[list[str], str]:
        """Write what it reads; its command line, and whom it becomes.

        Raises OSError, HostRefused, Busy, before anything is changed if names cannot be looked up.
        """
        spec = service_spec(row)
        directory = spec["directory"]
        program = installed.find()
        if program is None:
            raise installed.lack() or HostRefused("dnsmasq is not installed", hint=installed.HINT)
        if self._names(row) and (why := installed.fills_no_sets()) is not None:
            raise ServiceRefused(why.message, hint=why.hint)
        os.chmod(directory, 0o755)  # noqa: S103 - what is above it is closed
        for name in (dnsmasq.HOSTS, dnsmasq.NAMES):
            paths.make_directory(os.path.join(directory, name), 0o755)
        for name in (dnsmasq.PID, dnsmasq.ERRORS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        if _has_names(row):
            from hvtx.drivers.dnsmasq import names_table  # few networks have names

            names_table.fill(self._host, row)
        whom, way = _becomes(directory)
        path = os.path.join(directory, dnsmasq.CONFIGURATION)
        _write(path, self._told(row))
        gate = (SHELL, "-c", SCRIPT, SIGNATURE, program, f"--conf-file={path}")
        return [*way, *gate], whom[0] if whom is not None else str(os.geteuid())

    def _told(self, row: Resource) -> str:
        """Its whole configuration."""
        spec = service_spec(row)
        whom = _becomes(spec["directory"])[0]
        return dnsmasq.configuration(spec, row.mark, whom, self._names(row))

    def _names(self, row: Resource) -> Sequence[str]:
        """What it is told of names. Raises OSError."""
        if not _has_names(row):
            return ()
        from hvtx.drivers.dnsmasq import names_table

        return names_table.configuration(self._host.installation, row)

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """End them; who is dead, or another by now, is gone."""
        return {row.id: self._release(row) for row in resources}

    def _release(self, row: Resource) -> Outcome:
        if row.state == State.RELEASING:  # else it is started again, and its table stays
            from hvtx.drivers.dnsmasq import names_table

            try:
                names_table.drop(self._host.installation, row)
            except HvtxError as problem:
                words = f"the table of names of {row.key} stays: {problem.message}"
                return Outcome(False, "host-refused", words)
        known = identity_in(process_observed(row))
        waiting = self._gates.get(row.id)
        if waiting is not None and known not in (None, waiting[0]):
            waiting = None  # it waits to take the place of the one that is ended
        elif waiting is not None:
            os.close(self._gates.pop(row.id)[1])
        identities = {one for one in (known, waiting[0] if waiting else None) if one}
        outcomes = [ended(identity, row.key) for identity in identities]
        return next((outcome for outcome in outcomes if not outcome.gone), GONE)

    def end_unknown(self, directory: str) -> Outcome:
        """End who serves from a network's directory that is on no record; nobody is ``gone``."""
        identity = serving(directory)
        if identity is None:
            return GONE
        outcome = ended(identity, f"the dnsmasq of {directory}")
        if outcome.gone:
            await_logger(directory)  # it would be at the directory, which is to go
        words = f"{directory}: its dnsmasq, pid {identity.pid}, was ended"
        return Outcome(True, message=words) if outcome.gone else outcome


def _is_alive(identity: Identity) -> bool:
    """Whether it runs; True where that cannot be told."""
    if identity.boot_id != procfs.boot_id():
        return False
    facts = procfs.look_again(identity)
    if facts.error:
        return not facts.elsewhere
    return not facts.ended and procfs.same(identity, facts)


def _becomes(directory: str) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """Whom it becomes (user and group; None: it stays), and the words before its own."""
    found = installed.user()
    way: tuple[str, ...] = ()
    if found is not None:
        steps = path_mounts.steps(
            User(found[1], found[3]), (os.path.join(directory, dnsmasq.HOSTS),)
        )
        if steps is None or (steps and not may_make_namespaces()):
            found = None  # it could not read its own files: it stays root
        elif steps:
            way = path_mounts.way(steps)
    if found is not None:
        return (found[0], found[2]), way
    return (("root", "root") if os.geteuid() == 0 else None), way


def _has_names(row: Resource) -> bool:
    """Whether it is told of names, or was."""
    spec = service_spec(row)
    places = (os.path.join(spec["directory"], name) for name in (dnsmasq.EGRESS, dnsmasq.NAMED))
    return "names" in spec or any(map(is_there, places))


def _write(path: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(f"{path}.new", flags, 0o600), "w", encoding="ascii") as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def _link(path: str, name: str) -> None:
    """Keep a file by another name; where that cannot be, it is as if nothing had been read."""
    with contextlib.suppress(OSError):
        os.link(path, name)


def _spawned(words: Sequence[str], directory: str) -> tuple[int, int, int]:
    """The logger's pid, the gate's, and the end of its pipe that opens it. Raises OSError."""
    errors, path = (os.path.join(directory, name) for name in (dnsmasq.ERRORS, dnsmasq.LOG))
    mine: list[int] = []
    try:
        said, log = _piped(mine)
        with capabilities.only_for_children():
            writer = logger.spawn(path, said, logger.made(path), dnsmasq.LOG_HALF)
        # after the logger, which must not have an end of it: see spawn() of VM processes
        read, opens = _piped(mine)
        needs = (*installed.NEEDS, "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN")
        bounded = inherited_limits.usual_limits()
        with bounded, capabilities.only_for_children(needs), children.uninterrupted():
            pid = os.posix_spawn(
                words[0],
                list(words),
                {"PATH": _PATH, "LC_ALL": "C"},
                file_actions=[
                    *logger.closing(2),
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                    (os.POSIX_SPAWN_DUP2, read, 3),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=signals.ALL,
            )
            children.started(pid)
        inherited_limits.forget(pid)
        mine.remove(opens)
    finally:
        for one in mine:
            os.close(one)
    return writer, pid, opens


def _piped(mine: list[int]) -> tuple[int, ...]:
    """Both ends of a pipe, above what the gate is given: 0 to 2 may be closed in here. OSError."""
    low = os.pipe()
    try:
        mine.extend(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    finally:
        for end in low:
            os.close(end)
    return tuple(mine[-2:])


def _wait_ready(row: Resource, identity: Identity) -> None:
    """Wait until it has bound its sockets: then it writes its pid. Raises HostRefused."""
    directory = service_spec(row)["directory"]
    deadline, pause = time.monotonic() + READY_SECONDS, 0.001
    wanted = str(identity.pid).encode()
    path = os.path.join(directory, dnsmasq.PID)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if paths.read_regular(path, 64).strip() == wanted:
                return
        if procfs.wait_gone(identity, pause):
            children.reap(identity.pid)
            raise _refused(row, f"cannot serve: {_words(directory)}", identity.pid)
        pause = min(2 * pause, 0.02)
    words = f"did not begin to serve within {READY_SECONDS:g} s: {_words(directory)}"
    raise _refused(row, words, identity.pid)


def _refused(row: Resource, words: str, but: int = 0) -> HostRefused:
    """The error; ``but``: its own pid, where others that read its file are to be named."""
    mark = parse_mark(row.mark)
    own = os.path.join(service_spec(row)["directory"], dnsmasq.CONFIGURATION)
    known = of_installation(mark.installation) if isinstance(mark, Mark) else []
    others = [str(who.pid) for who, path in known if path == own and who.pid != but]
    if others:
        command = f"kill {' '.join(others)}"
        return ServiceRefused(
            f"{row.key} {words}; the network's own dnsmasq of before, which is not on record, is"
            f" there still: `{command}` ends it",
            hint=f"{command}; hvtx repair",
        )
    return ServiceRefused(
        f"{row.key} {words}",
        hint="`dnsmasq --version` tells if it runs, `ss -lntup` who has 53 and 67; or --no-dhcp",
    )


def _words(directory: str) -> str:
    try:
        text = paths.read_regular(os.path.join(directory, dnsmasq.ERRORS), 1 << 16).decode(
            errors="replace"
        )
    except OSError as problem:
        return problem.strerror or str(problem)
    return dnsmasq.told("".join(c if c.isprintable() or c == "\n" else " " for c in text))
