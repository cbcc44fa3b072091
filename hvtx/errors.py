"""Everything that can go wrong, as a tree; each class carries its exit code.

The exit codes are those of the interface (docs/reference.md):

====  ======================================================================
code  class
====  ======================================================================
1     :class:`HvtxError`, nothing more special fits
2     :class:`UsageError`
3     :class:`NotFound`
4     :class:`Conflict`
5     :class:`NotPermitted`
6     :class:`HostRefused`
7     :class:`StoreError`
8     :class:`StalePlan`
9     :class:`PartialFailure`
75    :class:`Busy`
====  ======================================================================
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

EXIT_DONE = 0
EXIT_PLAN_NOT_EMPTY = 2
LIFT_FILE_SIZE = (
    "`ulimit -f unlimited` lifts the limit on files' sizes in a shell, LimitFSIZE=infinity in a"
    " unit of systemd"
)


def room_hint(problem: OSError, hint: str) -> str:
    """What to do about a file that cannot be written: ``hint``, or lift the limit that was met."""
    return f"{LIFT_FILE_SIZE}; then try again" if problem.errno == errno.EFBIG else hint


class HvtxError(Exception):
    """Failed, and none of the other codes says how; ``code`` is a short stable word.

    The base of all errors that a person should read. ``default_hint`` is the hint of whoever raises
    it without one.
    """

    exit_code = 1
    code = "failed"
    default_hint = "--debug before the command shows where; `hvtx doctor` checks this host"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        """Keep ``message`` (what happened, to which thing) and ``hint`` (what to do)."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


@contextmanager
def advised(hint: str) -> Iterator[None]:
    """Give errors from inside, whose raiser does not know what was asked for, this hint."""
    try:
        yield
    except HvtxError as problem:
        problem.hint = problem.hint or hint
        raise


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Let errors from inside begin with the place of what they are about."""
    try:
        yield
    except HvtxError as problem:
        problem.message = f"{where}: {problem.message}"
        problem.args = (problem.message,)
        raise


class OutputLost(HvtxError):
    """Standard output cannot be written; it comes after the deed, which stands."""

    code = "output"

    def __init__(self, problem: OSError) -> None:
        """Take what the system said."""
        hint = "the command is done; only its output is lost"
        if problem.errno == errno.EFBIG:
            hint += f"; {LIFT_FILE_SIZE}"
        super().__init__(f"standard output cannot be written: {problem.strerror}", hint=hint)


class UsageError(HvtxError):
    """A malformed value or a wrong combination of options."""

    exit_code = 2
    code = "usage"
    default_hint = "`hvtx --help` and `hvtx COMMAND --help` show the options"


class NotFound(HvtxError):
    """No such VM, network, plan file, kernel image, process."""

    exit_code = 3
    code = "not-found"
    default_hint = "`hvtx vm ls` and `hvtx network ls` show what is on record"


class Conflict(HvtxError):
    """Well-formed, but not to be had: taken, overlapping, wrong state."""

    exit_code = 4
    code = "conflict"
    default_hint = "`hvtx vm ls`, `hvtx network ls` and `hvtx explain OBJECT` show what has it"


class NoRoom(Conflict):
    """All addresses are had."""

    code = "no-room"


class NotPermitted(HvtxError):
    """A capability is missing, or a file cannot be read."""

    exit_code = 5
    code = "not-permitted"
    default_hint = "run hvtx as root, for instance with sudo"


class HostRefused(HvtxError):
    """The kernel or a hypervisor said no; what had been done was undone."""

    exit_code = 6
    code = "host-refused"
    default_hint = "`hvtx doctor` checks this host, and the kernel's log may tell more"


class ServiceRefused(HostRefused):
    """The dnsmasq of a network did not start, or ended before it served."""


class Contended(HostRefused):
    """The host changed faster than it could be read and acted on safely."""

    code = "contended"


class StoreError(HvtxError):
    """The state store is corrupt, full, read-only or newer than this program."""

    exit_code = 7
    code = "store"
    default_hint = "look at the disk and the permissions of the state directory: `hvtx doctor`"


class CommitUnknown(StoreError):
    """A commit failed in a way that leaves open whether it happened; never undo on it."""

    code = "commit-unknown"


class StalePlan(HvtxError):
    """A saved plan no longer describes what would be done."""

    exit_code = 8
    code = "stale-plan"
    default_hint = "make a new plan: hvtx gc --plan --out FILE"


class PartialFailure(HvtxError):
    """Some items failed, the others are done."""

    exit_code = 9
    code = "partial"
    default_hint = "`hvtx gc --plan` shows what is left, and why"


class SeveralFailed(PartialFailure):
    """A verb for several things failed for some of them, each with its own error.

    Its exit code is 9 if others are done; where none is, the code that all the errors have, or 1.
    """

    def __init__(self, message: str, parts: Sequence[HvtxError], *, done: bool) -> None:
        """Take what failed, in words, the errors in their order, and whether others are done."""
        super().__init__(message, hint="see the error of each; the others are done")
        self.parts = tuple(parts)
        if not done:
            self.hint = "see the error of each"
            self.exit_code, self.code = HvtxError.exit_code, HvtxError.code
            kinds = {(part.exit_code, part.code) for part in parts}
            if len(kinds) == 1:
                self.exit_code, self.code = kinds.pop()


class Busy(HvtxError):
    """Held by another operation for longer than the lock timeout; or no etcd answers."""

    exit_code = 75
    code = "busy"
    default_hint = "try again, or wait longer: --lock-timeout SECONDS before the command"


class Refused(HvtxError):
    """A run that must not conclude anything; ``code`` is the reason of the interface."""

    default_hint = "`hvtx doctor` tells more; reading commands still work where they can"

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        """Take the refusal ``code`` (``store-rolled-back``, ``wrong-namespace`` …)."""
        super().__init__(message, hint=hint, code=code)
        self.exit_code = REFUSALS[code]


REFUSALS = {
    "store-untrusted": 7,
    "store-newer": 7,
    "store-rolled-back": 7,
    "store-cloned": 7,
    "wrong-namespace": 4,
    "cannot-observe": 5,
    "unstable-view": 6,
}
