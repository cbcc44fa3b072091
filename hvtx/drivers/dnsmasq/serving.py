"""The processes that serve networks: who they are, by what they read, and their end."""

from __future__ import annotations

import os
import time

from hvtx.host import children, logger, paths, pids, procfs, signals
from hvtx.model.resource import GONE, Outcome, Resource, identity_in, process_observed
from hvtx.model.service import service_spec
from hvtx.model.vm import Identity
from hvtx.rulesets import dnsmasq

TERM_SECONDS, KILL_SECONDS = 2.0, 5.0
_LOGGER_SECONDS, _PAUSE = 2.0, 0.005


def end(identity: Identity) -> bool:
    """End a process, which ends what it has forked; whether it is gone. Raises OSError."""
    if identity.boot_id != procfs.boot_id():
        return True
    for number, seconds in ((signals.SIGTERM, TERM_SECONDS), (signals.SIGKILL, KILL_SECONDS)):
        if not procfs.signal(identity, number) or procfs.wait_gone(identity, seconds):
            children.reap(identity.pid)
            return True
    return False


def ended(identity: Identity, what: str) -> Outcome:
    """What became of ending a process; ``what`` it is, for messages."""
    try:
        if end(identity):
            return GONE
    except OSError as problem:
        words = f"{what} cannot be ended: {problem.strerror or problem}"
        return Outcome(False, "observe-failed", words)
    words = f"{what} (pid {identity.pid}) does not end, not even by SIGKILL"
    return Outcome(False, "host-refused", words)


def serving(directory: str) -> Identity | None:
    """Who serves from a directory of ours: who has written its pid there, and reads its file.

    The directory is made by hvtx, in one that is root's alone, and is one network's.
    """
    try:
        pid = int(paths.read_regular(os.path.join(directory, dnsmasq.PID), 64))
        found = procfs.identify(pid)
        own = _file_of(pid) == os.path.join(directory, dnsmasq.CONFIGURATION)
    except (OSError, ValueError):
        return None
    return found if own else None


UNLOGGED = "who kept its log had ended: what guests have it say fills the host's own log"
_WITHOUT_DD = ("cat",)  # what a logger becomes that cannot run dd: it lets nothing through


def unlogged(row: Resource) -> str | None:
    """``UNLOGGED`` of a service that runs while its logger has ended; None if it has not.

    A dnsmasq whose pipe nobody reads says what it has to say to syslog, until it is started again.
    None, too, of one that an earlier version started, and where nobody can tell.
    """
    observed = process_observed(row)
    identity = identity_in(observed)
    if identity is None or "logger" not in observed or _keeps_log(row, observed["logger"]):
        return None
    facts = procfs.look_again(identity)  # both end where it is started again
    runs = not facts.error and not facts.ended and procfs.same(identity, facts)
    return UNLOGGED if runs else None


def _keeps_log(row: Resource, pid: int) -> bool:
    """Whether a process is the logger of a service; True where it cannot be asked."""
    path = os.path.abspath(os.path.join(service_spec(row)["directory"], dnsmasq.LOG))
    try:
        words = procfs.command_line(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    if not words:  # in the middle of an exec; or it has ended, and nobody has waited for it
        seen = procfs.look(pid)
        return bool(seen.error) or (seen.exists and not seen.ended)
    return words[3:5] == (logger.SIGNATURE, path) or words == _WITHOUT_DD


def await_logger(directory: str) -> None:
    """Wait until who keeps the log there has ended, as it does by itself; not for long."""
    own, deadline = (logger.SIGNATURE, os.path.join(directory, dnsmasq.LOG)), time.monotonic()
    deadline += _LOGGER_SECONDS
    while time.monotonic() < deadline and any(_words(pid)[3:5] == own for pid in pids.numbers()):
        time.sleep(_PAUSE)


def _words(pid: int) -> tuple[str, ...]:
    try:
        return procfs.command_line(pid)
    except OSError:
        return ()


def _file_of(pid: int) -> str:
    """The file that a dnsmasq was started with; empty of all that is none. Raises OSError."""
    words = procfs.command_line(pid)
    named = words[1].startswith("--conf-file=") if words[1:] else False
    return words[1].partition("=")[2] if named else ""


def of_installation(installation: str) -> list[tuple[Identity, str]]:
    """The dnsmasq processes of an installation whose store is lost, each with the file it reads.

    Only who looks into hvtx's own run directory for its configuration is one.
    """
    found = []
    for pid in pids.numbers():
        try:
            path = _file_of(pid)
            if path.split("/")[-4:-2] == [installation, "networks"]:
                found.append((procfs.identify(pid), path))
        except OSError:
            continue
    return found
